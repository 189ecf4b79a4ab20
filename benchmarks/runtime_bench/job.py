"""What the benchmark's parent asks of a child process, and what the child answers; both travel as JSON.

These modules (this one, `child`, `torch_baseline`, `replay_baseline`) are imported before the first answer
is there, so they import nothing heavy themselves.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

Kind = Literal["runtime", "torch", "replay"]
K = 10  # items a request
LENGTHS = (1, 7, 20, 50)  # of the history
USUAL_LENGTH = 20  # for one domain alone, and for batches
BATCH_SIZES = (64, 256)
WARM_UP = 50  # requests before a figure is taken


@dataclass(frozen=True)
class Job:
    """One configuration, to be measured in a process of its own.

    Parameters
    ----------
    kind : {"runtime", "torch", "replay"}
        This package, or one of the baselines.
    bundle : str
        Bundle folder.
    workload : str
        File of a `Workload`.
    first : list of str
        History of the first request.
    threads : int
    backend, search : str
        Of the runtime.
    n_requests : int
        Requests for each latency; 0 ends the job after the first answer.
    n_soak : int
        Single requests altogether before memory is looked at once more.
    batch_seconds : float
        Time for each size of a batch; five batches are the least.
    """

    kind: Kind
    bundle: str
    workload: str
    first: list[str]
    threads: int = 1
    backend: str = ""
    search: str = ""
    n_requests: int = 0
    n_soak: int = 0
    batch_seconds: float = 2.0

    @property
    def name(self) -> str:
        """Such as ``onnx-exact-1`` or ``torch-2``: the last number is that of the threads."""
        parts = [self.backend, self.search] if self.kind == "runtime" else [self.kind]
        return "-".join([*parts, str(self.threads)])


@dataclass(frozen=True)
class Workload:
    """The histories of all requests, the same for every configuration."""

    domains: list[str]
    histories: dict[str, list[list[str]]]  # by length

    def of_length(self, length: int) -> list[list[str]]:
        """Histories of that length."""
        return self.histories[str(length)]

    def write(self, path: Path) -> None:
        """Write JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Workload:
        """Read what `write` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Latency:
    """Time of one request for one user, in milliseconds; `domain` None is all domains."""

    length: int
    domain: str | None
    p50: float
    p99: float
    processor: float  # median of the time that the processors worked, whatever else the machine was doing


@dataclass(frozen=True)
class Throughput:
    """Users a second in batches, from the median time of a batch."""

    size: int
    domain: str | None
    users_per_second: float
    users_per_processor_second: float


@dataclass(frozen=True)
class Memory:
    """Resident memory in bytes, None where the system does not tell."""

    after_load: int | None  # and the first answer
    with_workload: int | None  # the histories that will be asked about are in memory, too
    after_requests: int | None
    n_requests: int
    after_batches: int | None


@dataclass(frozen=True)
class Answers:
    """The ten items and scores for every history of the usual length."""

    ids: list[list[str]]
    scores: list[list[float]]


@dataclass(frozen=True)
class Measurement:
    """What a child found out; `skipped` says why it did not."""

    skipped: str | None = None
    import_seconds: float = 0.0  # from the start of the process
    start_seconds: float = 0.0  # from the start of the process to its first answer
    search_name: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    latencies: list[Latency] = field(default_factory=list)
    throughputs: list[Throughput] = field(default_factory=list)
    memory: Memory | None = None
    answers: Answers | None = None

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Measurement:
        """Build from what ``json`` reads of ``asdict``."""
        memory, answers = fields["memory"], fields["answers"]
        return cls(
            **{
                **fields,
                "latencies": [Latency(**one) for one in fields["latencies"]],
                "throughputs": [Throughput(**one) for one in fields["throughputs"]],
                "memory": None if memory is None else Memory(**memory),
                "answers": None if answers is None else Answers(**answers),
            }
        )

    def latency(self, length: int, domain: str | None) -> Latency:
        """The latency of that length and domain."""
        return next(one for one in self.latencies if (one.length, one.domain) == (length, domain))

    def throughput(self, size: int, domain: str | None) -> Throughput:
        """The throughput of that size of a batch and domain."""
        return next(one for one in self.throughputs if (one.size, one.domain) == (size, domain))


class Subject(Protocol):
    """What is measured: item ids in, item ids out, items of the history left out."""

    search_name: str

    def recommend(self, history: Sequence[str], domain: str | None) -> Sequence[tuple[str, float]]:
        """The best `K` items (id and score) for one user."""

    def recommend_batch(
        self, histories: Sequence[Sequence[str]], domain: str | None
    ) -> tuple[Any, Any]:  # ids and scores (n, K)
        """The best `K` items for many users."""
