"""The benchmark's figures as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from runtime_bench.job import BATCH_SIZES, LENGTHS, USUAL_LENGTH, Job
from runtime_bench.parent import BASELINES, BenchReport, Outcome

NAMES = {"torch": "PyTorch eager", "replay": "RePlay compiled", "onnx": "ONNX", "numpy": "NumPy"}
BUSY = 0.5  # processes that want to run for each core
_BIG_BATCH = BATCH_SIZES[-1]


def format_report(report: BenchReport) -> str:
    """Tables of latencies, of batches, start and memory, and of ratios; then what was left out."""
    measured = [one for one in report.outcomes if one.measurement.skipped is None]
    parts = [_header(report, measured), _busy(report)]
    if measured:
        parts += [_latencies(report, measured), _others(report, measured)]
        ratios = _ratios(measured)
        parts += [ratios] if ratios else []
    skipped = [one for one in report.outcomes if one.measurement.skipped is not None]
    parts += ["\n".join(f"- {one.job.name} left out: {one.measurement.skipped}" for one in skipped)]
    return "\n\n".join(part for part in parts if part)


def format_line(outcome: Outcome) -> str:
    """One configuration in one line, to show that it is done."""
    found = outcome.measurement
    if found.skipped is not None:
        return f"{outcome.job.name}: left out, {found.skipped}"
    latency = found.latency(USUAL_LENGTH, None)
    return (
        f"{outcome.job.name}: {latency.p50:.3f} ms a user, "
        f"{found.throughput(_BIG_BATCH, None).users_per_second:,.0f} users a second, "
        f"first answer after {outcome.start_seconds:.2f} s"
    )


def _header(report: BenchReport, measured: Sequence[Outcome]) -> str:
    versions = {name: v for one in measured for name, v in one.measurement.versions.items()}
    on = report.machine
    return (
        f"{report.n_items:,} items, H {report.hidden}, bundle {report.bundle_bytes / 1e6:.1f} MB; "
        f"{on['processor']}, {on['cores']} cores, {on['system']}, Python {on['python']}, "
        + ", ".join(f"{name} {v}" for name, v in sorted(versions.items()))
    )


def _busy(report: BenchReport) -> str:
    """A warning where the machine had other work when the run began."""
    load, cores = report.machine["load"], report.machine["cores"]
    if load is None or load < BUSY * cores:
        return ""
    return (
        f"The machine was busy when the run began (load {load:.1f} on {cores} cores): of these figures, only "
        "those of processor time and memory mean anything."
    )


def _latencies(report: BenchReport, measured: Sequence[Outcome]) -> str:
    columns = [(length, None) for length in LENGTHS] + [(USUAL_LENGTH, d) for d in report.domains]
    heads = [
        f"history of {length}" if domain is None else f"{length}, {domain} alone"
        for length, domain in columns
    ]
    rows = []
    for one in measured:
        found = [one.measurement.latency(*column) for column in columns]
        work = one.measurement.latency(USUAL_LENGTH, None).processor
        rows.append([*_label(one.job), *(f"{f.p50:.2f} / {f.p99:.2f}" for f in found), f"{work:.2f}"])
    heads.append(f"{USUAL_LENGTH}, processor time")
    return _table("One user, top 10: milliseconds, p50 / p99", ["", "threads", *heads], rows)


def _others(report: BenchReport, measured: Sequence[Outcome]) -> str:
    columns = [(size, None) for size in BATCH_SIZES] + [(_BIG_BATCH, domain) for domain in report.domains]
    heads = [
        f"batches of {size}" if domain is None else f"{size}, {domain} alone" for size, domain in columns
    ]
    soaked = max((one.job.n_soak for one in measured), default=0)
    heads.append(f"{_BIG_BATCH}, a processor second")
    heads += [
        "first answer, s",
        "MB loaded",
        f"MB after {soaked:,} requests",
        "MB after batches",
        "same top 10",
    ]
    rows = []
    for one in measured:
        rates = [one.measurement.throughput(*column).users_per_second for column in columns]
        work = one.measurement.throughput(_BIG_BATCH, None).users_per_processor_second
        memory = one.measurement.memory
        assert memory is not None  # a measurement that was not left out has it
        after = memory.after_requests if one.job.n_soak else None
        rows.append(
            [
                *_label(one.job),
                *(f"{rate:,.0f}" for rate in [*rates, work]),
                f"{one.start_seconds:.2f}",
                *(_megabytes(size) for size in (memory.after_load, after, memory.after_batches)),
                "" if one.same_items is None else f"{one.same_items:.1%}",
            ]
        )
    title = f"Users a second (histories of {USUAL_LENGTH}), start, resident memory"
    return _table(title, ["", "threads", *heads], rows)


def _ratios(measured: Sequence[Outcome]) -> str:
    """How many times better each configuration is than the baselines with as many threads."""
    of = {(one.job.kind, one.job.threads): one for one in measured if one.job.kind in BASELINES}
    kinds = [kind for kind in BASELINES if any(found == kind for found, _ in of)]
    if not kinds:
        return ""
    heads = [
        f"{figure} ({NAMES[kind]})" for kind in kinds for figure in ("one user", "batches", "start", "memory")
    ]
    rows = []
    for one in measured:
        others = [of.get((kind, one.job.threads)) for kind in kinds]
        if one.job.kind == "runtime" and any(others):
            ratios = [ratio for other in others for ratio in _ratio(one, other)]
            rows.append([*_label(one.job), *ratios])
    title = (
        f"Times better than the baselines (history of {USUAL_LENGTH}, batches of {_BIG_BATCH}, memory loaded)"
    )
    return _table(title, ["", "threads", *heads], rows)


def _ratio(one: Outcome, other: Outcome | None) -> list[str]:
    if other is None:
        return [""] * 4
    ours, theirs = one.measurement, other.measurement
    assert ours.memory is not None
    assert theirs.memory is not None
    pairs = (
        (theirs.latency(USUAL_LENGTH, None).p50, ours.latency(USUAL_LENGTH, None).p50),
        (
            ours.throughput(_BIG_BATCH, None).users_per_second,
            theirs.throughput(_BIG_BATCH, None).users_per_second,
        ),
        (other.start_seconds, one.start_seconds),
        (theirs.memory.after_load or 0, ours.memory.after_load or 0),
    )
    return [f"{a / b:.1f}" if a and b else "" for a, b in pairs]


def _label(job: Job) -> list[str]:
    name = NAMES[job.kind] if job.kind != "runtime" else f"{NAMES[job.backend]}, {job.search}"
    return [name, str(job.threads)]


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 1e6:.0f}"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return f"{title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
