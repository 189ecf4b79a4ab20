"""Commands of the console command ``llmcdsr`` for data sets: into the package's form, and out of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource

from llmcdsr_lite.cli.commands import FilePath, cli, example, json_option
from llmcdsr_tools.cli.options import needs_train_extra, overwrite_option, settings_of, settings_options
from llmcdsr_tools.data.ingest_settings import Columns, IngestSettings
from llmcdsr_tools.pipeline.progress import percentage

_OF_INTERACTIONS = [
    *(f.name for kind in (IngestSettings, Columns) for f in fields(kind) if f.name != "domains"),
    *("query", "items_query", "database"),
]


@cli.command()
@click.argument("source", type=FilePath, required=False)
@click.option("-o", "--output", required=True, type=FilePath, help="Data set folder to write.")
@click.option("--items", type=FilePath, help="Items (item, domain, title); without, columns of the source.")
@click.option("--query", metavar="SQL", help="In place of SOURCE: a SELECT of DuckDB, which may read files.")
@click.option("--items-query", metavar="SQL", help="In place of --items.")
@click.option("--database", type=FilePath, help="DuckDB database that the queries read.")
@click.option(
    "--domain",
    "domains",
    multiple=True,
    metavar="NAME",
    help="A domain to keep, as the domain column has it; give one or more, in order.  [default: all]",
)
@settings_options(IngestSettings)
@settings_options(Columns, suffix="-column")
@overwrite_option
@json_option
@example("llmcdsr ingest ratings.csv.gz --items items.csv --domain food --domain kitchen -o dataset")
@needs_train_extra
def ingest(
    source: Path | None,
    output: Path,
    items: Path | None,
    query: str | None,
    items_query: str | None,
    database: Path | None,
    domains: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Turn SOURCE into a data set folder.

    SOURCE is a file of interactions with the columns user, item and timestamp, a glob or a folder of such
    files, or a folder in the official layout. Names of files end in .csv, .tsv, .jsonl, .ndjson or .parquet,
    and in .gz or .zst after it where they are packed. docs/data.md describes all of them.
    """
    from llmcdsr_tools.data import ingestion
    from llmcdsr_tools.data.dataset_summary import format_summary
    from llmcdsr_tools.data.official import is_official
    from llmcdsr_tools.data.sources import Query

    if (source is None) == (query is None):
        raise click.UsageError("name a source, or give a --query, not both")
    if items is not None and items_query is not None:
        raise click.UsageError("--items and --items-query: give one of them")
    if database is not None and query is None and items_query is None:
        raise click.UsageError("--database: of no effect without --query")
    if is_official(source):
        _refuse_given(_OF_INTERACTIONS, f"{source} is in the official layout, filtered and split already")
    elif options["split"] == "leave-one-out":
        _refuse_given(("valid_share", "test_share", "seed"), "leave-one-out holds out the same of all users")
    settings = settings_of(
        IngestSettings, {**options, "domains": domains or None, "columns": settings_of(Columns, options)}
    )
    with percentage() as progress:
        result = ingestion.ingest(
            source if query is None else Query(query, database),
            output,
            items=items if items_query is None else Query(items_query, database),
            settings=settings,
            overwrite=overwrite,
            progress=progress,
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
    from llmcdsr_tools.data.dataset_folder import load_dataset, write_histories

    write_histories(load_dataset(dataset), split, output)
