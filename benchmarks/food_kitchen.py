"""The results table: ``python benchmarks/food_kitchen.py SOURCE WORK --text-embeddings FILE``.

Takes SOURCE, the official Food-Kitchen data, through ingest, training to early stopping and evaluation,
for every recipe and seed, and prints HR@10 and NDCG@10 of the test users: mean over the seeds, and the
largest distance from it. The epoch of each run is the one with the best mean validation HR@10; the test
split is read once, at the end. What is in WORK already is not done again, so that an interrupted run goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from llmcdsr_tools.dataset import Dataset, load_dataset
from llmcdsr_tools.evaluate import Result, evaluate, open_model
from llmcdsr_tools.ingest import IngestSettings, ingest
from llmcdsr_tools.train import TrainSettings, train

RECIPES = {
    "official recipe (BCE, 1 negative)": (TrainSettings(), False),
    "sampled softmax (256), items from titles": (TrainSettings(loss="sampled-softmax"), True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--text-embeddings", type=Path, help="leave out to skip the recipes that need them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    folder = arguments.work / "dataset"
    if not folder.exists():
        ingest(arguments.source, folder, settings=IngestSettings(domains=("food", "kitchen")))
    recipes = {
        name: (settings, arguments.text_embeddings if uses_text else None)
        for name, (settings, uses_text) in RECIPES.items()
        if arguments.text_embeddings or not uses_text
    }
    runs: dict[str, list[Path]] = {name: [] for name in recipes}
    for seed in arguments.seeds:
        for number, (name, (settings, text)) in enumerate(recipes.items()):
            run = arguments.work / "runs" / f"recipe-{number}-seed-{seed}"
            train(folder, run, replace(settings, seed=seed), text_embeddings=text, resume=True)
            runs[name].append(run)
    print_table({name: [measured(run, load_dataset(folder)) for run in done] for name, done in runs.items()})


def measured(run: Path, data: Dataset) -> list[Result]:
    """Test metrics of a run's best model, kept beside it."""
    backend, item_embedding = open_model(run, data)
    results = evaluate(backend, item_embedding, data)
    (run / "test.json").write_text(json.dumps([asdict(r) for r in results]), encoding="utf-8")
    return results


def print_table(measurements: dict[str, list[list[Result]]]) -> None:
    """One line for each protocol, group of users, target domain and recipe."""
    head = f"{'ranked among':<14}{'users':<18}{'target':<9}{'recipe':<42}"
    print(f"{head}{'HR@10':>8}{'+-':>7}{'NDCG@10':>9}{'+-':>7}")
    first = next(iter(measurements.values()))[0]
    for i, cell in enumerate(first):
        for name, seeds in measurements.items():
            hr10, hr10_spread = mean_and_spread([results[i].hr10 for results in seeds])
            ndcg10, ndcg10_spread = mean_and_spread([results[i].ndcg10 for results in seeds])
            protocol = "999 negatives" if cell.protocol == "sampled" else "whole domain"
            group = "all" if cell.group == "all" else "cold cross-domain"
            print(
                f"{protocol:<14}{group:<18}{cell.domain:<9}{name:<42}"
                f"{hr10:8.3f}{hr10_spread:7.3f}{ndcg10:9.3f}{ndcg10_spread:7.3f}"
            )


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and the largest distance of a value from it."""
    mean = sum(values) / len(values)
    return mean, max(abs(value - mean) for value in values)


if __name__ == "__main__":
    main()
