"""Commands of the console command ``llmcdsr`` for data sets: into the package's form, and out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from llmcdsr_lite.cli import FilePath, cli, example, json_option
from llmcdsr_tools.cli.options import Number, needs_train_extra, overwrite_option
from llmcdsr_tools.cli.progress import counter

_OF_INTERACTIONS = (
    *("core", "split", "valid_share", "test_share", "seed"),
    *("user_column", "item_column", "domain_column", "timestamp_column", "title_column"),
)


@cli.command()
@click.argument("source", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Data set folder to write.")
@click.option(
    "--items", type=FilePath, help="Items file (item, domain, title); needed for an interactions file."
)
@click.option(
    "--domain",
    "domains",
    multiple=True,
    metavar="NAME",
    help="A domain, as the domain column has it; give one or more, in order.  [default: all that it has]",
)
@click.option("--core", type=click.IntRange(0), default=5, show_default=True, help="k-core filter; 0: none.")
@click.option(
    "--split",
    type=click.Choice(["overlapped", "leave-one-out"]),
    default="overlapped",
    show_default=True,
    help="Hold out whole overlapped users, or the last items of every history.",
)
@click.option(
    "--valid-share",
    type=Number(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Of the overlapped users.",
)
@click.option(
    "--test-share",
    type=Number(0, 1, max_open=True),
    default=0.1,
    show_default=True,
    help="Of the overlapped users.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split.")
@click.option("--user-column", default="user", show_default=True)
@click.option("--item-column", default="item", show_default=True)
@click.option("--domain-column", default="domain", show_default=True)
@click.option("--timestamp-column", default="timestamp", show_default=True)
@click.option("--title-column", default="title", show_default=True)
@overwrite_option
@json_option
@example("llmcdsr ingest ratings.csv.gz --items items.csv --domain food --domain kitchen -o dataset")
@needs_train_extra
def ingest(
    source: Path,
    output: Path,
    items: Path | None,
    domains: tuple[str, ...],
    core: int,
    split: Literal["overlapped", "leave-one-out"],
    valid_share: float,
    test_share: float,
    seed: int,
    user_column: str,
    item_column: str,
    domain_column: str,
    timestamp_column: str,
    title_column: str,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn SOURCE into a data set folder.

    SOURCE is a folder in the official layout, or a file of interactions with the columns user, item and
    timestamp, a number or an ISO 8601 date. Its name and that of the items file end in .csv, .tsv, .jsonl or
    .ndjson, and .gz after it for gzip. docs/data.md describes all of them.
    """
    from llmcdsr_tools.dataset_summary import format_summary
    from llmcdsr_tools.ingest import stage

    if source.is_dir():
        _refuse_given(_OF_INTERACTIONS, f"{source} is a folder, which must be filtered and split already")
    elif split == "leave-one-out":
        _refuse_given(("valid_share", "test_share", "seed"), "leave-one-out holds out the same of all users")
    columns = stage.Columns(user_column, item_column, domain_column, timestamp_column, title_column)
    settings = stage.IngestSettings(domains or None, columns, core, split, valid_share, test_share, seed)
    with counter("interactions") as progress:
        result = stage.ingest(
            source, output, items=items, settings=settings, overwrite=overwrite, progress=progress
        )
    for warning in result.warnings:
        click.echo(f"note: {warning}", err=True)
    click.echo(json.dumps(result.as_json()) if as_json else format_summary(result.dataset))


def _refuse_given(names: Sequence[str], why: str) -> None:
    """Refuse options that were given, with whatever value, where they are of no effect."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)}: of no effect, as {why}")


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True)
@click.option(
    "-o", "--output", type=FilePath, default="-", help="JSON Lines file; standard output if not given."
)
@example("llmcdsr histories dataset --split test -o test-histories.jsonl")
@needs_train_extra
def histories(dataset: Path, split: Literal["train", "valid", "test"], output: Path) -> None:
    """Write the histories of a split as a file for `score`, held-out targets left out."""
    from llmcdsr_tools.dataset import load_dataset, write_histories

    write_histories(load_dataset(dataset), split, output)
