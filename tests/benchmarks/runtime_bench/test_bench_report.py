"""The tables of the benchmark, against figures put in by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runtime_bench.job import BATCH_SIZES, LENGTHS, Job, Kind, Latency, Measurement, Memory, Throughput
from runtime_bench.parent import BenchReport, BenchSettings, Outcome
from runtime_bench.report import format_line, format_report

LINES = [*((length, None) for length in LENGTHS), (20, "x"), (20, "y")]


def outcome(
    kind: Kind, threads: int, *, ms: float, rate: float, start: float, mb: int, **job: Any
) -> Outcome:
    latencies = [Latency(length, domain, ms + length / 100, 9.0, 0.28) for length, domain in LINES]
    throughputs = [
        Throughput(s, domain, rate + s, 9876.5) for s in BATCH_SIZES for domain in (None, "x", "y")
    ]
    memory = Memory(mb * 1_000_000, 0, (mb + 3) * 1_000_000, 500, (mb + 40) * 1_000_000)
    measurement = Measurement(
        None, 0.1, start, "exact", {"numpy": "2.1"}, latencies, throughputs, memory, None
    )
    return Outcome(Job(kind, "b", "w", [], threads, **job), measurement, start, 0.975 if job else None)


def report(*outcomes: Outcome) -> BenchReport:
    machine = {"processor": "Abacus", "cores": 2, "system": "Linux", "python": "3.11", "load": 0.3}
    return BenchReport("b", 36298, ("x", "y"), 64, 11_500_000, machine, BenchSettings(), outcomes)


ONNX = outcome("runtime", 1, ms=0.1, rate=9744, start=0.3, mb=100, backend="onnx", search="exact", n_soak=500)
TORCH = outcome("torch", 1, ms=0.4, rate=2244, start=1.5, mb=250)


def cells(text: str, label: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_figure_is_in_its_place() -> None:
    text = format_report(report(ONNX, TORCH))
    assert text.startswith(
        "36,298 items, H 64, bundle 11.5 MB; Abacus, 2 cores, Linux, Python 3.11, numpy 2.1"
    )
    latency, other, ratio = cells(text, "ONNX, exact")
    assert latency[1:] == ["1", *(f"0.{ms} / 9.00" for ms in ("11", "17", "30", "60", "30", "30")), "0.28"]
    assert other[1:] == [
        *("1", "9,808", "10,000", "10,000", "10,000"),
        *("9,876", "0.30", "100", "103", "140", "97.5%"),
    ]
    assert ratio[1:] == ["1", "2.0", "4.0", "5.0", "2.5"]  # 0.6 / 0.3, 10,000 / 2,500, 1.5 / 0.3, 250 / 100
    assert "MB after 500 requests" in text
    assert cells(text, "PyTorch eager")[1][8:] == ["250", "", "290", ""]
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count("|") in {10, 13, 7}


def test_a_baseline_is_compared_at_its_number_of_threads() -> None:
    two = outcome("runtime", 2, ms=0.1, rate=9744, start=0.3, mb=100, backend="onnx", search="exact")
    text = format_report(report(ONNX, TORCH, two))
    assert len(cells(text, "ONNX, exact")) == 5  # no ratio for two threads
    assert "Times better" not in format_report(report(ONNX, two))


def test_what_was_left_out_says_why() -> None:
    skipped = Outcome(Job("replay", "b", "w", [], 2), Measurement(skipped="replay is not installed"))
    text = format_report(report(ONNX, skipped))
    assert text.endswith("- replay-2 left out: replay is not installed")
    assert format_line(skipped) == "replay-2: left out, replay is not installed"
    assert (
        format_line(ONNX) == "onnx-exact-1: 0.300 ms a user, 10,000 users a second, first answer after 0.30 s"
    )
    alone = format_report(report(skipped))
    assert "|" not in alone


def test_a_busy_machine_is_warned_of() -> None:
    calm = report(ONNX)
    assert "busy" not in format_report(calm)
    busy = format_report(replace(calm, machine={**calm.machine, "load": 3.1}))
    assert "(load 3.1 on 2 cores)" in busy
    assert "busy" not in format_report(replace(calm, machine={**calm.machine, "load": None}))
