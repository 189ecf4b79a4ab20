"""Quality of a recipe on a data set: ``python benchmarks/quality.py DATASET WORK --titles titles.npy``.

Trains the recipe once a seed, exports each run, and prints the test measures of the bundles as they answer,
beside the sequence model alone and the best baseline: mean over the seeds, ± the largest distance from it.
With --members, the seeds are one bundle's members besides. What is there already is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from llmcdsr_tools.dataset import load_dataset
from llmcdsr_tools.evaluation.comparison import verdicts
from llmcdsr_tools.evaluation.measures import Measured
from llmcdsr_tools.evaluation.stage import BASELINES, evaluate
from llmcdsr_tools.export import export
from llmcdsr_tools.train import train
from llmcdsr_tools.train.settings import recipe_settings

COLUMNS = {
    "HR@10": "hr10",
    "NDCG@10": "ndcg10",
    "HR@10/999": "expected_hr10",
    "unseen HR@10": "hr10_unseen",
    "unseen NDCG@10": "ndcg10_unseen",
    "unseen HR/999": "expected_hr10_unseen",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--titles", type=Path, help="matrix of `llmcdsr embed`; word vectors without it")
    parser.add_argument("--recipe", choices=["best", "official"], default="best")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--members", action="store_true", help="also the seeds as members of one bundle")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    work, titles = arguments.work, arguments.titles
    if arguments.recipe == "official":
        titles = None
    for number, seed in enumerate(arguments.seeds, 1):
        settings = recipe_settings(arguments.recipe, seed=seed)
        run = work / "run" / f"member-{number}"
        train(
            arguments.dataset, run, settings, text_embeddings=titles, resume=True, threads=arguments.threads
        )
        if not (work / f"bundle-{seed}").exists():
            export(run, work / f"bundle-{seed}")
    single = [evaluate([work / f"bundle-{seed}"], arguments.dataset) for seed in arguments.seeds]
    print_table(f"{len(single)} seeds", single, arguments.dataset)
    if arguments.members:
        if not (work / "bundle-members").exists():
            export(work / "run", work / "bundle-members")
        print_table("members", [evaluate([work / "bundle-members"], arguments.dataset)], arguments.dataset)


def print_table(name: str, measured: Sequence[Measured], dataset: Path) -> None:
    """A line for each domain and group: the model, the model alone and the best baseline."""
    domains = load_dataset(dataset).catalogue.domains
    print(f"\n{name:<44}" + "".join(f"{head:>17}" for head in COLUMNS))
    for group in ("all", "cold"):
        for domain in domains:
            first = [m for m in measured[0].measures if (m.group, m.domain) == (group, domain.name)]
            best = max((m for m in first if m.scorer in BASELINES), key=lambda m: m.ndcg10).scorer
            for scorer in ("model", "model alone", best):
                cells = _cells(measured, scorer, group, domain.name)
                line = f"{group:<6}{domain.name:<24.23}{scorer:<14}"
                print(line + "".join(f"{cell:>17}" for cell in cells))
    for said in verdicts(measured[0], "model", BASELINES):
        print(said)


def _cells(measured: Sequence[Measured], scorer: str, group: str, domain: str) -> list[str]:
    """Mean and spread of every column; a model that nothing is added to has no line of its own alone."""
    found = [m.find(scorer, group, domain) or m.find("model", group, domain) for m in measured]
    cells = []
    for field in COLUMNS.values():
        values = [getattr(one, field) for one in found]
        mean = sum(values) / len(values)
        spread = max(abs(value - mean) for value in values)
        cells.append(f"{mean:.4f}" + (f" ± {spread:.4f}" if len(values) > 1 else ""))
    return cells


if __name__ == "__main__":
    main()
