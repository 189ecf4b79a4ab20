"""Commands of the console command ``llmcdsr`` that measure the runtime."""

from __future__ import annotations

from pathlib import Path

import click

from llmcdsr_lite.cli import FilePath, cli, example
from llmcdsr_tools.cli import needs_train_extra, overwrite_option


@cli.command("random-bundle")
@click.argument("output", type=FilePath)
@click.option(
    "--items",
    "n_items",
    nargs=2,
    type=click.IntRange(1),
    required=True,
    metavar="A B",
    help="Items of the two domains.",
)
@click.option("--hidden", type=click.IntRange(1), default=64, show_default=True, help="Hidden size.")
@click.option("--blocks", type=click.IntRange(1), default=2, show_default=True)
@click.option("--heads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), default=50, show_default=True, help="Longest history.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@overwrite_option
@example("llmcdsr random-bundle random --items 29207 7091")
@needs_train_extra
def random_bundle(
    output: Path,
    n_items: tuple[int, int],
    hidden: int,
    blocks: int,
    heads: int,
    max_length: int,
    seed: int,
    overwrite: bool,
) -> None:
    """Write a bundle of random vectors to OUTPUT, for benchmarks.

    Its vectors lie as trained ones do: in clusters, with skewed norms. It knows nothing of any item.
    """
    from llmcdsr_tools.random_bundle import write_random_bundle

    write_random_bundle(
        output,
        n_items,
        hidden=hidden,
        n_blocks=blocks,
        n_heads=heads,
        max_length=max_length,
        seed=seed,
        overwrite=overwrite,
    )
