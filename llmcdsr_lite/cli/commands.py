"""The runtime's commands, thin skins over `Recommender` and `score_histories`.

The console command ``llmcdsr`` adds those of the training side (`llmcdsr_tools.cli.commands`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, get_args

import click

from llmcdsr_lite.cli.errors import Group
from llmcdsr_lite.cli.output import Counter, bundle_text, explanation_text, item_table, recommendation_table
from llmcdsr_lite.errors import UnknownItemError
from llmcdsr_lite.model.backends import BackendName
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.request import MAX_THREADS
from llmcdsr_lite.score.batches import MAX_BATCH, MAX_PROCESSES
from llmcdsr_lite.score.histories import FileFormat
from llmcdsr_lite.version import __version__

FilePath = click.Path(path_type=Path)
FORMATS = click.Choice(get_args(FileFormat))


def example(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add an example that is shown as it stands at the end of a command's help."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__doc__ = f"{cleandoc(function.__doc__ or '')}\n\n\b\nExample:\n  {text}"
        return function

    return add


model_option = click.option("--model", required=True, type=FilePath, help="Bundle folder.")
backend_option = click.option(
    "--backend",
    type=click.Choice(["onnx", "numpy"]),
    default="onnx",
    show_default=True,
    help="What runs the model; numpy needs no onnxruntime.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, MAX_THREADS),
    default=1,
    show_default=True,
    help="Threads of the model.",
)
pseudo_option = click.option(
    "--pseudo",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="Pseudo items for histories without an item of the wanted domain: as the bundle has it, or never.",
)
domains_option = click.option(
    "--domain",
    "domains",
    multiple=True,
    metavar="NAME",
    help="Of this domain; give several for items of each.  [default: all]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmcdsr")
def cli() -> None:
    """Cross-domain recommendations on a plain CPU."""


@cli.command()
@click.argument("histories", type=FilePath)
@model_option
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Items a user.")
@click.option("-o", "--output", type=FilePath, default="-", help="Output file; standard output if not given.")
@click.option("--domain", help="Recommend from this domain, where a record names none.")
@click.option(
    "--include-seen/--exclude-seen",
    default=None,
    help="Recommend items of the history, too, or not; as the bundle has it by default.",
)
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="Stop at a bad record, or report it and go on.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted output of the same job.")
@click.option("--titles", is_flag=True, help="Write titles and domains, too.")
@click.option("--input-format", type=FORMATS, help="Told by the file name by default.")
@click.option("--output-format", type=FORMATS, help="Told by the file name by default.")
@click.option("--separator", default=" ", help="Between the items of a CSV history; a space by default.")
@click.option(
    "--batch-size", type=click.IntRange(1, MAX_BATCH), default=256, show_default=True, help="Users at a time."
)
@click.option(
    "--processes",
    type=click.IntRange(1, MAX_PROCESSES),
    default=1,
    show_default=True,
    help="Processes that score; several have one thread each.",
)
@pseudo_option
@backend_option
@threads_option
@example("llmcdsr score models/demo-histories.jsonl --model models/demo -k 5 -o out.jsonl")
def score(
    histories: Path,
    model: Path,
    k: int,
    output: Path,
    domain: str | None,
    include_seen: bool | None,
    on_error: Literal["fail", "skip"],
    resume: bool,
    titles: bool,
    input_format: FileFormat | None,
    output_format: FileFormat | None,
    separator: str,
    batch_size: int,
    processes: int,
    pseudo: Literal["auto", "off"],
    backend: BackendName,
    threads: int,
) -> None:
    """Score every user of the file HISTORIES ("-": standard input).

    Reads and writes JSON Lines, {"user": "u1", "history": ["item", "item"], "domain": "kitchenware"}
    with the newest item last and the domain optional, or CSV with the columns user, history and,
    optionally, domain. Gzip is read whatever its name, and written to names ending in .gz. With pyarrow,
    it reads and writes Parquet (.parquet) and Arrow files (.arrow, .feather), too, where the history is a
    list. The input's order is kept.
    """
    from llmcdsr_lite.score.job import ScoreSettings, score_histories

    if processes > 1 and threads > 1:
        raise click.UsageError("--threads is for one process: with --processes each has one thread")
    recommender = Recommender.load(model, backend=backend, threads=threads)
    if domain is not None:
        recommender.items.domain(domain)  # refuses one that is not there, before any file is opened
    settings = ScoreSettings(
        k,
        domain,
        None if include_seen is None else not include_seen,
        on_error,
        titles,
        input_format,
        output_format,
        separator,
        batch_size,
        pseudo,
    )
    counter = Counter()
    try:
        summary = score_histories(
            recommender,
            histories,
            output,
            settings,
            resume=resume,
            processes=processes,
            report=counter.tell,
            progress=counter.show if counter.is_shown else None,
        )
    finally:
        counter.end()
    counter.tell(
        f"{summary.users:,} users scored, {summary.bad:,} bad records left out, "
        f"{summary.unknown_items:,} unknown items skipped, {summary.fallbacks:,} users without a known item"
    )


@cli.command()
@click.argument("items", nargs=-1)
@model_option
@click.option(
    "--title", "titles", multiple=True, metavar="TEXT", help="Add the item with these words in its title."
)
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="How many items.")
@domains_option
@pseudo_option
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="TEXT",
    help="Recall pseudo items of the domain for this item id, title or, with --encoder, any text.",
)
@click.option("--encoder", type=FilePath, help="Folder of the text encoder that the bundle was made with.")
@click.option("--explain", is_flag=True, help="Show pseudo items, and what each item of the history did.")
@backend_option
@json_option
@example('llmcdsr recommend --title "coffee beans" --domain kitchenware --model models/demo')
def recommend(
    items: tuple[str, ...],
    model: Path,
    titles: tuple[str, ...],
    k: int,
    domains: tuple[str, ...],
    pseudo: Literal["auto", "off"],
    names: tuple[str, ...],
    encoder: Path | None,
    explain: bool,
    backend: BackendName,
    as_json: bool,
) -> None:
    """Recommend what follows a history: ITEMS are item ids, oldest first."""
    recommender = Recommender.load(model, backend=backend, encoder=encoder)
    found = [_find_title(recommender, text) for text in titles]
    history = [*items, *found]
    if not history:
        raise click.UsageError("name at least one item, or --title TEXT")
    answer = recommender.recommend(
        history, k=k, domain=domains or None, unknown="error", pseudo=names or pseudo, explain=explain
    )
    if as_json:
        described: dict[str, Any] = {"history": history, "recommendations": [vars(item) for item in answer]}
        if answer.explanation is not None:
            described["explanation"] = asdict(answer.explanation)
        click.echo(json.dumps(described, ensure_ascii=False))
        return
    click.echo(f"history\n{item_table(recommender.items, history)}")
    click.echo(f"recommended\n{recommendation_table(answer)}")
    if answer.explanation is not None:
        click.echo(explanation_text(answer.explanation))


@cli.command()
@click.argument("items", nargs=-1, required=True)
@model_option
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="How many items.")
@domains_option
@json_option
@example("llmcdsr similar k-coffee-gooseneck-pour-over-kettle --model models/demo")
def similar(items: tuple[str, ...], model: Path, k: int, domains: tuple[str, ...], as_json: bool) -> None:
    """Show the items most similar to ITEMS, one or several, by the cosine of their vectors."""
    recommender = Recommender.load(model, backend="numpy")
    answer = recommender.similar(items, k, domain=domains or None)
    if as_json:
        click.echo(json.dumps([vars(found) for found in answer], ensure_ascii=False))
        return
    click.echo(recommendation_table(answer))


@cli.command()
@click.argument("bundle", type=FilePath)
@json_option
@example("llmcdsr inspect models/demo")
def inspect(bundle: Path, as_json: bool) -> None:
    """Verify every file of BUNDLE and tell what it is."""
    from llmcdsr_lite.bundle.folder import CONFIG, read_bundle

    contents = read_bundle(bundle)
    description = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))
    if as_json:
        click.echo(json.dumps({"verified": True, **description}, ensure_ascii=False))
        return
    click.echo(bundle_text(bundle, contents, description))


def _find_title(recommender: Recommender, text: str) -> str:
    """Id of the item whose title has all words of `text`; the most popular one of several."""
    rows = recommender.items.find_titles(text)
    if not len(rows):
        raise UnknownItemError(f"no title has all the words of {text!r}")
    counts = recommender.bundle.item_counts[rows]
    return recommender.items.ids[int(rows[counts.argmax()]) - 1]
