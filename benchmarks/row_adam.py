"""What row-sparse Adam costs against dense Adam: ``python benchmarks/row_adam.py DATASET RUNS``.

Trains the same recipe twice for every seed, with Adam moving only the item rows that a step touches and
with Adam moving the whole item table, and prints the best validation HR@10 of each (999 negatives) and
the seconds an epoch. Runs are kept in RUNS, and continued from there if this is interrupted.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Literal

from llmcdsr_tools.train.stage import TrainResult, TrainSettings, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=200)
    arguments = parser.parse_args()
    head = f"{'item updates':<14}{'seed':>5}{'best epoch':>12}{'HR@10 A':>9}{'HR@10 B':>9}"
    print(head + f"{'mean':>8}{'s/epoch':>9}")
    kinds: tuple[Literal["rows", "deferred"], ...] = ("rows", "deferred")
    for seed in arguments.seeds:
        for updates in kinds:
            settings = TrainSettings(item_updates=updates, seed=seed, n_epochs=arguments.epochs)
            run = arguments.runs / f"{updates}-{seed}"
            print_row(updates, seed, train(arguments.dataset, run, settings, resume=True))


def print_row(updates: str, seed: int, result: TrainResult) -> None:
    best = result.epochs[result.best_epoch - 1]
    seconds = statistics.median(e.seconds for e in result.epochs)
    print(
        f"{updates:<14}{seed:>5}{result.best_epoch:>12}{best.hr10[0]:9.4f}{best.hr10[1]:9.4f}"
        f"{best.mean_hr10:8.4f}{seconds:9.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
