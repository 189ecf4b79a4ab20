"""The command ``llmcdsr evaluate``, and how measures are printed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from llmcdsr_lite.cli.commands import FilePath, cli, example, json_option
from llmcdsr_tools.cli.options import needs_train_extra

if TYPE_CHECKING:
    from llmcdsr_tools.evaluation.measures import Measured
    from llmcdsr_tools.evaluation.official import Result

best_for_option = click.option(
    "--best-for",
    metavar="DOMAIN",
    default="mean",
    show_default=True,
    help="The epoch that was best on the mean of all domains, or for one, by its name.",
)


@cli.command()
@click.argument("models", type=FilePath, nargs=-1, required=True)
@click.argument("dataset", type=FilePath)
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
@click.option(
    "--positions",
    type=click.Choice(["last", "every"]),
    help="Targets: the last item of a history, or all that training has not seen.  [default: last of test, "
    "every of valid]",
)
@click.option(
    "--all-groups", is_flag=True, help="Also users with and without items of the domain, by length."
)
@click.option(
    "--official", is_flag=True, help="The official protocol: the last item among 999 drawn negatives."
)
@best_for_option
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the negatives, with --official."
)
@click.option(
    "--pseudo",
    type=click.Choice(["auto", "off"]),
    default="auto",
    show_default=True,
    help="auto: a bundle with a recall network recalls pseudo items.",
)
@json_option
@example("llmcdsr evaluate run dataset --split valid")
@needs_train_extra
def evaluate(
    models: tuple[Path, ...],
    dataset: Path,
    split: Literal["valid", "test"],
    positions: Literal["last", "every"] | None,
    all_groups: bool,
    official: bool,
    best_for: str,
    seed: int,
    pseudo: Literal["auto", "off"],
    as_json: bool,
) -> None:
    """Measure how MODELS, runs or bundles, rank the held-out items of DATASET, beside baselines.

    Of two models and more, the first is compared with each of the others, target by target.
    """
    if official:
        if len(models) > 1 or positions == "every":
            raise click.UsageError("--official is for one model and the last position")
        _evaluate_officially(models[0], dataset, split, best_for, seed, pseudo, as_json)
        return
    from llmcdsr_tools.evaluation import model_evaluation

    measured = model_evaluation.evaluate(
        models, dataset, split, positions, best_for=best_for, pseudo=pseudo == "auto"
    )
    names = tuple(dict.fromkeys(m.scorer for m in measured.measures))[: len(models)]
    print_measured(measured, names, as_json, every_group=all_groups)


def print_measured(
    measured: Measured, models: tuple[str, ...], as_json: bool, *, every_group: bool = False
) -> None:
    """Print measures, what the first of the models is beside the others, and beside the baselines."""
    from llmcdsr_tools.evaluation.comparison import compare, verdicts
    from llmcdsr_tools.evaluation.model_evaluation import BASELINES
    from llmcdsr_tools.evaluation.table import format_differences, format_measures, format_repeats
    from llmcdsr_tools.pipeline.measures import without_nan

    first, *others = models
    differences = [compare(measured, first, other) for other in others]
    said = verdicts(measured, first, BASELINES)
    if as_json:
        described = {
            "split": measured.split,
            "positions": measured.positions,
            "measures": [asdict(m) for m in measured.measures],
            "differences": [asdict(d) for found in differences for d in found],
            "verdicts": said,
        }
        click.echo(json.dumps(without_nan(described)))
        return
    click.echo(format_measures(measured.measures, every_group=every_group))
    click.echo(format_repeats(measured.measures))
    for other, found in zip(others, differences, strict=True):
        click.echo(f"\n{first} minus {other}\n{format_differences(found)}")
    click.echo("\n".join(said))


def _evaluate_officially(
    model: Path,
    dataset: Path,
    split: Literal["valid", "test"],
    best_for: str,
    seed: int,
    pseudo: Literal["auto", "off"],
    as_json: bool,
) -> None:
    from llmcdsr_tools.data.dataset_folder import load_dataset
    from llmcdsr_tools.evaluation import official

    data = load_dataset(dataset)
    backend, item_embedding = official.open_model(model, data, best_for, folder=dataset)
    answers = official.open_answers(model, pseudo=pseudo == "auto")
    results = official.evaluate(backend, item_embedding, data, split=split, seed=seed, answers=answers)
    _print_results(results, split, seed, as_json)


def _print_results(results: list[Result], split: str, seed: int, as_json: bool) -> None:
    from llmcdsr_tools.evaluation.official import CUTOFFS, format_results

    if as_json:
        described = [{**asdict(r), "hr": _json_numbers(r.hr), "ndcg": _json_numbers(r.ndcg)} for r in results]
        click.echo(json.dumps({"split": split, "seed": seed, "cutoffs": CUTOFFS, "results": described}))
    else:
        click.echo(format_results(results))


def _json_numbers(values: Sequence[float]) -> list[float | None]:
    """JSON knows no nan, which a measure of no users is."""
    return [None if math.isnan(value) else value for value in values]
