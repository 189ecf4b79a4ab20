"""The command ``llmcdsr add-items``."""

from __future__ import annotations

from pathlib import Path

import click

from llmcdsr_lite.cli.commands import FilePath, backend_option, cli, example, model_option
from llmcdsr_lite.model.backends import BackendName
from llmcdsr_lite.recommender import Recommender


@cli.command("add-items")
@model_option
@click.option(
    "--items", required=True, type=FilePath, help="JSON Lines file of new items; - is standard input."
)
@click.option("-o", "--output", required=True, type=FilePath, help="Bundle folder to write.")
@click.option(
    "--encoder",
    type=FilePath,
    help="Folder of the text encoder that the bundle was made with, for items without an embedding.",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@backend_option
@example("llmcdsr add-items --model bundle --items new.jsonl --encoder minilm -o grown-bundle")
def add_items(
    model: Path, items: Path, output: Path, encoder: Path | None, overwrite: bool, backend: BackendName
) -> None:
    """Write a bundle with new items in it, without training.

    A line of the file is {"id": "k-oak-board", "domain": "kitchenware", "title": "Oak cutting board"};
    "embedding", a list of numbers, may stand in place of the title. The backend checks the result.
    """
    from llmcdsr_lite.cli.new_items_file import read_new_items

    recommender = Recommender.load(model, backend=backend, encoder=encoder)
    new = read_new_items(items)
    grown = recommender.add_items(new)
    grown.save(output, overwrite=overwrite)
    for before, after in zip(recommender.items.domains, grown.items.domains, strict=True):
        added = after.n_items - before.n_items
        click.echo(f"{after.name}: {added:,} items added, {after.n_items:,} in all", err=True)
