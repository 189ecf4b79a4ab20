"""The report of `fit`: one HTML file that needs nothing from elsewhere, no script, font or image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

import numpy as np

from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.version import __version__
from llmcdsr_tools.charts import STYLE, Line, line_chart
from llmcdsr_tools.checkpoint import load_poolers
from llmcdsr_tools.data.dataset import Dataset, Positions
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.data.dataset_summary import format_summary
from llmcdsr_tools.embed_names import load_embedded_names
from llmcdsr_tools.evaluation.measures import GROUPS, Measure
from llmcdsr_tools.evaluation.table import format_repeats
from llmcdsr_tools.export.model_card import card_title
from llmcdsr_tools.names import read_names
from llmcdsr_tools.pipeline.config_file import FitConfig
from llmcdsr_tools.pipeline.measures import read_measures
from llmcdsr_tools.pipeline.recall_examples import Example, Yield, generation_yield, recall_examples
from llmcdsr_tools.pretrain.pretraining import Pretrained, load_pretrained
from llmcdsr_tools.run_folder import REFITTED, best_model, member_runs, read_metrics

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{head}
</head>
<body>
{body}
</body>
</html>
"""
_CRITERIA = {
    "ndcg": "Ranked in the whole domain, at every position of the validation histories",
    "sampled-hr": "The last item of each validation history among 999 negatives",
}
_LONGEST_HISTORY = 12  # titles of an example that are shown


@dataclass(frozen=True)
class ReportSources:
    """Where the report finds what it tells of; what is None was not made."""

    config: FitConfig
    dataset: Path
    run: Path
    measures: Path
    bundle: Path
    names: Path | None = None
    generation: Path | None = None
    embedded_names: Path | None = None
    pretrained: Path | None = None


_TARGETS: dict[Positions, str] = {
    "last": "The last item of each held-out user",
    "every": "Every item that came after the moment of the split",
}


def write_report(sources: ReportSources, times: Sequence[tuple[str, float]], output: Path) -> None:
    """Write the report.

    Parameters
    ----------
    sources : ReportSources
    times : sequence of (str, float)
        Name of each stage, and the seconds of the call that completed it.
    output : Path
        Written atomically.

    Raises
    ------
    DataError, TrainingError
        If an output of a stage cannot be read.
    """
    data = load_dataset(sources.dataset)
    title = card_title(data.catalogue)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="note">Made by <code>{escape(sources.config.source)}</code>, '
        f"llmcdsr_lite {escape(__version__)}.</p>",
        *_measure_parts(sources, data.test_positions),
        *_training_parts(sources, data),
        *_recall_parts(sources, data),
        "<h2>Data</h2>",
        f"<pre>{escape(format_summary(data))}</pre>",
        "<h2>Stages</h2>",
        _table(("stage", "seconds"), [(name, f"{seconds:,.1f}") for name, seconds in times]),
        '<p class="note">Of the call that completed the stage, which may be an earlier one.</p>',
        "<h2>Configuration</h2>",
        f"<pre>{escape(sources.config.text)}</pre>",
    ]
    head = f"<title>{escape(title)}</title>\n<style>\n{_style()}</style>"
    page = _PAGE.format(head=head, body="\n".join(body))
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")


def _style() -> str:
    return files("llmcdsr_tools.pipeline").joinpath("report.css").read_text(encoding="utf-8") + STYLE


