"""The command ``llmcdsr index``: graphs of approximate search for a bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from llmcdsr_lite.cli.commands import FilePath, cli, example, json_option
from llmcdsr_tools.cli.options import Number, overwrite_option

if TYPE_CHECKING:
    from llmcdsr_tools.ef_search import Measure


@cli.command()
@click.argument("bundle", type=FilePath)
@click.option("-o", "--output", type=FilePath, help="Bundle to write; without it BUNDLE is replaced.")
@click.option(
    "--recall",
    type=Number(0, 1, min_open=True),
    default=0.97,
    show_default=True,
    help="Share of the ten best items that searches must find.",
)
@click.option("--histories", type=FilePath, help="Users to measure it on; without it they are drawn.")
@click.option("--users", type=click.IntRange(1), default=1000, show_default=True, help="How many of them.")
@click.option(
    "--m", type=click.IntRange(2, 256), default=32, show_default=True, help="Links of an item, at most."
)
@click.option(
    "--ef-construction",
    type=click.IntRange(1, 10_000),
    default=200,
    show_default=True,
    help="How many candidates an item's links are chosen from.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Of building; the result is reproducible with one alone.",
)
@overwrite_option
@json_option
@example("llmcdsr index bundle -o indexed")
def index(
    bundle: Path,
    output: Path | None,
    recall: float,
    histories: Path | None,
    users: int,
    m: int,
    ef_construction: int,
    seed: int,
    threads: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Link the items of BUNDLE for approximate search, as it is used above 300,000 items.

    Tells, for the items and for those that the recall network searches, how wide each domain is searched.
    """
    from llmcdsr_lite.search.hnsw_graph import GraphSettings
    from llmcdsr_tools.index import IndexSettings
    from llmcdsr_tools.index import index as stage

    on_terminal = sys.stderr.isatty()
    settings = IndexSettings(GraphSettings(m, ef_construction, seed, threads), recall, users)
    chosen = stage(
        bundle,
        output,
        settings=settings,
        histories=histories,
        overwrite=overwrite,
        progress=_progress if on_terminal else None,
        observer=_tried if on_terminal else None,
    )
    if as_json:
        click.echo(json.dumps([asdict(measure) for measure in chosen]))
    for measure in chosen:
        if not as_json:
            click.echo(_line(measure))
        if not measure.reached:
            click.echo(f"note: no ef_search reaches a recall@10 of {recall}; --m may help", err=True)


def _line(measure: Measure) -> str:
    return (
        f"{measure.part}, {measure.domain}: ef_search {measure.ef_search}, recall@10 {measure.recall:.4f}, "
        f"{measure.milliseconds:.3f} ms a search, exact {measure.exact_milliseconds:.3f} ms"
    )


def _tried(measure: Measure) -> None:
    """Show an ef_search while it is the last one tried."""
    click.echo(f"\r\033[K{_line(measure)}\r", nl=False, err=True)


def _progress(done: int, of: int) -> None:
    click.echo(f"\r{done:,} of {of:,} items ", nl=done == of, err=True)
