"""Ours beside peers on one data set: ``python benchmarks/peers.py DATASET WORK --bundle best=BUNDLE``.

Makes an environment of its own in ``WORK/environment`` (RecTools, implicit, PyTorch for CPU), trains each
peer there in a process with one thread, and prints one table: the same test users, targets (the last item)
and domains for all. HR@10 and NDCG@10 in the whole domain, items of the history ranked, too; HR@10 among 999
negatives in expectation; coverage of the first ten; seconds of training; size; milliseconds of a request
(p50). A peer that has been measured is not trained again.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite import Recommender
from llmcdsr_lite.catalogue import Domain
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.evaluation.baselines import baselines
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.measures import TOP, gains, rank
from llmcdsr_tools.evaluation.model_evaluation import open_scorers
from llmcdsr_tools.evaluation.queries import Queries

PEERS = ("implicit-als", "rectools-gbce", "rectools-softmax")
PACKAGES = ("torch==2.13.0", "rectools==0.19.0", "implicit", "pytorch-lightning")
CHILD = Path(__file__).with_name("peers_child.py")


@dataclass(frozen=True)
class Part:
    """Queries of one group and target domain."""

    group: str
    domain: Domain
    queries: Queries


@dataclass(frozen=True)
class Line:
    """A line of the table: ranks and coverage of each part, and what the model costs."""

    name: str
    ranks: list[npt.NDArray[np.int64]]
    coverage: list[float]
    seconds: float | None = None
    megabytes: float | None = None
    milliseconds: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--bundle", action="append", default=[], metavar="NAME=FOLDER", help="of ours")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--epochs", default="12", help="of RecTools' models")
    arguments = parser.parse_args()
    data = load_dataset(arguments.dataset)
    parts = make_parts(data)
    lines = [scored(scorer.name, scorer, parts) for scorer in baselines(data)]
    if arguments.peers:
        python = environment(arguments.work)
        write_inputs(data, parts, arguments.work)
        work, epochs = arguments.work, arguments.epochs
        lines += [measure_peer(name, python, work, parts, epochs) for name in arguments.peers]
    for entry in arguments.bundle:
        name, _, folder = entry.partition("=")
        lines.append(measure_bundle(name, Path(folder), data, parts))
    print_table(lines, parts)


def make_parts(data: Dataset) -> list[Part]:
    """The last item of every test history, as it is and cold, for each target domain."""
    everyone = Queries.of_data(data, "test", "last")
    groups = {"all": everyone, "cold": everyone.cold(data.catalogue)}
    return [Part(g, d, q.into(d)) for g, q in groups.items() for d in data.catalogue.domains]


def environment(work: Path) -> Path:
    """Python of an environment that has the peers."""
    python = work / "environment" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", work / "environment"], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    return python


def write_inputs(data: Dataset, parts: list[Part], work: Path) -> None:
    """What a peer is trained on and asked, without pickle."""
    np.savez(work / "train.npz", rows=data.train.rows.astype(np.int64), offsets=data.train.offsets)
    histories = [h for part in parts for h in part.queries.histories]
    np.savez(
        work / "queries.npz",
        rows=np.concatenate(histories).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum([len(h) for h in histories])]),
        targets=np.concatenate([part.queries.targets for part in parts]),
        start=np.concatenate([np.full(len(p.queries), p.domain.start) for p in parts]),
        stop=np.concatenate([np.full(len(p.queries), p.domain.stop) for p in parts]),
    )


def measure_peer(name: str, python: Path, work: Path, parts: list[Part], epochs: str) -> Line:
    """Train a peer in its environment, unless that was done."""
    output = work / f"{name}.npz"
    if not output.exists():
        print(f"{name} ...", file=sys.stderr)
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [str(python), str(CHILD), str(work), name, epochs]
        subprocess.run(command, check=True, env={**os.environ, **threads, "PYTHONPATH": ""})
    found = np.load(output)
    stops = np.cumsum([len(part.queries) for part in parts])
    ranks, tops = np.split(found["rank"], stops[:-1]), np.split(found["top"], stops[:-1])
    coverage = [len(np.unique(t[t > 0])) / p.domain.n_items for t, p in zip(tops, parts, strict=True)]
    return Line(name, ranks, coverage, float(found["seconds"]), None, float(found["milliseconds"]))


def scored(name: str, scorer: Any, parts: list[Part]) -> Line:
    """Ranks by a scorer of ours."""
    found = [rank(scorer, part.queries, part.domain, top=True) for part in parts]
    coverage = [float(np.mean(one.recommended > 0)) for one in found if one.recommended is not None]
    return Line(name, [one.rank for one in found], coverage)


def measure_bundle(name: str, folder: Path, data: Dataset, parts: list[Part]) -> Line:
    """A bundle as it answers."""
    line = scored(name, open_scorers(folder, data)[0], parts)
    size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    recommender = Recommender.load(folder)
    ids = [data.catalogue.ids[row - 1] for row in parts[0].queries.histories[0].tolist()]
    times = []
    for _ in range(300):
        begin = time.perf_counter()
        recommender.recommend(ids, domain=parts[0].domain.name)
        times.append(1000 * (time.perf_counter() - begin))
    return Line(name, line.ranks, line.coverage, None, size, statistics.median(times))


def print_table(lines: list[Line], parts: list[Part]) -> None:
    heads = [f"{part.group}: {part.domain.name}" for part in parts]
    print("HR@10 / NDCG@10 in the whole domain, HR@10 among 999, coverage")
    print(f"{'':<20}" + "".join(f"{head:>30}" for head in heads) + f"{'s':>8}{'MB':>7}{'ms':>8}")
    for line in lines:
        cells = []
        for found, coverage, part in zip(line.ranks, line.coverage, parts, strict=True):
            among = ExpectedMetrics(part.domain.n_items).hits(found).mean()
            cells.append(
                f"{(found < TOP).mean():.3f} / {gains(found).mean():.3f}, {among:.3f}, {coverage:.2f}"
            )
        costs = (line.seconds, line.megabytes, line.milliseconds)
        told = "".join(
            f"{'-' if cost is None else f'{cost:.{digits}f}':>{width}}"
            for cost, digits, width in zip(costs, (0, 1, 2), (8, 7, 8), strict=True)
        )
        print(f"{line.name:<20}" + "".join(f"{cell:>30}" for cell in cells) + told)


if __name__ == "__main__":
    main()
