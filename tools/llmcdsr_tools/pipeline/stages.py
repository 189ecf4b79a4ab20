"""The stages of `fit`, each with its key, its output and the function that makes it.

ingest, embed, names, embed-names, pretrain, train, export, evaluate, refit, report. Without a generator,
names and embed-names are left out; pretrain is, too, unless items start from it or the bundle carries the
recall network, which it cannot where there is one domain, or one that has nothing to train or validate on;
refit is unless it is asked for, or the split is by time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmcdsr_lite.errors import DataError, GenerationError, TrainingError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.text.encoder_object import open_encoder
from llmcdsr_tools.data.dataset import Dataset, content_hash
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.data.ingestion import ingest
from llmcdsr_tools.data.official import is_official
from llmcdsr_tools.data.sources import list_files
from llmcdsr_tools.embed import embed
from llmcdsr_tools.embed_names import embed_names
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.generate.generate_settings import ServerSettings
from llmcdsr_tools.generate.generation import generate
from llmcdsr_tools.generate.outcome import format_yield
from llmcdsr_tools.names import read_names, write_names
from llmcdsr_tools.neighbours import neighbours
from llmcdsr_tools.pipeline.fit_config import FitConfig
from llmcdsr_tools.pipeline.measures import measure, write_measures
from llmcdsr_tools.pipeline.observer import FitObserver, StageOutcome
from llmcdsr_tools.pipeline.report import ReportSources, write_report
from llmcdsr_tools.pipeline.stage_cache import Stage, stage_folder, stage_key
from llmcdsr_tools.pretrain.domain_data import check_domain
from llmcdsr_tools.pretrain.pretraining import pretrain
from llmcdsr_tools.refitting import refit
from llmcdsr_tools.train.members import train_members
from llmcdsr_tools.train.training_run import train
from llmcdsr_tools.word_vectors import word_vectors

YIELD = "yield.txt"  # beside the names of a language model: what became of its answers


def plan(config: FitConfig, observer: FitObserver, outcomes: list[StageOutcome]) -> Iterator[Stage]:
    """The stages that a configuration asks for, in order; each must be complete before the next is asked for.

    Parameters
    ----------
    config : FitConfig
    observer : FitObserver
    outcomes : list of StageOutcome
        What the report says of the stages before it; may be filled while the stages run.
    """
    return _Plan(config, observer, outcomes).stages()


class _Plan:
    """Makes the stages, each from those that it builds on."""

    def __init__(self, config: FitConfig, observer: FitObserver, outcomes: list[StageOutcome]) -> None:
        self.config = config
        self.observer = observer
        self.outcomes = outcomes

    def stages(self) -> Iterator[Stage]:
        ingested = self._ingest()
        yield ingested
        data = load_dataset(ingested.output)
        several = len(data.catalogue.domains) > 1
        embedded = self._embed(ingested)
        yield embedded
        done = [ingested, embedded]
        names = pretrained = None
        if self.config.names.generator != "none":
            if not several:
                raise DataError(
                    f"{self.config.source} [names]: names are of a domain that a user lacks, but there is "
                    "one domain alone; set generator = 'none'"
                )
            written = self._names(ingested)
            yield written
            names = self._embed_names(ingested, embedded, written)
            yield names
            done += [written, names]
        recalls = self.config.export.recall and several and self._can_recall(data)
        if names or self.config.train.pretrained_items or recalls:
            pretrained = self._pretrain(ingested, embedded)
            yield pretrained
            done.append(pretrained)
        used = pretrained if names or self.config.train.pretrained_items else None
        trained = self._train(ingested, embedded, names, used)
        yield trained
        refits = self.config.refits(data)
        final = not refits  # the bundle that is wanted is the last one
        exported = self._export(ingested, trained, embedded, pretrained if recalls else None, final=final)
        yield exported
        evaluated = self._evaluate(ingested, exported)
        yield evaluated
        done += [trained, exported, evaluated]
        if refits:
            refitted = self._refit(ingested, trained, exported, embedded)
            yield refitted
            done.append(refitted)
        yield self._report(done)

    def _can_recall(self, data: Dataset) -> bool:
        """Check that every domain can be pre-trained, and tell the observer of one that cannot."""
        try:
            for domain in data.catalogue.domains:
                check_domain(data, domain)
        except TrainingError as error:
            self.observer.warning(f"the bundle gets no recall network: {error}")
            return False
        return True

    def _stage(
        self,
        name: str,
        output: str | Path,
        run: Callable[[Path], None],
        settings: Any,
        after: list[Stage],
        files: Mapping[str, Path | None] | None = None,
        appears_whole: bool = True,
    ) -> Stage:
        key = stage_key(name, settings, files or {}, after)
        folder = stage_folder(self.config.work, name, key)
        path = folder / output
        return Stage(name, key, folder, path, lambda: run(path), appears_whole, tuple(after))

    def _ingest(self) -> Stage:
        source, settings = self.config.data, self.config.ingest
        if isinstance(source, Dataset):
            data = source  # a name of its own: what is closed over keeps its type
            return self._stage("ingest", "dataset", data.save, content_hash(data), [])
        table = source

        def run(output: Path) -> None:
            ingest(table.source, output, items=table.items, settings=settings)

        parts = [table.source] if is_official(table.source) else list_files(table.source)
        files = {"items": table.items, **{f"source {n}": part for n, part in enumerate(parts)}}
        return self._stage("ingest", "dataset", run, asdict(settings), [], files)

    def _embed(self, ingested: Stage) -> Stage:
        c = self.config.embed
        encoder = self.config.encoder or c.encoder
        if encoder is None:

            def run(output: Path) -> None:
                word_vectors(ingested.output, output, dimension=c.dimension)

            return self._stage("embed", "titles.npy", run, {"dimension": c.dimension}, [ingested])

        def encode(output: Path) -> None:
            embed(
                ingested.output,
                encoder,
                output,
                threads=self.config.threads,
                batch_size=c.batch_size,
                prompt=c.prompt,
                max_length=c.max_length,
                progress=self.observer.progress,
            )

        settings = {"prompt": c.prompt, "max_length": c.max_length, "batch_size": c.batch_size}
        if isinstance(encoder, Path):
            return self._stage("embed", "titles.npy", encode, settings, [ingested], {"encoder": encoder})
        settings["encoder"] = open_encoder(encoder).fingerprint()
        return self._stage("embed", "titles.npy", encode, settings, [ingested])

    def _names(self, ingested: Stage) -> Stage:
        c = self.config.names
        if self.config.server is not None:
            return self._language_model(ingested, self.config.server)
        if c.file is not None:
            content = c.file

            def copy(output: Path) -> None:
                write_names(output, read_names(content))

            return self._stage("names", "names.jsonl", copy, {}, [ingested], {"file": content})

        def run(output: Path) -> None:
            neighbours(
                ingested.output,
                output,
                n_neighbors=c.n_neighbors,
                n_names=c.n_names,
                overwrite=True,
                progress=self.observer.progress,
            )

        settings = {"generator": c.generator, "n_neighbors": c.n_neighbors, "n_names": c.n_names}
        return self._stage("names", "names.jsonl", run, settings, [ingested])

    def _language_model(self, ingested: Stage, server: ServerSettings) -> Stage:
        c, settings = self.config.names, self.config.generate

        def run(output: Path) -> None:
            result = generate(
                ingested.output,
                output,
                server,
                settings,
                prompts=c.prompts,
                limit=c.limit,
                progress=self.observer.progress,
            )
            with atomic_file(output.with_name(YIELD)) as temporary:
                temporary.write_text(format_yield(result.parsed) + "\n", encoding="utf-8")
            if result.failures and not c.allow_failures:
                raise GenerationError(
                    f"{len(result.failures)} of {result.n_wanted} users have no answer, the first "
                    f"{result.failures[0].user!r}: {result.failures[0].reason}. Give the same command again "
                    "to ask again, or set allow_failures = true in [names]"
                )

        # not where the server is, how fast it is asked and how patiently: no answer depends on it
        decides = ("model", "endpoint", "temperature", "frequency_penalty", "max_tokens")
        described = {
            "generator": c.generator,
            "limit": c.limit,
            "allow_failures": c.allow_failures,
            "prompt": asdict(settings.prompt),
            "output_format": settings.output_format,
            **{name: getattr(server, name) for name in decides},
        }
        files = {"prompts": c.prompts}
        return self._stage("names", "names.jsonl", run, described, [ingested], files, appears_whole=False)

    def _embed_names(self, ingested: Stage, embedded: Stage, names: Stage) -> Stage:
        encoder = self.config.encoder or self.config.embed.encoder

        def run(output: Path) -> None:
            embed_names(
                names.output,
                ingested.output,
                output,
                encoder=encoder,
                titles=embedded.output,
                threads=self.config.threads,
                overwrite=True,
                progress=self.observer.progress,
            )

        return self._stage("embed-names", "names.npz", run, {}, [ingested, embedded, names])

    def _pretrain(self, ingested: Stage, embedded: Stage) -> Stage:
        c = self.config

        def run(output: Path) -> None:
            pretrain(
                ingested.output,
                embedded.output,
                output,
                c.pretrain,
                threads=c.threads,
                observer=self.observer.pretraining,
            )

        return self._stage("pretrain", "pretrained.npz", run, asdict(c.pretrain), [ingested, embedded])

    def _train(
        self, ingested: Stage, embedded: Stage, names: Stage | None, pretrained: Stage | None
    ) -> Stage:
        c = self.config

        def run_members(output: Path) -> None:
            text = embedded.output if c.text_initialization else None
            train_members(
                ingested.output,
                output,
                c.train,
                c.members,
                text_embeddings=text,
                start_from=c.start_from,
                resume=True,
                threads=c.threads,
                observers=self.observer.members,
                distill=c.distill,
            )

        def run(output: Path) -> None:
            train(
                ingested.output,
                output,
                c.train,
                text_embeddings=embedded.output if c.text_initialization else None,
                names=names.output if names else None,
                pretrained=pretrained.output if pretrained else None,
                start_from=c.start_from,
                resume=True,
                threads=c.threads,
                observer=self.observer.training,
            )

        beside = {name: getattr(c, name) for name in ("text_initialization", "members", "distill")}
        settings = {**asdict(c.train), **beside}
        text = embedded if c.text_initialization else None
        after = [ingested, *(stage for stage in (text, names, pretrained) if stage is not None)]
        job = run if c.members == 1 else run_members
        files = {"start_from": c.start_from}
        return self._stage("train", "run", job, settings, after, files, appears_whole=False)

    def _evaluate(self, ingested: Stage, exported: Stage) -> Stage:
        def run(output: Path) -> None:
            write_measures(output, measure(exported.output, ingested.output))

        return self._stage("evaluate", "measures.json", run, {}, [ingested, exported])

    def _export(
        self, ingested: Stage, trained: Stage, embedded: Stage, recall: Stage | None, *, final: bool
    ) -> Stage:
        seed, best_for = self.config.export.seed, self.config.export.best_for
        pretrained = None if recall is None else recall.output

        def run(output: Path) -> None:
            export(
                trained.output,
                output,
                dataset=ingested.output,
                best_for=best_for,
                seed=seed,
                overwrite=True,
                pretrained=pretrained,
                text_embeddings=embedded.output,
            )

        settings = {"seed": seed, "best_for": best_for}
        after = [ingested, trained, embedded, *([] if recall is None else [recall])]
        bundle = self.config.bundle if final else None
        return self._stage("export", bundle or "bundle", run, settings, after)

    def _refit(self, ingested: Stage, trained: Stage, exported: Stage, embedded: Stage) -> Stage:
        c = self.config

        def run(output: Path) -> None:
            refit(
                exported.output,
                trained.output,
                output,
                dataset=ingested.output,
                work=stage_folder(c.work, "refit", stage.key) / "run",
                text_embeddings=embedded.output if c.text_initialization else None,
                start_from=c.start_from,
                overwrite=True,
                threads=c.threads,
                observers=self.observer.members,
            )

        after = [ingested, trained, exported, *([embedded] if c.text_initialization else [])]
        files = {"start_from": c.start_from}
        stage = self._stage("refit", c.bundle or "bundle", run, {}, after, files)
        return stage

    def _report(self, stages: list[Stage]) -> Stage:
        by_name = {stage.name: stage.output for stage in stages}
        names = by_name.get("names")
        sources = ReportSources(
            config=self.config,
            dataset=by_name["ingest"],
            run=by_name["train"],
            measures=by_name["evaluate"],
            bundle=by_name.get("refit", by_name["export"]),
            names=names,
            generation=names and names.with_name(YIELD),
            embedded_names=by_name.get("embed-names"),
            pretrained=by_name.get("pretrain"),
        )

        def run(output: Path) -> None:
            times = [(o.name, o.seconds) for o in self.outcomes]
            write_report(sources, times, output)

        return self._stage(
            "report", self.config.report or "report.html", run, {"config": self.config.text}, stages
        )