def _measure_parts(sources: ReportSources, positions: Positions) -> Iterable[str]:
    measures = read_measures(sources.measures)
    yield "<h2>How well it ranks: test users</h2>"
    yield _measure_table([m for m in measures.test if m.group in GROUPS])
    yield "".join(f"<p>{escape(said)}.</p>" for said in measures.verdicts)
    yield (
        f'<p class="note">{escape(format_repeats(measures.test))}. {_TARGETS[positions]} is '
        "ranked in its whole domain; ties count against a scorer. HR@10/999: expected among 999 negatives of "
        "the domain. Unseen: with the items of the history left out, those that are targets out of reach. "
        "Cold: every item of the target's domain taken out of the history, kept where three items or more "
        "remain.</p>"
    )
    bundle = read_bundle(sources.bundle)
    if REFITTED in bundle.training:
        found = bundle.training[REFITTED]
        yield (
            f"<p>The bundle's model was then trained again on all {found['histories']:,} histories, those of "
            "validation and test included. The figures are those of the model before.</p>"
        )
    yield "<h3>The mix, learned on validation</h3>"
    yield _mix_table(bundle)
    yield "<h3>By kind of user and length of history</h3>"
    yield _measure_table([m for m in measures.test if m.scorer == "model" and m.group not in GROUPS])
    yield "<h3>Validation users, every position, on whom the epoch and the mix were chosen</h3>"
    yield _measure_table([m for m in measures.valid if m.group in GROUPS])


def _training_parts(sources: ReportSources, data: Dataset) -> Iterable[str]:
    epochs = read_metrics(member_runs(sources.run)[0])
    best = max(epochs, key=lambda e: e.merit).epoch if epochs else None
    yield "<h2>Training</h2>"
    yield '<div class="charts">'
    yield line_chart("training loss", [Line("loss", [e.loss for e in epochs])], mark=best)
    yield line_chart(
        f"validation {epochs[-1].merit_name}",
        [Line(d.name, [e.merits[i] for e in epochs]) for i, d in enumerate(data.catalogue.domains)],
        mark=best,
    )
    yield "</div>"
    seconds = sum(e.seconds for e in epochs) / max(1, len(epochs))
    yield (
        f'<p class="note">{len(epochs)} epochs of {seconds:.1f} s; dashed: the best mean of all domains. '
        f"{_CRITERIA[epochs[-1].criterion]}.</p>"
    )


def _recall_parts(sources: ReportSources, data: Dataset) -> Iterable[str]:
    if sources.pretrained is None:
        return
    pretrained = load_pretrained(sources.pretrained, data)
    yield "<h2>Pre-training</h2>"
    yield from _pretraining_charts(pretrained)
    if sources.names is None or sources.embedded_names is None:
        return
    names = read_names(sources.names)
    yield "<h2>Generated names</h2>"
    yield _yield_table(generation_yield(data, names))
    if sources.generation is not None and sources.generation.exists():  # of a language model
        yield f"<pre>{escape(sources.generation.read_text(encoding='utf-8'))}</pre>"
    poolers = load_poolers(best_model(member_runs(sources.run)[0], sources.config.export.best_for))
    if poolers is None:
        poolers = np.zeros((len(pretrained.items), pretrained.hidden), dtype=np.float32)
    embedded = load_embedded_names(sources.embedded_names, data)
    yield "<h2>From history to pseudo items</h2>"
    yield (
        '<p class="note">Users drawn at random. A name\'s share is its weight in the pooling; a pseudo '
        "item's number is its cosine to the pooled names.</p>"
    )
    for example in recall_examples(data, names, embedded, pretrained, poolers):
        yield _example(example)


def _pretraining_charts(pretrained: Pretrained) -> Iterable[str]:
    domains = pretrained.description["domains"]
    for key, title in (
        ("hr10", "validation HR@10 within the domain"),
        ("contrastive", "contrastive loss"),
        ("title_rank", "median rank of an item by its title"),
    ):
        lines = [Line(d["name"], [e[key] for e in d["epochs"]]) for d in domains]
        yield ('<div class="charts">' if key == "hr10" else "") + line_chart(title, lines)
    yield "</div>"
    for domain in domains:
        kept = domain["epochs"][domain["best_epoch"] - 1]
        yield (
            f'<p class="note">{escape(domain["name"])}: epoch {kept["epoch"]} of {len(domain["epochs"])} is '
            f"kept; there a title finds its item at median rank {kept['title_rank']:g}, within the first ten "
            f"for {kept['title_recall10']:.1%}.</p>"
        )


