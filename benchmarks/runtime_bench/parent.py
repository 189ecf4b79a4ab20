"""Benchmark of the runtime: every configuration in a process of its own, baselines in the same run.

A fresh process for each makes memory, start time and thread settings what a deployment would see. All answer
the same requests, through the public API: item ids in, ids and scores of ten items out, items of the history
left out. Each one's answers are compared with those of the NumPy model and exact search; a baseline that
claims to be the same model and answers differently is void.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args

import numpy as np

import llmcdsr_lite
from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.errors import LlmcdsrError, UsageError
from llmcdsr_lite.model.backends import BackendName
from llmcdsr_lite.search.choice import SearchName
from runtime_bench.job import LENGTHS, USUAL_LENGTH, Answers, Job, K, Kind, Measurement, Workload

BASELINES: tuple[Kind, ...] = ("torch", "replay")
# numerical libraries read these when they are loaded
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
N_HISTORIES = 256  # of each length
N_USUAL = 1024  # of the usual length: four batches of 256
SAME_SCORE = 1e-3  # relative to the largest score: float32 of another library
SAME_ITEMS = 0.999  # of the items, where two have the same score but for rounding


@dataclass(frozen=True)
class BenchSettings:
    """How much is measured.

    Parameters
    ----------
    n_requests : int
        Single requests for each latency.
    n_soak : int
        Single requests of a one-thread configuration with exact search, before its memory is looked at again.
    batch_seconds : float
        Time for each size of a batch.
    n_starts : int
        Processes that the start time is the median of.
    threads : tuple of int
    seed : int
        Of the histories.
    only : tuple of str
        Patterns of the names of configurations (``onnx-exact-1``, ``torch-*``); all where there are none.
    baseline_python : str
        The Python that has PyTorch and RePlay.
    """

    n_requests: int = 2000
    n_soak: int = 100_000
    batch_seconds: float = 1.0
    n_starts: int = 3
    threads: tuple[int, ...] = (1, 2)
    seed: int = 0
    only: tuple[str, ...] = ()
    baseline_python: str = sys.executable

    def quick(self) -> BenchSettings:
        """Enough to see that everything runs."""
        return replace(self, n_requests=100, n_soak=1000, batch_seconds=0.1, n_starts=1)


@dataclass(frozen=True)
class Outcome:
    """One configuration and what was found.

    Parameters
    ----------
    job : Job
    measurement : Measurement
    start_seconds : float
        From the start of the process to the first answer, median.
    same_items : float or None
        Share of the ten items of exact search in float32 that it finds, mean; None for another model.
    """

    job: Job
    measurement: Measurement
    start_seconds: float = 0.0
    same_items: float | None = None


@dataclass(frozen=True)
class BenchReport:
    """Everything that a run found out."""

    bundle: str
    n_items: int
    domains: tuple[str, ...]
    hidden: int
    bundle_bytes: int
    machine: dict[str, Any]
    settings: BenchSettings
    outcomes: tuple[Outcome, ...]

    def as_json(self) -> dict[str, Any]:
        """Report as JSON-able values, the answers left out."""
        outcomes = [replace(one, measurement=replace(one.measurement, answers=None)) for one in self.outcomes]
        return asdict(replace(self, outcomes=tuple(outcomes)))


def bench(
    model: Path, settings: BenchSettings, progress: Callable[[Outcome], None] | None = None
) -> BenchReport:
    """Measure the runtime on a bundle, and the baselines that are installed.

    Parameters
    ----------
    model : Path
        Bundle folder.
    settings : BenchSettings
    progress : callable, optional
        Called with each configuration that is done.

    Returns
    -------
    BenchReport

    Raises
    ------
    UsageError
        If no configuration has one of the names asked for.
    LlmcdsrError
        If a configuration of the runtime fails.
    """
    bundle = read_bundle(model)
    described = machine()  # before we load it ourselves
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        workload = draw_workload(bundle, settings.seed)
        workload.write(work / "workload.json")
        jobs = list(plan(model, work / "workload.json", workload, settings))
        if not jobs:
            raise UsageError(f"no configuration is named {' or '.join(settings.only)}")
        reference = reference_answers(model, workload)
        packages = copy_packages(work / "packages")
        outcomes = []
        for job in jobs:
            outcomes.append(measure(job, settings, packages, reference))
            if progress is not None:
                progress(outcomes[-1])
    config = bundle.parameters.config
    size = sum(path.stat().st_size for path in model.iterdir())
    return BenchReport(
        str(model),
        config.n_items,
        tuple(domain.name for domain in bundle.catalogue.domains),
        config.hidden,
        size,
        described,
        settings,
        tuple(outcomes),
    )


def draw_workload(bundle: Bundle, seed: int) -> Workload:
    """Histories of each length; items are drawn as often as training had them."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(bundle.item_counts[1:] + 1e-9)  # a bundle may have no counts at all
    ids = bundle.catalogue.ids
    histories = {}
    for length in LENGTHS:
        n = N_USUAL if length == USUAL_LENGTH else N_HISTORIES
        drawn = np.searchsorted(cumulative, rng.random((n, length)) * cumulative[-1], side="right")
        histories[str(length)] = [[ids[place] for place in row] for row in drawn.tolist()]
    return Workload([domain.name for domain in bundle.catalogue.domains], histories)


