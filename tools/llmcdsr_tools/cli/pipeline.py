"""Commands of the console command ``llmcdsr`` for pre-training and for the whole pipeline."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from llmcdsr_lite.cli.commands import FilePath, cli, example, json_option
from llmcdsr_lite.errors import UsageError
from llmcdsr_tools.cli.options import (
    needs_train_extra,
    overwrite_option,
    settings_options,
    threads_option,
)
from llmcdsr_tools.pipeline.progress import fit_progress, pretraining_progress
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings


@cli.command()
@click.argument("dataset", type=FilePath)
@click.option("-o", "--output", required=True, type=FilePath, help=".npz file to write.")
@click.option(
    "--text-embeddings", required=True, type=FilePath, help=".npy matrix (items, E) of `llmcdsr embed`."
)
@settings_options(PretrainSettings)
@threads_option("Of matrix products")
@overwrite_option
@example("llmcdsr pretrain dataset --text-embeddings titles.npy -o pretrained.npz")
@needs_train_extra
def pretrain(
    dataset: Path,
    output: Path,
    text_embeddings: Path,
    threads: int,
    overwrite: bool,
    **settings: Any,
) -> None:
    """Train item vectors and a projection of titles for each domain of DATASET.

    An interrupted call goes on after the last full epoch when it is given again.
    """
    from llmcdsr_tools.pretrain import pretraining

    result = pretraining.pretrain(
        dataset,
        text_embeddings,
        output,
        PretrainSettings(**settings),
        threads=threads,
        overwrite=overwrite,
        observer=pretraining_progress(),
    )
    for warning in result.warnings:
        click.echo(f"note: {warning}", err=True)
    names = [d["name"] for d in pretraining.load_pretrained(output).description["domains"]]
    for name, done, best in zip(names, result.epochs, result.best_epoch, strict=True):
        kept = done[best - 1]
        click.echo(
            f"{name}: epoch {best} of {len(done)} kept, validation HR@10 {kept.hr10:.4f}; a title finds its "
            f"item at median rank {kept.title_rank:g}, in the first ten {kept.title_recall10:.1%}"
        )


@cli.command()
@click.argument("config", type=FilePath, required=False)
@click.option(
    "--example", "show_example", is_flag=True, help="Print a configuration with comments, and stop."
)
@json_option
@example("llmcdsr fit --example > fit.toml; llmcdsr fit fit.toml")
@needs_train_extra
def fit(config: Path | None, show_example: bool, as_json: bool) -> None:
    """Run the whole pipeline, from interactions to a bundle and a report, as the TOML file CONFIG says.

    Stages that are done are not run again; a call that was ended goes on when it is given again.
    """
    if show_example:
        click.echo(example_config(), nl=False)
        return
    import onnx  # noqa: F401  if it is missing, say so now, not after training

    from llmcdsr_tools.pipeline.fitting import fit as run_fit
    from llmcdsr_tools.pipeline.measures import without_nan

    if config is None:
        raise UsageError("name a configuration; --example prints one to start from")
    result = run_fit(config, observer=fit_progress())
    if as_json:
        paths = {"bundle": str(result.bundle), "report": str(result.report())}
        stages = [{"name": s.name, "seconds": s.seconds, "cached": s.cached} for s in result.stages]
        click.echo(json.dumps({**paths, "stages": stages, **without_nan(asdict(result.metrics))}))
        return
    click.echo(f"{'stage':<14}{'seconds':>10}")
    for stage in result.stages:
        click.echo(f"{stage.name:<14}{stage.seconds:>10.1f}{'  done before' if stage.cached else ''}")
    click.echo(f"\n{result.table()}\n\nbundle: {result.bundle}\nreport: {result.report()}")


def example_config() -> str:
    """The commented example of a configuration; read without the package around it, which needs the extra."""
    return files("llmcdsr_tools").joinpath("pipeline", "example.toml").read_text(encoding="utf-8")
