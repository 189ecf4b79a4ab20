"""Going on from yesterday's model, against training anew: ``python benchmarks/every_day.py SOURCE WORK``.

SOURCE is a folder with interactions.csv.gz and items.csv.gz (user, item, timestamp; item, domain, title). The
last tenth of the events is for test. Of the events before it, yesterday's model is trained on the first 90 %;
today's data set has all of them, and the items that have come since. Ways to a model for today:

- yesterday's, new items by their titles, nothing trained;
- going on from it for three epochs (`train --start-from`);
- training anew;
- either of these refitted (`llmcdsr refit`): trained on the events for validation, too, for as many epochs as
  were best.

All are ranked on the same test targets, each by what its user had before, in the whole domain; differences
are paired by target, their standard errors clustered by user. The last 5 % of the events of either data set
are for validation, which chooses the epoch. The seconds are of training without validation.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_tools.checkpoint import load_model
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.evaluation.comparison import compare
from llmcdsr_tools.evaluation.measures import Measured, measure
from llmcdsr_tools.evaluation.scorers import ModelScorer
from llmcdsr_tools.run_folder import best_model, read_header
from llmcdsr_tools.train.recipes import TrainSettings, recipe_settings
from llmcdsr_tools.train.starting_model import Start, read_starting_model
from llmcdsr_tools.train.training_run import TrainResult, train

TEST = 0.1  # of all events
YESTERDAY = 0.9  # of the events before those for test
VALID = 0.05  # of the events of a data set, without those for test

AS_IT_WAS, GOING_ON, ANEW = "as it was", "going on", "anew"
REFITTED = ", refitted"


@dataclass(frozen=True)
class Day:
    """A data set, and the folder that it is in."""

    folder: Path
    data: Dataset


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument(
        "work", type=Path, help="folder for data sets and runs; what is there is not made again"
    )
    parser.add_argument("--epochs", type=int, default=3, help="of going on (3)")
    parser.add_argument("--epochs-anew", type=int, help="at most, of yesterday's model and of training anew")
    parser.add_argument("--hidden", type=int, help="hidden size, in place of the recipe's")
    parser.add_argument("--core", type=int, default=1, help="least interactions of a user or an item (1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    work, threads = arguments.work, arguments.threads
    yesterday, today = days(arguments.source, work, arguments.core)
    given = {"hidden": arguments.hidden, "n_epochs": arguments.epochs_anew}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = recipe_settings("best", seed=arguments.seed, **changes)
    few = recipe_settings("best", seed=arguments.seed, n_epochs=arguments.epochs)

    def trained(
        day: Day, name: str, chosen: TrainSettings, start: Path | None = None, *, whole: bool = False
    ) -> TrainResult:
        folder, run = day.folder, work / name
        return train(folder, run, chosen, start_from=start, whole=whole, resume=True, threads=threads)

    before = trained(yesterday, "yesterday", settings)
    results = {
        GOING_ON: trained(today, "going-on", few, before.run),
        ANEW: trained(today, "anew", settings),
    }
    nobody = Histories.from_lists([], [])
    until_test = Day(work / "dataset-until-test", replace(today.data, test=nobody))
    if not until_test.folder.exists():
        until_test.data.save(until_test.folder)
    for name, first in ((GOING_ON, before.run), (ANEW, None)):
        chosen = read_header(results[name].run).settings
        again = TrainSettings(**{**chosen, "n_epochs": results[name].best_epoch})
        run = f"{results[name].run.name}-refitted"
        results[name + REFITTED] = trained(until_test, run, again, first, whole=True)
    start = read_starting_model(before.run).start(today.data.catalogue)
    print_days(yesterday.data, today.data, start)
    print(f"refitted on {len(until_test.data.whole().train.rows):,} interactions, all before the test")
    print_runs({"yesterday": before, **results})
    print_measures(measured(today.data, start, results))


def days(source: Path, work: Path, core: int) -> tuple[Day, Day]:
    """Yesterday's data set and today's."""
    interactions, items = (source / f"{name}.csv.gz" for name in ("interactions", "items"))
    with gzip.open(interactions, "rt", encoding="utf-8", newline="") as file:
        times = sorted(float(record["timestamp"]) for record in csv.DictReader(file))
    moment = times[round(len(times) * (1 - TEST) * YESTERDAY)]
    valid = VALID * (1 - TEST)
    found = []
    for name, settings in (
        (
            "dataset-yesterday",
            {"where": f"timestamp < {moment:.0f}", "valid_share": VALID, "test_share": 0.0},
        ),
        ("dataset-today", {"valid_share": valid, "test_share": TEST}),
    ):
        data = Dataset.from_interactions(
            str(interactions), items=str(items), core=core, split="time", **settings
        )
        if not (work / name).exists():
            data.save(work / name)
        found.append(Day(work / name, data))
    return found[0], found[1]


def measured(data: Dataset, start: Start, results: dict[str, TrainResult]) -> Measured:
    """All ways on the test targets."""
    models = {name: load_model(best_model(result.run))[0] for name, result in results.items()}
    table = np.concatenate([np.zeros_like(start.items[:1]), start.items])
    untrained = SASRecParameters(models[GOING_ON].config, table, start.dense)
    scorers = [
        ModelScorer(NumpyBackend(model), model.item_embedding, name)
        for name, model in {AS_IT_WAS: untrained, **models}.items()
    ]
    return measure(scorers, data, "test", "every", groups=("all",), parts=False)


def print_days(yesterday: Dataset, today: Dataset, start: Start) -> None:
    """Sizes of the data sets, and what became of the items."""
    for name, data in (("yesterday", yesterday), ("today", today)):
        print(f"{name}: {data}, {len(data.train.rows):,} training interactions")
    print(f"items: {start.n_kept:,} as they were, {start.n_new:,} new, {start.n_gone:,} gone")


def print_runs(results: dict[str, TrainResult]) -> None:
    """Epochs and seconds of each run."""
    for name, result in results.items():
        seconds = sum(epoch.seconds for epoch in result.epochs)
        print(f"{name:<18} {len(result.epochs):>3} epochs, best {result.best_epoch:>3}, {seconds:>8,.0f} s")


def print_measures(found: Measured) -> None:
    """HR@10 and NDCG@10 of each way, and differences: of going on, and of refitting."""
    for m in found.measures:
        print(
            f"{m.domain:<10.10} {m.scorer:<18} {m.n_targets:>6,} targets of {m.n_users:,} users  "
            f"HR@10 {m.hr10:.4f} ± {m.hr10_error:.4f}  NDCG@10 {m.ndcg10:.4f} ± {m.ndcg10_error:.4f}"
        )
    pairs = [(GOING_ON, ANEW), (GOING_ON, AS_IT_WAS), *((way + REFITTED, way) for way in (GOING_ON, ANEW))]
    for one, other in (*pairs, (GOING_ON + REFITTED, ANEW + REFITTED)):
        for d in compare(found, one, other):
            print(
                f"{d.domain:<10.10} {one} minus {other}: HR@10 {d.hr10:+.4f} ± {d.hr10_error:.4f}  "
                f"NDCG@10 {d.ndcg10:+.4f} ± {d.ndcg10_error:.4f}"
            )


if __name__ == "__main__":
    main()
