"""The console command ``llmcdsr``: all its commands, and here those that train, measure and export."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.core import ParameterSource

import llmcdsr_lite.cli.new_items  # noqa: F401  these modules add their commands
import llmcdsr_tools.cli.data
import llmcdsr_tools.cli.generation
import llmcdsr_tools.cli.names
import llmcdsr_tools.cli.pipeline
import llmcdsr_tools.cli.search_graphs  # noqa: F401
from llmcdsr_lite.cli.commands import FilePath, cli, example, json_option
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.cli.options import (
    needs_train_extra,
    overwrite_option,
    settings_options,
    threads_option,
)
from llmcdsr_tools.pipeline.progress import member_progress, training_progress
from llmcdsr_tools.train.recipes import OFFICIAL, TrainSettings, recipe_settings

if TYPE_CHECKING:
    from llmcdsr_tools.evaluation.measures import Measured
    from llmcdsr_tools.evaluation.official import Result

best_for_option = click.option(
    "--best-for",
    metavar="DOMAIN",
    default="mean",
    show_default=True,
    help="The epoch that was best on the mean of all domains, or for one, by its name.",
)


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Folder of the run.")
@click.option(
    "--recipe",
    type=click.Choice(["best", "official"]),
    default="best",
    show_default=True,
    help="What ranks best, or the paper's; the options below replace parts of it.",
)
@settings_options(TrainSettings, recipes={"official": OFFICIAL})
@click.option(
    "--text-embeddings",
    type=FilePath,
    help=".npy matrix (items, E) that the items start from, in place of word vectors of their titles.",
)
@click.option("--names", type=FilePath, help="Embedded names: train with pseudo items recalled for them.")
@click.option("--pretrained", type=FilePath, help="File of `pretrain`, which names need.")
@click.option(
    "--start-from",
    type=FilePath,
    metavar="RUN|BUNDLE",
    help="Go on from an earlier model: sizes are its own, items are matched by domain and id, new ones start "
    "from their titles.",
)
@click.option(
    "--members",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Train so many models with seeds of their own; a bundle answers with the mean of their scores.",
)
@click.option(
    "--distill",
    is_flag=True,
    help="Train one more model on the scores of the members; the run, and its bundle, are that one.",
)
@click.option("--resume", is_flag=True, help="Go on after the last full epoch.")
@threads_option("That share the products of the loss")
@example("llmcdsr train dataset -o run --text-embeddings titles.npy --threads 2")
@needs_train_extra
def train(
    dataset: Path,
    output: Path,
    recipe: Literal["best", "official"],
    text_embeddings: Path | None,
    names: Path | None,
    pretrained: Path | None,
    start_from: Path | None,
    members: int,
    distill: bool,
    resume: bool,
    threads: int,
    **settings: Any,
) -> None:
    """Train a recommender on the data set folder DATASET.

    Ctrl-C is safe: the run keeps its last full epoch, and --resume goes on from there.
    """
    from llmcdsr_tools.run_folder import CHECKPOINT, member_runs
    from llmcdsr_tools.train import training_run
    from llmcdsr_tools.train.members import train_members
    from llmcdsr_tools.train.starting_model import SIZES, read_starting_model

    given = {k: v for k, v in settings.items() if v is not None}
    sizes = {name: given[name] for name in SIZES if name in given}
    if start_from is not None:
        if sizes:  # the defaults, too, where they are given
            read_starting_model(start_from, members=members).check_sizes(sizes)
        given.setdefault("max_length", 0)  # the model's, not the recipe's
    chosen = recipe_settings(recipe, **given)
    if members > 1 and (names or pretrained):
        raise click.UsageError("--members is for training without --names and --pretrained")
    if distill and (members == 1 or chosen.loss != "sampled-softmax"):
        raise click.UsageError("--distill needs two --members or more, and the loss sampled-softmax")
    try:
        if members == 1:
            result = training_run.train(
                dataset,
                output,
                chosen,
                text_embeddings=text_embeddings,
                names=names,
                pretrained=pretrained,
                start_from=start_from,
                resume=resume,
                threads=threads,
                observer=training_progress(),
            )
        else:
            results = train_members(
                dataset,
                output,
                chosen,
                members,
                text_embeddings=text_embeddings,
                start_from=start_from,
                resume=resume,
                threads=threads,
                observers=member_progress,
                distill=distill,
            )
            result = results[-1] if distill else max(results, key=lambda one: one.best_merit)
    except KeyboardInterrupt:
        done = any((run / CHECKPOINT).exists() for run in member_runs(output))
        kept = (
            f"{output} keeps the last full epoch, --resume goes on from there"
            if done
            else "no epoch was done, --resume begins again"
        )
        click.echo(f"\nstopped; {kept}", err=True)
        raise
    reason = "stopped early" if result.stopped_early else "all epochs done"
    measure = result.epochs[-1].merit_name
    click.echo(
        f"{reason} after {len(result.epochs)} epochs; best mean validation {measure} "
        f"{result.best_merit:.4f} at epoch {result.best_epoch}"
    )


@cli.command()
@click.argument("models", type=FilePath, nargs=-1, required=True)
@click.argument("dataset", type=FilePath)
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@click.option(
    "--positions",
    type=click.Choice(["last", "every"]),
    help="Targets: the last item of a history, or all that training has not seen.  [default: last of test, "
    "every of valid]",
)
@click.option(
    "--all-groups", is_flag=True, help="Also users with and without items of the domain, by length."
)
@click.option(
    "--official", is_flag=True, help="The official protocol: the last item among 999 drawn negatives."
)
@best_for_option
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the negatives, with --official."
)
@click.option(
    "--pseudo",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="auto: a bundle with a recall network recalls pseudo items.",
)
@json_option
@example("llmcdsr evaluate run dataset --split valid")
@needs_train_extra
def evaluate(
    models: tuple[Path, ...],
    dataset: Path,
    split: Literal["valid", "test"],
    positions: Literal["last", "every"] | None,
    all_groups: bool,
    official: bool,
    best_for: str,
    seed: int,
    pseudo: Literal["auto", "off"],
    as_json: bool,
) -> None:
    """Measure how MODELS, runs or bundles, rank the held-out items of DATASET, beside baselines.

    Of two models and more, the first is compared with each of the others, target by target.
    """
    if official:
        if len(models) > 1 or positions == "every":
            raise click.UsageError("--official is for one model and the last position")
        _evaluate_officially(models[0], dataset, split, best_for, seed, pseudo, as_json)
        return
    from llmcdsr_tools.evaluation import model_evaluation

    measured = model_evaluation.evaluate(
        models, dataset, split, positions, best_for=best_for, pseudo=pseudo == "auto"
    )
    names = tuple(dict.fromkeys(m.scorer for m in measured.measures))[: len(models)]
    _print_measured(measured, names, as_json, every_group=all_groups)


def _print_measured(
    measured: Measured, models: tuple[str, ...], as_json: bool, *, every_group: bool = False
) -> None:
    """Print measures, what the first of the models is beside the others, and beside the baselines."""
    from llmcdsr_tools.evaluation.comparison import compare, verdicts
    from llmcdsr_tools.evaluation.model_evaluation import BASELINES
    from llmcdsr_tools.evaluation.table import format_differences, format_measures, format_repeats
    from llmcdsr_tools.pipeline.measures import without_nan

    first, *others = models
    differences = [compare(measured, first, other) for other in others]
    said = verdicts(measured, first, BASELINES)
    if as_json:
        described = {
            "split": measured.split,
            "positions": measured.positions,
            "measures": [asdict(m) for m in measured.measures],
            "differences": [asdict(d) for found in differences for d in found],
            "verdicts": said,
        }
        click.echo(json.dumps(without_nan(described)))
        return
    click.echo(format_measures(measured.measures, every_group=every_group))
    click.echo(format_repeats(measured.measures))
    for other, found in zip(others, differences, strict=True):
        click.echo(f"\n{first} minus {other}\n{format_differences(found)}")
    click.echo("\n".join(said))


def _evaluate_officially(
    model: Path,
    dataset: Path,
    split: Literal["valid", "test"],
    best_for: str,
    seed: int,
    pseudo: Literal["auto", "off"],
    as_json: bool,
) -> None:
    from llmcdsr_tools.data.dataset_folder import load_dataset
    from llmcdsr_tools.evaluation import official

    data = load_dataset(dataset)
    backend, item_embedding = official.open_model(model, data, best_for, folder=dataset)
    answers = official.open_answers(model, pseudo=pseudo == "auto")
    results = official.evaluate(backend, item_embedding, data, split=split, seed=seed, answers=answers)
    _print_results(results, split, seed, as_json)


@cli.command()
@click.argument("source", metavar="RUN|BUNDLE", type=FilePath)
@click.option("-o", "--output", type=FilePath, help="Bundle folder to write, of a run.")
@click.option(
    "--standalone",
    type=FilePath,
    metavar="FILE",
    help="Write the bundle as one ONNX graph, too: rows of a history in, ranked rows out. Of a bundle, "
    "nothing but this.",
)
@click.option("--dataset", type=FilePath, help="The run's data set, if it has moved.")
@best_for_option
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of what is drawn to learn the mix."
)
@click.option("--pretrained", type=FilePath, help="File of `pretrain`: the bundle gets a recall network.")
@click.option(
    "--text-embeddings",
    type=FilePath,
    help="Matrix of `embed`: the bundle can take new items. With --pretrained the one that it was made with.",
)
@click.option(
    "--item-names", type=FilePath, help="File of `embed-names --for items`; needs --pretrained, too."
)
@overwrite_option
@json_option
@example("llmcdsr export run --text-embeddings titles.npy -o bundle")
@needs_train_extra
def export(
    source: Path,
    output: Path | None,
    standalone: Path | None,
    dataset: Path | None,
    best_for: str,
    seed: int,
    pretrained: Path | None,
    text_embeddings: Path | None,
    item_names: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the bundle of a training RUN, and its metrics on the test users; or the graph of a BUNDLE.

    With --text-embeddings it can take new items; with --pretrained, too, pseudo items are experts of its mix.
    """
    from llmcdsr_lite.bundle.folder import CONFIG
    from llmcdsr_tools.export import bundle_export
    from llmcdsr_tools.export.standalone import check_output, export_standalone

    if standalone is not None:
        check_output(standalone, overwrite=overwrite)
    if (source / CONFIG).exists():
        if standalone is None:
            raise click.UsageError(f"{source} is a bundle already; name its graph: --standalone FILE")
        _refuse_options_of_runs(source)
        export_standalone(source, standalone, overwrite=overwrite)
        return
    if not source.exists() and (output or standalone):
        raise DataError(f"{source}: no such folder, expected a training run or a bundle")
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output', which a run needs.")
    measured = bundle_export.export(
        source,
        output,
        dataset=dataset,
        best_for=best_for,
        seed=seed,
        overwrite=overwrite,
        pretrained=pretrained,
        text_embeddings=text_embeddings,
        item_names=item_names,
    )
    if standalone is not None:
        export_standalone(output, standalone, overwrite=overwrite)
    _print_measured(measured, ("model",), as_json)
    if measured.positions == "every":  # the split is by time
        again = f"llmcdsr refit {output} {source} -o BUNDLE"
        click.echo(f"note: the newest interactions were held out; to train on them, too: {again}", err=True)