def plan(model: Path, workload_path: Path, workload: Workload, settings: BenchSettings) -> Iterator[Job]:
    """All configurations that are asked for; for each number of threads the runtime, then the baselines."""
    first = workload.of_length(USUAL_LENGTH)[0]
    common = Job("runtime", str(model.resolve()), str(workload_path), first)
    common = replace(common, n_requests=settings.n_requests, batch_seconds=settings.batch_seconds)
    for threads in settings.threads:
        jobs = [
            replace(common, backend=backend, search=search, threads=threads)
            for backend in get_args(BackendName)
            for search in get_args(SearchName)
            if search != "auto"
        ]
        jobs += [replace(common, kind=kind, threads=threads) for kind in BASELINES]
        for job in jobs:
            if not settings.only or any(fnmatch(job.name, pattern) for pattern in settings.only):
                soaks = job.search == "exact" and threads == 1
                yield replace(job, n_soak=settings.n_soak) if soaks else job


def reference_answers(model: Path, workload: Workload) -> Answers:
    """What the NumPy model and exact search answer."""
    recommender = Recommender.load(model, backend="numpy", search="exact")
    answer = recommender.recommend_batch(workload.of_length(USUAL_LENGTH), k=K)
    return Answers(answer.ids.tolist(), answer.scores.tolist())


def copy_packages(folder: Path) -> Path:
    """Copy the runtime and this: a Python that has neither finds them, and nothing else of ours."""
    for source in (Path(str(llmcdsr_lite.__file__)).parent, Path(__file__).parent):
        shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def measure(job: Job, settings: BenchSettings, packages: Path, reference: Answers) -> Outcome:
    """Run one configuration, its start several times."""
    found = run_child(job, settings, packages)
    if found.skipped is not None:
        return Outcome(job, found)
    again = replace(job, n_requests=0)
    more = [run_child(again, settings, packages).start_seconds for _ in range(settings.n_starts - 1)]
    same_items = None
    if job.kind != "replay" and found.answers is not None:
        same_items = compare(found.answers, reference)
        if job.kind == "torch" and not is_same_model(found.answers, reference, same_items):
            reason = f"void: it finds {same_items:.1%} of the runtime's items, or other scores"
            return Outcome(job, Measurement(skipped=reason))
    return Outcome(job, found, statistics.median([found.start_seconds, *more]), same_items)


def run_child(job: Job, settings: BenchSettings, packages: Path) -> Measurement:
    """Run a job in a process of its own."""
    environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(job.threads))}
    is_baseline = job.kind in BASELINES
    python = settings.baseline_python if is_baseline else sys.executable
    environment["PYTHONPATH"] = str(packages if is_baseline else Path(__file__).parents[1])
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        command = [python, "-m", "runtime_bench.child", json.dumps(asdict(job)), result.name]
        try:
            done = subprocess.run(
                [*command, repr(time.time())], env=environment, capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise UsageError(f"{python}: does not run: {error}") from None
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            if is_baseline:  # not ours to repair: say so and go on
                return Measurement(skipped=f"failed: {last}")
            raise LlmcdsrError(f"configuration {job.name} failed: {last}")
        return Measurement.from_json(json.loads(Path(result.name).read_text(encoding="utf-8")))


def compare(found: Answers, reference: Answers) -> float:
    """Share of the reference's items that were found, mean over the users."""
    shares = [
        len(set(ids) & set(wanted)) / max(1, len(set(wanted) - {None}))
        for ids, wanted in zip(found.ids, reference.ids, strict=True)
    ]
    return statistics.fmean(shares)


def is_same_model(found: Answers, reference: Answers, same_items: float) -> bool:
    """Whether the answers are those of the same model but for rounding."""
    expected = np.array(reference.scores)
    difference = np.abs(np.array(found.scores) - expected).max() / np.abs(expected).max()
    return same_items >= SAME_ITEMS and bool(difference <= SAME_SCORE)


def machine() -> dict[str, Any]:
    """What it ran on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # processes that want to run
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
