"""What dense Adam is worth against moving touched rows alone: ``python benchmarks/row_adam.py DATASET RUNS``.

Trains the same recipe twice for every seed, with Adam moving all item rows (`DeferredAdam`) and with Adam
moving only the rows that a step touches (`RowAdam`), and prints the best validation HR@10 of each (999
negatives) and the seconds an epoch: the official recipe and, with text embeddings, sampled softmax. Runs are
kept in RUNS, and continued from there if this is interrupted.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Literal

from llmcdsr_tools.train import TrainResult, TrainSettings, train
from llmcdsr_tools.train.settings import recipe_settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--text-embeddings", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=200)
    arguments = parser.parse_args()
    recipes: list[tuple[Literal["bce", "sampled-softmax"], Path | None]] = [("bce", None)]
    if arguments.text_embeddings is not None:
        recipes.append(("sampled-softmax", arguments.text_embeddings))
    print(f"{'loss':<17}{'item rows':<10}{'seed':>5}{'best epoch':>12}", end="")
    print(f"{'HR@10 A':>9}{'HR@10 B':>9}{'mean':>8}{'s/epoch':>9}")
    kinds: tuple[Literal["deferred", "rows"], ...] = ("deferred", "rows")
    for loss, text in recipes:
        for updates in kinds:
            for seed in arguments.seeds:
                settings = recipe_settings(
                    "official",
                    n_negatives=256,
                    loss=loss,
                    item_updates=updates,
                    seed=seed,
                    n_epochs=arguments.epochs,
                )
                run = arguments.runs / f"{loss}-{updates}-{seed}"
                result = train(arguments.dataset, run, settings, text_embeddings=text, resume=True)
                print_row(settings, result)


def print_row(settings: TrainSettings, result: TrainResult) -> None:
    best = result.epochs[result.best_epoch - 1]
    seconds = statistics.median(e.seconds for e in result.epochs)
    print(
        f"{settings.loss:<17}{settings.item_updates:<10}{settings.seed:>5}{result.best_epoch:>12}"
        f"{best.merits[0]:9.4f}{best.merits[1]:9.4f}{best.merit:8.4f}{seconds:9.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