def _measure_table(measures: Sequence[Measure]) -> str:
    heads = ["target", "users", "scorer", "n", "HR@10", "NDCG@10", "±", "MRR", "HR@10/999", "unseen NDCG@10"]
    heads += ["coverage", "popularity"]
    rows = []
    for m in measures:
        if m.group == "cold" and not m.n_targets:
            continue
        numbers = (m.hr10, m.ndcg10, m.ndcg10_error, m.mrr, m.expected_hr10, m.ndcg10_unseen)
        rows.append(
            (
                m.domain,
                m.group,
                m.scorer,
                f"{m.n_targets:,}",
                *map(_share, (*numbers, m.coverage, m.popularity)),
            )
        )
    return _table(heads, rows, n_words=3)


def _mix_table(bundle: Bundle) -> str:
    heads = (
        "target",
        "users",
        "mix",
        "n",
        "NDCG@10 of the model",
        "of the mix",
        "gain",
        "its standard error",
    )
    rows = []
    kinds = {"warm": "with items of it", "cold": "without", "named": "without, names given"}
    for domain, mix in zip(bundle.catalogue.domains, bundle.mix, strict=True):
        for kind, users in kinds.items():
            found = mix.validation.get(kind)
            if found is not None:
                names = ("ndcg10_model", "ndcg10", "gain", "standard_error")
                weights = str(getattr(mix, kind))
                said = f"{weights}, by {mix.source}" if kind == "cold" and mix.cold.recalls else weights
                rows.append(
                    (domain.name, users, said, f"{found['n_users']:,}", *(_share(found[n]) for n in names))
                )
    note = (
        "Validation users, every position; an expert is weighed only if its gain is well above its standard "
        "error. Pseudo items are the experts 'similar' and 'inserted'."
    )
    return _table(heads, rows, n_words=3) + f'<p class="note">{note}</p>'


def _yield_table(counted: Sequence[Yield]) -> str:
    heads = (
        "names of",
        "generator",
        "users",
        "with names",
        "share",
        "names a user",
        "distinct",
        "are titles",
    )
    rows = [
        (
            y.domain,
            ", ".join(y.generators) or "none",
            f"{y.n_users:,}",
            f"{y.n_with_names:,}",
            f"{y.n_with_names / y.n_users:.1%}" if y.n_users else "",
            f"{y.n_names / y.n_with_names:.1f}" if y.n_with_names else "",
            f"{y.n_distinct:,}",
            f"{y.n_titles / y.n_distinct:.1%}" if y.n_distinct else "",
        )
        for y in counted
    ]
    note = "Users without an item of the domain; names that are, word for word, a title of the domain."
    return _table(heads, rows, n_words=2) + f'<p class="note">{note}</p>'


def _example(example: Example) -> str:
    shown = example.history[-_LONGEST_HISTORY:]
    earlier = len(example.history) - len(shown)
    history = [f"<i>{earlier} earlier</i>"] if earlier else []
    history += [escape(title) or "<i>untitled</i>" for title in shown]
    names = [f"{escape(name)} <span class=note>{weight:.0%}</span>" for name, weight in example.names]
    recalled = [
        f"{escape(title) or '<i>untitled</i>'} <span class=note>{cosine:.2f}</span>"
        for title, cosine in example.recalled
    ]
    return (
        f'<div class="example"><h3>{escape(example.user)}</h3>'
        f"<div><h4>history</h4>{_list('ol', history)}</div>"
        f"<div><h4>names generated for {escape(example.domain)}</h4>{_list('ul', names)}</div>"
        f"<div><h4>pseudo items</h4>{_list('ol', recalled)}</div></div>"
    )


def _list(tag: str, entries: Sequence[str]) -> str:
    return f"<{tag}>" + "".join(f"<li>{entry}</li>" for entry in entries) + f"</{tag}>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], n_words: int = 1) -> str:
    """A table whose first `n_words` columns are text, the others numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        made = (
            f"<{tag}{' class=w' if n < n_words else ''}>{escape(cell)}</{tag}>"
            for n, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    return "\n".join(["<table>", line("th", heads), *(line("td", row) for row in rows), "</table>"])


def _share(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4f}"
