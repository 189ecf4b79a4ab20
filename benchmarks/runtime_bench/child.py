"""The child process of the benchmark: ``python -m runtime_bench.child JOB RESULT STARTED``.

It loads what the job names, answers once, notes the time since the parent started it, and measures on.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from runtime_bench.job import (
    BATCH_SIZES,
    LENGTHS,
    USUAL_LENGTH,
    WARM_UP,
    Answers,
    Job,
    K,
    Latency,
    Measurement,
    Memory,
    Subject,
    Throughput,
    Workload,
)

PACKAGES = ("numpy", "onnxruntime", "hnswlib", "torch", "replay-rec", "openvino")
MIN_BATCHES = 5


class RuntimeSubject:
    """The runtime through its public API."""

    def __init__(self, job: Job) -> None:
        from llmcdsr_lite import Recommender

        options: dict[str, Any] = {"backend": job.backend, "search": job.search}
        self._recommender = Recommender.load(job.bundle, threads=job.threads, **options)
        self.search_name = self._recommender.search_name

    def recommend(self, history: Sequence[str], domain: str | None) -> Sequence[tuple[str, float]]:
        """See `Subject.recommend`."""
        return [(item.id, item.score) for item in self._recommender.recommend(history, domain=domain, k=K)]

    def recommend_batch(self, histories: Sequence[Sequence[str]], domain: str | None) -> tuple[Any, Any]:
        """See `Subject.recommend_batch`."""
        answer = self._recommender.recommend_batch(histories, domain=domain, k=K)
        return answer.ids, answer.scores


def run(job: Job, started: float) -> Measurement:
    """Measure one configuration.

    Parameters
    ----------
    job : Job
    started : float
        When the parent started this process, by ``time.time()``.

    Returns
    -------
    Measurement
    """
    from llmcdsr_lite.errors import LlmcdsrError

    try:
        make = importer(job.kind)
        imported = time.time() - started
        subject = make(job)
        subject.recommend(job.first, None)
    except ModuleNotFoundError as error:
        return Measurement(skipped=f"{error.name} is not installed")
    except LlmcdsrError as error:
        return Measurement(skipped=str(error))
    start_seconds = time.time() - started
    versions = installed_versions()
    if not job.n_requests:
        return Measurement(None, imported, start_seconds, subject.search_name, versions)
    after_load = resident_bytes()
    workload = Workload.read(Path(job.workload))
    with_workload = resident_bytes()
    latencies = [
        latency(subject, workload.of_length(length), length, domain, job.n_requests)
        for length, domain in figures(workload.domains, LENGTHS)
    ]
    n_requests = soak(subject, workload, len(latencies) * (WARM_UP + job.n_requests), job.n_soak)
    after_requests = resident_bytes()
    usual = workload.of_length(USUAL_LENGTH)
    throughputs = [
        throughput(subject, usual, size, domain, job.batch_seconds)
        for size in BATCH_SIZES
        for domain in (None, *workload.domains)
    ]
    ids, scores = subject.recommend_batch(usual, None)
    return Measurement(
        None,
        imported,
        start_seconds,
        subject.search_name,
        versions,
        latencies,
        throughputs,
        Memory(after_load, with_workload, after_requests, n_requests, resident_bytes()),
        Answers([list(row) for row in ids], scores.tolist()),
    )


def importer(kind: str) -> Callable[[Job], Subject]:
    """Import what that kind needs, and return what makes it."""
    if kind == "torch":
        from runtime_bench.torch_baseline import TorchSubject

        return TorchSubject
    if kind == "replay":
        from runtime_bench.replay_baseline import ReplaySubject

        return ReplaySubject
    return RuntimeSubject


def figures(domains: Sequence[str], lengths: Sequence[int]) -> Iterator[tuple[int, str | None]]:
    """Lengths and domains that a latency is measured for: each domain alone at the usual length only."""
    for length in lengths:
        yield length, None
    for domain in domains:
        yield USUAL_LENGTH, domain


def latency(
    subject: Subject, histories: list[list[str]], length: int, domain: str | None, n_requests: int
) -> Latency:
    """Median and 99th percentile of the time of single requests."""
    for history in islice(cycle(histories), WARM_UP):
        subject.recommend(history, domain)
    times, works = [], []
    for history in islice(cycle(histories), n_requests):
        work = time.process_time_ns()
        start = time.perf_counter_ns()
        subject.recommend(history, domain)
        times.append((time.perf_counter_ns() - start) / 1e6)
        works.append((time.process_time_ns() - work) / 1e6)
    times.sort()
    return Latency(
        length, domain, times[len(times) // 2], times[len(times) * 99 // 100], statistics.median(works)
    )


def soak(subject: Subject, workload: Workload, n_done: int, n_wanted: int) -> int:
    """Go on with single requests of all lengths until there were so many; return how many there were."""
    streams = [cycle(workload.of_length(length)) for length in LENGTHS]
    for i in range(n_done, n_wanted):
        subject.recommend(next(streams[i % len(streams)]), None)
    return max(n_done, n_wanted)


def throughput(
    subject: Subject, histories: list[list[str]], size: int, domain: str | None, seconds: float
) -> Throughput:
    """Users a second by the median batch."""
    batches = cycle([histories[i : i + size] for i in range(0, len(histories) - size + 1, size)])
    subject.recommend_batch(next(batches), domain)
    times: list[float] = []
    works: list[float] = []
    while len(times) < MIN_BATCHES or sum(times) < seconds:
        batch = next(batches)
        work, start = time.process_time(), time.perf_counter()
        subject.recommend_batch(batch, domain)
        times.append(time.perf_counter() - start)
        works.append(time.process_time() - work)
    return Throughput(
        size, domain, size / statistics.median(times), size / max(1e-9, statistics.median(works))
    )


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the system has no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


def installed_versions() -> dict[str, str]:
    """Versions of the packages that matter, those that are installed here."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Run the job of the command line."""
    job, result, started = sys.argv[1:]
    measurement = run(Job(**json.loads(job)), float(started))
    Path(result).write_text(json.dumps(asdict(measurement)), encoding="utf-8")


if __name__ == "__main__":
    main()
