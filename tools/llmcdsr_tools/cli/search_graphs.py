"""The command ``llmcdsr index``: graphs of approximate search for a bundle."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llmcdsr_lite.cli.commands import FilePath, cli, example, json_option
from llmcdsr_tools.cli.options import overwrite_option, settings_options
from llmcdsr_tools.index import IndexSettings
from llmcdsr_tools.index import index as build

if TYPE_CHECKING:
    from llmcdsr_tools.ef_search import Measure


@cli.command()
@click.argument("bundle", type=FilePath)
@click.option("-o", "--output", type=FilePath, help="Bundle to write; without it BUNDLE is replaced.")
@click.option("--histories", type=FilePath, help="Users to measure it on; without it they are drawn.")
@settings_options(IndexSettings)
@overwrite_option
@json_option
@example("llmcdsr index bundle -o indexed")
def index(
    bundle: Path,
    output: Path | None,
    histories: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Link the items of BUNDLE for approximate search, as it is used above 300,000 items.

    Tells, for the items and for those that the recall network searches, how wide each domain is searched.
    """
    on_terminal = sys.stderr.isatty()
    settings = IndexSettings(**options)
    chosen = build(
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
            click.echo(f"note: no ef_search reaches a recall@10 of {settings.recall}; --m may help", err=True)


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