@cli.command()
@click.argument("bundle", type=FilePath)
@click.argument("run", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Bundle folder to write.")
@click.option("--dataset", type=FilePath, help="The run's data set, if it has moved.")
@click.option("--work", type=FilePath, help="Folder for the new training.  [default: refit in RUN]")
@click.option("--text-embeddings", type=FilePath, help="The matrix that the items of RUN started from.")
@click.option("--start-from", type=FilePath, metavar="RUN|BUNDLE", help="The model that RUN started from.")
@threads_option("That share the products of the loss")
@overwrite_option
@example("llmcdsr refit bundle run -o bundle-all --text-embeddings titles.npy --threads 2")
@needs_train_extra
def refit(bundle: Path, run: Path, output: Path, **options: Any) -> None:
    """Train RUN again on all histories, those of validation and test included, for production.

    Settings, epochs and mix are those that validation chose for BUNDLE, which `export` made of RUN. An
    interrupted call goes on when it is given again.
    """
    from llmcdsr_tools import refitting

    refitting.refit(bundle, run, output, observers=member_progress, **options)


def _refuse_options_of_runs(bundle: Path) -> None:
    """Refuse options of `export` that do nothing where a bundle is given."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) == ParameterSource.COMMANDLINE
        if given and parameter.name not in ("source", "standalone", "overwrite"):
            raise click.UsageError(f"{parameter.opts[-1]} is for a run; {bundle} is a bundle")


def _print_results(results: list[Result], split: str, seed: int, as_json: bool) -> None:
    from llmcdsr_tools.evaluation.official import CUTOFFS, format_results

    if as_json:
        described = [{**asdict(r), "hr": _json_numbers(r.hr), "ndcg": _json_numbers(r.ndcg)} for r in results]
        click.echo(json.dumps({"split": split, "seed": seed, "cutoffs": CUTOFFS, "results": described}))
    else:
        click.echo(format_results(results))


def _json_numbers(values: Sequence[float]) -> list[float | None]:
    """JSON knows no nan, which a measure of no users is."""
    return [None if math.isnan(value) else value for value in values]


def main() -> None:
    """Run the command line."""
    cli()
