"""Quality of a recipe on a data set: ``python benchmarks/quality.py DATASET WORK --titles titles.npy``.

Trains the recipe once a seed, exports each run, and prints the test measures of the bundles as they answer,
beside the sequence model alone and the best baseline: mean over the seeds, ± the largest distance from it.
With --members, the seeds are one bundle's members besides; with --distill, a student is trained on their
scores for each seed, too, and paired differences of the models alone on validation are printed. What is there
already is not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import load_dataset, save_dataset
from llmcdsr_tools.evaluation.comparison import verdicts
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.measures import Measured, gains, measure, standard_error
from llmcdsr_tools.evaluation.model_evaluation import BASELINES, evaluate, open_scorers
from llmcdsr_tools.evaluation.scorers import Named
from llmcdsr_tools.export.bundle_export import export
from llmcdsr_tools.train.recipes import recipe_settings
from llmcdsr_tools.train.training_run import train

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
    parser.add_argument("--hidden", type=int, help="hidden size, in place of the recipe's")
    parser.add_argument("--dropout", type=float, help="in place of the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--members", action="store_true", help="also the seeds as members of one bundle")
    parser.add_argument("--distill", action="store_true", help="also a student of the members for each seed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--users", type=int, help="train on so many users, drawn at random")
    parser.add_argument("--newest", type=int, help="of the newest so many items of each history")
    arguments = parser.parse_args()
    work, titles, dataset = arguments.work, arguments.titles, arguments.dataset
    if arguments.users or arguments.newest:
        dataset = work / "dataset"
        if not dataset.exists():
            save_dataset(smaller(load_dataset(arguments.dataset), arguments.users, arguments.newest), dataset)
    if arguments.recipe == "official":
        titles = None
    given = {name: getattr(arguments, name) for name in ("hidden", "dropout")}
    changes = {name: value for name, value in given.items() if value is not None}
    all_settings = [recipe_settings(arguments.recipe, seed=seed, **changes) for seed in arguments.seeds]
    train_run = partial(train, dataset, text_embeddings=titles, resume=True, threads=arguments.threads)
    runs = [work / "run" / f"member-{number}" for number in range(1, len(all_settings) + 1)]
    for seed, run, settings in zip(arguments.seeds, runs, all_settings, strict=True):
        train_run(run, settings)
        if not (work / f"bundle-{seed}").exists():
            export(run, work / f"bundle-{seed}")
    single = [evaluate([work / f"bundle-{seed}"], dataset) for seed in arguments.seeds]
    print_table(f"{len(single)} seeds", single, dataset)
    if arguments.members:
        if not (work / "bundle-members").exists():
            export(work / "run", work / "bundle-members")
        print_table("members", [evaluate([work / "bundle-members"], dataset)], dataset)
    if arguments.distill:
        students = [work / f"student-{seed}" for seed in arguments.seeds]
        for student, settings in zip(students, all_settings, strict=True):
            train_run(student, settings, teachers=runs)
        print_differences({"seeds": runs, "members": [work / "run"], "students": students}, dataset)
        for seed, student in zip(arguments.seeds, students, strict=True):
            if not (work / f"bundle-student-{seed}").exists():
                export(student, work / f"bundle-student-{seed}")
        found = [evaluate([work / f"bundle-student-{seed}"], dataset) for seed in arguments.seeds]
        print_table(f"{len(found)} students", found, dataset)


def smaller(data: Dataset, n_users: int | None, newest: int | None) -> Dataset:
    """Fewer training users, and shorter histories; of held-out users, those that a small set would have.

    Where items are left out one by one, the held-out histories are those of the training users. Elsewhere all
    held-out users stay.
    """
    order = np.random.default_rng(21).permutation(len(data.train))
    kept = np.sort(order[:n_users])
    users = {data.train.users[user] for user in kept.tolist()}
    one_by_one = data.train.users == data.test.users

    def cut(histories: Histories, keep_all: bool, more: int) -> Histories:
        pairs = [(h, u) for h, u in zip(histories, histories.users, strict=True) if keep_all or u in users]
        length = None if newest is None else newest + more
        lists = [h.tolist() if length is None else h[-length:].tolist() for h, _ in pairs]
        return Histories.from_lists(lists, [u for _, u in pairs])

    valid, test = (cut(data.split(s), not one_by_one, n) for s, n in (("valid", 1), ("test", 2)))  # type: ignore[arg-type]
    return replace(data, train=cut(data.train, False, 0), valid=valid, test=test)


def print_table(name: str, measured: Sequence[Measured], dataset: Path) -> None:
    """A line for each domain and group: the model, the model alone and the best baseline."""
    domains = load_dataset(dataset).catalogue.domains
    print(f"\n{name:<44}" + "".join(f"{head:>17}" for head in COLUMNS))
    for group in ("all", "cold"):
        for domain in domains:
            first = [m for m in measured[0].measures if (m.group, m.domain) == (group, domain.name)]
            if not any(m.n_targets for m in first):
                continue  # nobody is without the only domain
            best = max((m for m in first if m.scorer in BASELINES), key=lambda m: m.ndcg10).scorer
            for scorer in ("model", "model alone", best):
                cells = _cells(measured, scorer, group, domain.name)
                line = f"{group:<6}{domain.name:<24.23}{scorer:<14}"
                print(line + "".join(f"{cell:>17}" for cell in cells))
    for said in verdicts(measured[0], "model", BASELINES):
        print(said)


def print_differences(groups: dict[str, list[Path]], dataset: Path) -> None:
    """Validation of runs: the mean of each group less that of the first one, in a domain and over all.

    Standard errors are of users, paired; not of seeds.
    """
    data = load_dataset(dataset)
    runs = {str(run): run for group in groups.values() for run in group}
    scorers = [Named(name, open_scorers(run, data, folder=dataset)[0]) for name, run in runs.items()]
    ranked = measure(scorers, data, "valid", "every", groups=("all",), parts=False).ranked
    print(f"\n{'validation, differences':<44}{'NDCG@10':>17}{'HR@10/999':>17}")
    first, *others = groups
    for group in others:
        differences = []  # of each domain, (measures, queries)
        for domain in data.catalogue.domains:
            expected = ExpectedMetrics(domain.n_items)
            less, more = (
                np.mean(
                    [_values(ranked[str(r), "all", domain.name].rank, expected) for r in groups[g]], axis=0
                )
                for g in (first, group)
            )
            differences.append(more - less)
        users = [ranked[str(groups[group][0]), "all", d.name].users for d in data.catalogue.domains]
        for domain, of_users, values in zip(data.catalogue.domains, users, differences, strict=True):
            _print_difference(f"{group} - {first}, {domain.name}", values.mean(axis=1), values, of_users)
        mean = np.mean([values.mean(axis=1) for values in differences], axis=0)
        share = sum(map(len, users)) / len(users)  # of a query in the mean of domains, not of queries
        scaled = [(v - v.mean(axis=1, keepdims=True)) * share / v.shape[1] for v in differences]
        _print_difference(
            f"{group} - {first}, mean", mean, np.concatenate(scaled, axis=1), np.concatenate(users)
        )


def _values(rank: npt.NDArray[np.int64], expected: ExpectedMetrics) -> npt.NDArray[np.float64]:
    """NDCG@10 and expected HR@10 (2, n) of ranks (n,)."""
    return np.stack([gains(rank), expected.hits(rank)])


def _print_difference(
    name: str,
    means: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    users: npt.NDArray[np.int64],
) -> None:
    """A line: differences, and standard errors from the values (measures, n) of users (n,)."""
    errors = [standard_error(row, users) for row in values]
    cells = (f"{m:+.4f} ± {e:.4f}" for m, e in zip(means, errors, strict=True))
    print(f"{name:<44}" + "".join(f"{cell:>17}" for cell in cells))


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
