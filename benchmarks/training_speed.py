"""Seconds an epoch and peak memory of training: ``python benchmarks/training_speed.py DATASET``.

Each recipe trains for a few epochs in a process of its own, whose peak resident memory is printed beside the
median epoch. With ``--random INTERACTIONS`` DATASET is made of random interactions if it is not there: a
million users and 200,000 items for each ten million of them, ten interactions a user in the mean.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import save_dataset

RECIPES = {"best": [], "official": ["--recipe", "official"]}
# One epoch of the official PyTorch code with BCE on a 2-core machine, as measured for the issue.
OFFICIAL_SECONDS = 66.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", default="1")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--random", type=int, metavar="INTERACTIONS")
    arguments = parser.parse_args()
    if arguments.random and not arguments.dataset.exists():
        save_dataset(random_data(arguments.random), arguments.dataset)
    print(f"{'recipe':<10}{'s/epoch':>9}{'min':>9}{'max':>9}{'with validation':>17}{'peak MiB':>10}")
    for name in arguments.recipes:
        options = RECIPES[name]
        options = [*options, "--epochs", str(arguments.epochs), "--threads", arguments.threads]
        seconds, total, peak = measure(arguments.dataset, options)
        median = statistics.median(seconds)
        print(
            f"{name:<10}{median:9.2f}{min(seconds):9.2f}{max(seconds):9.2f}"
            f"{total / len(seconds):17.2f}{peak:10.0f}"
        )
        if name == "official" and not arguments.random:
            print(f"  the official code's {OFFICIAL_SECONDS:.0f} s / ours: {OFFICIAL_SECONDS / median:.1f}")


def random_data(n_interactions: int, seed: int = 0) -> Dataset:
    """Users with three items or more, drawn alike; every hundredth held out for validation, and for test."""
    rng = np.random.default_rng(seed)
    n_users, n_items = n_interactions // 10, n_interactions // 50
    lengths = 3 + rng.poisson(7, n_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = rng.integers(1, n_items + 1, offsets[-1]).astype(np.int32)
    ids = [f"i{n}" for n in range(n_items)]
    titles = [f"A title of about usual length, number {n}" for n in range(n_items)]
    catalogue = Catalogue.from_sizes(ids, titles, ("a", "b"), (n_items // 2, n_items - n_items // 2))

    def users(first: int, last: int) -> Histories:
        names = [f"u{n}" for n in range(first, last)]
        return Histories(
            rows[offsets[first] : offsets[last]], offsets[first : last + 1] - offsets[first], names
        )

    tenth, fifth = n_users // 100, n_users // 50
    return Dataset(catalogue, users(fifth, n_users), users(0, tenth), users(tenth, fifth))


def measure(dataset: Path, options: list[str]) -> tuple[list[float], float, float]:
    """Seconds of every epoch, seconds of the whole process, its peak resident memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, "-m", "llmcdsr_tools", "train", str(dataset), "-o", str(run), *options]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"training failed: {' '.join(command)}")
        total = time.perf_counter() - start
        lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["seconds"] for line in lines], total, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
