"""Commands of the console command ``llmcdsr`` for text embeddings, and for names without a language model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from llmcdsr_lite.cli.commands import FilePath, cli, example
from llmcdsr_tools.cli.options import needs_train_extra, overwrite_option, threads_option
from llmcdsr_tools.pipeline.progress import counter

titles_option = click.option(
    "--titles",
    type=FilePath,
    help=".npy matrix of `llmcdsr embed`: names that are titles are looked up in it.",
)
encoder_option = click.option(
    "--encoder", type=FilePath, help="Encoder folder, for names that are no titles."
)
n_neighbors_option = click.option(
    "--neighbors",
    "n_neighbors",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Overlapped users compared to.",
)


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("--encoder", required=True, type=FilePath, help="Encoder folder.")
@click.option("-o", "--output", required=True, type=FilePath, help=".npy matrix to write.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Titles at once.")
@click.option("--prompt", help="Name of the encoder's prompt to put before every title.")
@click.option("--max-length", type=click.IntRange(1), help="Cut titles to so many tokens.")
@threads_option("Of the encoder")
@overwrite_option
@example("llmcdsr embed dataset --encoder minilm -o titles.npy")
@needs_train_extra
def embed(
    dataset: Path,
    encoder: Path,
    output: Path,
    batch_size: int,
    prompt: str | None,
    max_length: int | None,
    threads: int,
    overwrite: bool,
) -> None:
    """Turn the titles of DATASET into a matrix of text embeddings.

    An interrupted call goes on where it was when it is given again.
    """
    from llmcdsr_tools import embed as stage

    with counter("titles") as progress:
        result = stage.embed(
            dataset,
            encoder,
            output,
            threads=threads,
            batch_size=batch_size,
            prompt=prompt,
            max_length=max_length,
            overwrite=overwrite,
            progress=progress,
        )
    for warning in result.warnings:
        click.echo(f"note: {warning}", err=True)
    resumed = f", {result.n_resumed:,} of them by an earlier call" if result.n_resumed else ""
    click.echo(
        f"{result.n_items:,} titles embedded with {result.dimension} values each{resumed}; "
        f"{result.n_untitled:,} items have no title"
    )


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Names file (JSON Lines) to write.")
@n_neighbors_option
@click.option("--names", "n_names", type=click.IntRange(1), default=10, show_default=True, help="A user.")
@overwrite_option
@example("llmcdsr neighbours dataset -o names.jsonl")
@needs_train_extra
def neighbours(dataset: Path, output: Path, n_neighbors: int, n_names: int, overwrite: bool) -> None:
    """Write names for users of DATASET who lack a domain, without a language model.

    They are the titles that the most similar users who have the domain have in it: a
    baseline, and what works offline.
    """
    from llmcdsr_tools import neighbours as stage

    with counter("users") as progress:
        result = stage.neighbours(
            dataset,
            output,
            n_neighbors=n_neighbors,
            n_names=n_names,
            overwrite=overwrite,
            progress=progress,
        )
    click.echo(
        f"{result.n_names:,} names for {result.n_users:,} users; {result.n_without:,} users share no item "
        "with anybody who has the domain that they lack, and have none"
    )


@cli.command("embed-names")
@click.argument("names", type=FilePath)
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help=".npz file to write.")
@titles_option
@encoder_option
@click.option(
    "--for",
    "whom",
    type=click.Choice(["users", "items"]),
    default="users",
    show_default=True,
    help="Whom the names are for; those of items are for `export --item-names`.",
)
@threads_option("Of the encoder")
@overwrite_option
@example("llmcdsr embed-names names.jsonl dataset --titles titles.npy --encoder minilm -o names.npz")
@needs_train_extra
def embed_names(
    names: Path,
    dataset: Path,
    output: Path,
    titles: Path | None,
    encoder: Path | None,
    whom: Literal["users", "items"],
    threads: int,
    overwrite: bool,
) -> None:
    """Turn the names file NAMES of the users, or items, of DATASET into text embeddings."""
    from llmcdsr_tools import embed_names as stage
    from llmcdsr_tools.item_names import embed_item_names

    if whom == "items":
        with counter("names") as progress:
            n_items, n_names = embed_item_names(
                names,
                dataset,
                output,
                encoder=encoder,
                titles=titles,
                threads=threads,
                overwrite=overwrite,
                progress=progress,
            )
        click.echo(f"{n_names:,} distinct names embedded, {n_items:,} items have some")
        return

    with counter("names") as progress:
        result = stage.embed_names(
            names,
            dataset,
            output,
            encoder=encoder,
            titles=titles,
            threads=threads,
            overwrite=overwrite,
            progress=progress,
        )
    click.echo(
        f"{result.n_names:,} names of {result.n_users:,} users embedded, {result.n_distinct:,} distinct, "
        f"{result.n_encoded:,} of them no titles"
    )
