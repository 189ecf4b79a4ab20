"""The console command ``llmcdsr``: the runtime's commands and, loaded on use, those that make a bundle."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from llmcdsr_lite.cli import FilePath, cli, example, json_option
from llmcdsr_tools.cli.options import needs_train_extra, overwrite_option, training_progress

if TYPE_CHECKING:
    from llmcdsr_tools.evaluate import Result

best_for_option = click.option(
    "--best-for",
    type=click.Choice(["mean", "a", "b"]),
    default="mean",
    show_default=True,
    help="The epoch that was best on both domains, or on one.",
)


@cli.command()
@click.argument("source", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Data set folder to write.")
@click.option(
    "--items", type=FilePath, help="Items file (item, domain, title); needed for an interactions file."
)
@click.option("--domains", nargs=2, metavar="A B", help="The two domains, as the domain column has them.")
@click.option("--core", type=click.IntRange(0), default=5, show_default=True, help="k-core filter; 0: none.")
@click.option(
    "--split",
    type=click.Choice(["overlapped", "leave-one-out"]),
    default="overlapped",
    show_default=True,
    help="Hold out whole overlapped users, or the last items of every history.",
)
@click.option("--valid-share", type=float, default=0.1, show_default=True, help="Of the overlapped users.")
@click.option("--test-share", type=float, default=0.1, show_default=True, help="Of the overlapped users.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the split.")
@click.option("--user-column", default="user", show_default=True)
@click.option("--item-column", default="item", show_default=True)
@click.option("--domain-column", default="domain", show_default=True)
@click.option("--timestamp-column", default="timestamp", show_default=True)
@click.option("--title-column", default="title", show_default=True)
@overwrite_option
@json_option
@example("llmcdsr ingest ratings.csv.gz --items items.csv --domains food kitchen -o dataset")
@needs_train_extra
def ingest(
    source: Path,
    output: Path,
    items: Path | None,
    domains: tuple[str, str] | None,
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

    SOURCE is a folder in the official layout, or a CSV, TSV or JSON Lines file of interactions (gzip,
    too) with the columns user, item and timestamp.
    """
    from llmcdsr_tools.dataset import SPLITS, format_summary, summarize
    from llmcdsr_tools.ingest import stage

    columns = stage.Columns(user_column, item_column, domain_column, timestamp_column, title_column)
    settings = stage.IngestSettings(domains, columns, core, split, valid_share, test_share, seed)
    progress = (
        (lambda n: click.echo(f"\r{n:,} interactions read", nl=False, err=True))
        if sys.stderr.isatty()
        else None
    )
    result = stage.ingest(
        source, output, items=items, settings=settings, overwrite=overwrite, progress=progress
    )
    if progress is not None:
        click.echo(err=True)
    for warning in result.warnings:
        click.echo(f"note: {warning}", err=True)
    if as_json:
        data = result.dataset
        click.echo(json.dumps({s: asdict(summarize(data.split(s), data.catalogue)) for s in SPLITS}))
    else:
        click.echo(format_summary(result.dataset))


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Folder of the run.")
@click.option(
    "--loss",
    type=click.Choice(["bce", "sampled-softmax"]),
    default="bce",
    show_default=True,
    help="bce is the official recipe; sampled-softmax ranks better.",
)
@click.option(
    "--negatives",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Of each domain, for sampled-softmax.",
)
@click.option("--epochs", type=click.IntRange(1), default=200, show_default=True, help="At most so many.")
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Epochs without a better validation HR@10.",
)
@click.option("--text-embeddings", type=FilePath, help=".npy matrix (items, E) that the items start from.")
@click.option(
    "--cold-sequences",
    is_flag=True,
    help="Train on overlapped users with one domain hidden, too.",
)
@click.option("--names", type=FilePath, help="Embedded names: train with pseudo items recalled for them.")
@click.option("--pretrained", type=FilePath, help="File of `pretrain`, which names need.")
@click.option(
    "--pretrained-items",
    is_flag=True,
    help="Start the items from that file's vectors; without it meta-learning finds no direction.",
)
@click.option(
    "--inner-optimizer",
    type=click.Choice(["auto", "none", "sgd", "adam", "fresh-adam"]),
    default="auto",
    show_default=True,
    help="Of the virtual step that trains the poolers; none leaves them at zero. auto: adam, the best on "
    "validation, with names and --pretrained-items, else none.",
)
@click.option(
    "--inner-learning-rate", type=float, default=0.1, show_default=True, help="Of the inner optimizer sgd."
)
@click.option("--pooler-learning-rate", type=float, default=1e-3, show_default=True)
@click.option(
    "--augmented",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Sequences with pseudo items a step.",
)
@click.option(
    "--overlapped",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Overlapped users a step, for the meta loss.",
)
@click.option(
    "--recall-k", type=click.IntRange(1), default=10, show_default=True, help="Pseudo items a sequence."
)
@click.option("--hidden", type=click.IntRange(1), default=64, show_default=True, help="Hidden size.")
@click.option("--blocks", type=click.IntRange(1), default=2, show_default=True)
@click.option("--heads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--max-length", type=click.IntRange(1), default=50, show_default=True, help="Longest history.")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), default=0.5, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True)
@click.option("--learning-rate", type=float, default=1e-3, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on after the last full epoch.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of matrix products.")
@example("llmcdsr train dataset -o run --loss sampled-softmax --text-embeddings titles.npy")
@needs_train_extra
def train(
    dataset: Path,
    output: Path,
    text_embeddings: Path | None,
    names: Path | None,
    pretrained: Path | None,
    resume: bool,
    threads: int,
    negatives: int,
    epochs: int,
    blocks: int,
    heads: int,
    augmented: int,
    overlapped: int,
    **settings: Any,
) -> None:
    """Train a recommender on the data set folder DATASET.

    Ctrl-C is safe: the run keeps its last full epoch, and --resume goes on from there.
    """
    import matplotlib  # noqa: F401  if it is missing, say so now, not after the first epoch

    from llmcdsr_tools.train import stage

    chosen = stage.TrainSettings(
        n_negatives=negatives,
        n_epochs=epochs,
        n_blocks=blocks,
        n_heads=heads,
        n_augmented=augmented,
        n_overlapped=overlapped,
        **settings,
    )
    try:
        result = stage.train(
            dataset,
            output,
            chosen,
            text_embeddings=text_embeddings,
            names=names,
            pretrained=pretrained,
            resume=resume,
            threads=threads,
            observer=training_progress(),
        )
    except KeyboardInterrupt:
        click.echo(f"\nstopped; {output} keeps the last full epoch, --resume goes on from there", err=True)
        raise
    reason = "stopped early" if result.stopped_early else "all epochs done"
    click.echo(
        f"{reason} after {len(result.epochs)} epochs; best mean validation HR@10 "
        f"{result.best_hr10:.4f} at epoch {result.best_epoch}"
    )


@cli.command()
@click.argument("model", type=FilePath)
@click.argument("dataset", type=FilePath)
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@best_for_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the negatives.")
@click.option(
    "--pseudo",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="auto: a bundle with a recall network is measured with and without pseudo items.",
)
@json_option
@example("llmcdsr evaluate run dataset --split valid")
@needs_train_extra
def evaluate(
    model: Path,
    dataset: Path,
    split: Literal["valid", "test"],
    best_for: Literal["mean", "a", "b"],
    seed: int,
    pseudo: Literal["auto", "off"],
    as_json: bool,
) -> None:
    """Measure how well MODEL, a run or a bundle, ranks the held-out items of DATASET."""
    from llmcdsr_tools import evaluate as stage
    from llmcdsr_tools.dataset import load_dataset

    data = load_dataset(dataset)
    backend, item_embedding = stage.open_model(model, data, best_for)
    recaller = stage.open_pseudo(model) if pseudo == "auto" else None
    results = stage.evaluate(backend, item_embedding, data, split=split, seed=seed, pseudo=recaller)
    _print_results(results, split, seed, as_json)


@cli.command()
@click.argument("run", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Bundle folder to write.")
@click.option("--dataset", type=FilePath, help="The run's data set, if it has moved.")
@best_for_option
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the negatives in the model card."
)
@click.option("--pretrained", type=FilePath, help="File of `pretrain`: the bundle gets a recall network.")
@click.option(
    "--text-embeddings",
    type=FilePath,
    help="Matrix of `embed`: the bundle can take new items. With --pretrained the one that it was made with.",
)
@overwrite_option
@json_option
@example("llmcdsr export run -o bundle")
@needs_train_extra
def export(
    run: Path,
    output: Path,
    dataset: Path | None,
    best_for: Literal["mean", "a", "b"],
    seed: int,
    pretrained: Path | None,
    text_embeddings: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the bundle of a training RUN, and its metrics on the test users.

    With --text-embeddings it can take new items; with --pretrained, too, it recalls pseudo items, in the way
    that wins on validation.
    """
    from llmcdsr_tools.export import stage

    results = stage.export(
        run,
        output,
        dataset=dataset,
        best_for=best_for,
        seed=seed,
        overwrite=overwrite,
        pretrained=pretrained,
        text_embeddings=text_embeddings,
    )
    _print_results(results, "test", seed, as_json)


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


def _print_results(results: list[Result], split: str, seed: int, as_json: bool) -> None:
    from llmcdsr_tools.evaluate import CUTOFFS, format_results

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
    import llmcdsr_lite.new_items_cli  # noqa: F401
    import llmcdsr_tools.cli.bench
    import llmcdsr_tools.cli.generation
    import llmcdsr_tools.cli.index
    import llmcdsr_tools.cli.pipeline  # noqa: F401  adds its commands

    cli()
