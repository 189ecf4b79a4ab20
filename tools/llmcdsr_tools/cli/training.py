"""The commands that train: ``llmcdsr train`` and ``llmcdsr refit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from llmcdsr_lite.cli.commands import FilePath, cli, example
from llmcdsr_tools.cli.options import needs_train_extra, overwrite_option, settings_options, threads_option
from llmcdsr_tools.pipeline.progress import member_progress, training_progress
from llmcdsr_tools.train.recipes import OFFICIAL, TrainSettings, recipe_settings

if TYPE_CHECKING:
    pass


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Folder of the run.")
@click.option(
    "--recipe",
    type=click.Choice(["best", "official"]),
    default="best",
    show_default=True,
    help="What ranks best, or the paper's; the options below replace parts of it.",
)
@settings_options(TrainSettings, recipes={"official": OFFICIAL})
@click.option(
    "--text-embeddings",
    type=FilePath,
    help=".npy matrix (items, E) that the items start from, in place of word vectors of their titles.",
)
@click.option("--names", type=FilePath, help="Embedded names: train with pseudo items recalled for them.")
@click.option("--pretrained", type=FilePath, help="File of `pretrain`, which names need.")
@click.option(
    "--start-from",
    type=FilePath,
    metavar="RUN|BUNDLE",
    help="Go on from an earlier model: sizes are its own, items are matched by domain and id, new ones start "
    "from their titles.",
)
@click.option(
    "--members",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Train so many models with seeds of their own; a bundle answers with the mean of their scores.",
)
@click.option(
    "--distill",
    is_flag=True,
    help="Train one more model on the scores of the members; the run, and its bundle, are that one.",
)
@click.option("--resume", is_flag=True, help="Go on after the last full epoch.")
@threads_option("That share the products of the loss")
@example("llmcdsr train dataset -o run --text-embeddings titles.npy --threads 2")
@needs_train_extra
def train(
    dataset: Path,
    output: Path,
    recipe: Literal["best", "official"],
    text_embeddings: Path | None,
    names: Path | None,
    pretrained: Path | None,
    start_from: Path | None,
    members: int,
    distill: bool,
    resume: bool,
    threads: int,
    **settings: Any,
) -> None:
    """Train a recommender on the data set folder DATASET.

    Ctrl-C is safe: the run keeps its last full epoch, and --resume goes on from there.
    """
    from llmcdsr_tools.run_folder import CHECKPOINT, member_runs
    from llmcdsr_tools.train import training_run
    from llmcdsr_tools.train.members import train_members
    from llmcdsr_tools.train.starting_model import SIZES, read_starting_model

    given = {k: v for k, v in settings.items() if v is not None}
    sizes = {name: given[name] for name in SIZES if name in given}
    if start_from is not None:
        if sizes:  # the defaults, too, where they are given
            read_starting_model(start_from, members=members).check_sizes(sizes)
        given.setdefault("max_length", 0)  # the model's, not the recipe's
    chosen = recipe_settings(recipe, **given)
    if members > 1 and (names or pretrained):
        raise click.UsageError("--members is for training without --names and --pretrained")
    if distill and (members == 1 or chosen.loss != "sampled-softmax"):
        raise click.UsageError("--distill needs two --members or more, and the loss sampled-softmax")
    try:
        if members == 1:
            result = training_run.train(
                dataset,
                output,
                chosen,
                text_embeddings=text_embeddings,
                names=names,
                pretrained=pretrained,
                start_from=start_from,
                resume=resume,
                threads=threads,
                observer=training_progress(),
            )
        else:
            results = train_members(
                dataset,
                output,
                chosen,
                members,
                text_embeddings=text_embeddings,
                start_from=start_from,
                resume=resume,
                threads=threads,
                observers=member_progress,
                distill=distill,
            )
            result = results[-1] if distill else max(results, key=lambda one: one.best_merit)
    except KeyboardInterrupt:
        done = any((run / CHECKPOINT).exists() for run in member_runs(output))
        kept = (
            f"{output} keeps the last full epoch, --resume goes on from there"
            if done
            else "no epoch was done, --resume begins again"
        )
        click.echo(f"\nstopped; {kept}", err=True)
        raise
    reason = "stopped early" if result.stopped_early else "all epochs done"
    measure = result.epochs[-1].merit_name
    click.echo(
        f"{reason} after {len(result.epochs)} epochs; best mean validation {measure} "
        f"{result.best_merit:.4f} at epoch {result.best_epoch}"
    )


@cli.command()
@click.argument("bundle", type=FilePath)
@click.argument("run", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help="Bundle folder to write.")
@click.option("--dataset", type=FilePath, help="The run's data set, if it has moved.")
@click.option("--work", type=FilePath, help="Folder for the new training.  [default: refit in RUN]")
@click.option("--text-embeddings", type=FilePath, help="The matrix that the items of RUN started from.")
@click.option("--start-from", type=FilePath, metavar="RUN|BUNDLE", help="The model that RUN started from.")
@threads_option("That share the products of the loss")
@overwrite_option
@example("llmcdsr refit bundle run -o bundle-all --text-embeddings titles.npy --threads 2")
@needs_train_extra
def refit(bundle: Path, run: Path, output: Path, **options: Any) -> None:
    """Train RUN again on all histories, those of validation and test included, for production.

    Settings, epochs and mix are those that validation chose for BUNDLE, which `export` made of RUN. An
    interrupted call goes on when it is given again.
    """
    from llmcdsr_tools import refitting

    refitting.refit(bundle, run, output, observers=member_progress, **options)
