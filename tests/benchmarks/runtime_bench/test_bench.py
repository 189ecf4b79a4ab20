"""The benchmark: a clock of our own where figures are checked, real processes where children are."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.errors import LlmcdsrError, UsageError
from runtime_bench import child as bench_child
from runtime_bench import parent as bench
from runtime_bench.job import LENGTHS, Answers, Job, Measurement, Workload


class FakeSubject:
    """Notes what it is asked; every request takes one step of the clock."""

    search_name = "exact"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, str | None]] = []

    def recommend(self, history: Sequence[str], domain: str | None) -> Sequence[tuple[str, float]]:
        self.asked.append((history, domain))
        return []

    def recommend_batch(self, histories: Sequence[Sequence[str]], domain: str | None) -> tuple[Any, Any]:
        self.asked.append((histories, domain))
        return [], []


def fake_clock(durations: Sequence[float]) -> Callable[[], float]:
    """A clock that is read before and after each request."""

    def ticks() -> Iterator[float]:
        now = 0.0
        for duration in durations:
            yield now
            now += duration
            yield now

    iterator = ticks()
    return lambda: next(iterator)


def test_latency_is_median_and_percentile_without_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [n * 1000 for n in range(1, 201)]
    times = times[100:] + times[:100]
    monkeypatch.setattr("time.perf_counter_ns", fake_clock(times))
    subject = FakeSubject()
    found = bench_child.latency(subject, [["x"], ["y"]], 1, "b", 200)
    assert (found.length, found.domain) == (1, "b")
    assert found.p50 == pytest.approx(0.1, abs=0.0011)
    assert found.p99 == pytest.approx(0.198, abs=0.0011)
    assert len(subject.asked) == bench_child.WARM_UP + 200
    assert subject.asked[:3] == [(["x"], "b"), (["y"], "b"), (["x"], "b")]


def test_throughput_is_by_the_median_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.perf_counter", fake_clock([0.5, 0.25, 9.0, 0.5, 0.5, 0.5]))
    subject = FakeSubject()
    histories = [[str(n)] for n in range(10)]
    assert bench_child.throughput(subject, histories, 4, None, 1.0).users_per_second == 8
    assert [len(batch) for batch, _ in subject.asked] == [4] * 6  # one to warm up, five at least
    assert subject.asked[0][0] != subject.asked[1][0]


def test_processor_time_is_that_of_work_and_not_of_waiting() -> None:
    class Waiting(FakeSubject):
        def recommend(self, history: Sequence[str], domain: str | None) -> Sequence[tuple[str, float]]:
            time.sleep(0.01)
            return []

    class Working(FakeSubject):
        def recommend(self, history: Sequence[str], domain: str | None) -> Sequence[tuple[str, float]]:
            until = time.process_time() + 0.01
            while time.process_time() < until:
                pass
            return []

    waiting = bench_child.latency(Waiting(), [["x"]], 1, None, 9)
    assert waiting.p50 > 9
    assert waiting.processor < 5
    assert bench_child.latency(Working(), [["x"]], 1, None, 9).processor == pytest.approx(10, rel=0.3)


def test_soak_goes_on_to_the_number_wanted() -> None:
    workload = Workload(["a", "b"], {str(length): [["x"] * length] for length in LENGTHS})
    subject = FakeSubject()
    assert bench_child.soak(subject, workload, 90, 98) == 98
    assert {len(history) for history, _ in subject.asked} == set(LENGTHS)
    assert len(subject.asked) == 8
    assert bench_child.soak(subject, workload, 90, 0) == 90
    assert len(subject.asked) == 8


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is told by /proc")
def test_resident_memory_is_what_ps_shows() -> None:
    before = bench_child.resident_bytes()
    block = bytearray(os.urandom(1 << 16)) * 1024  # 64 MiB
    after = bench_child.resident_bytes()
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, check=True)
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(len(block), rel=0.2)
    assert after == pytest.approx(int(shown.stdout) * 1024, rel=0.1)


def test_histories_follow_the_counts(bundle_data: Bundle) -> None:
    workload = bench.draw_workload(bundle_data, 0)
    assert workload.domains == ["food", "kitchen"]
    for length in LENGTHS:
        assert {len(history) for history in workload.of_length(length)} == {length}
    drawn = Counter(item for history in workload.of_length(20) for item in history)
    total = bundle_data.item_counts.sum()
    for item, count in zip(bundle_data.catalogue.ids, bundle_data.item_counts[1:], strict=True):
        assert drawn[item] / drawn.total() == pytest.approx(count / total, abs=0.01)
    assert bench.draw_workload(bundle_data, 0) == workload
    assert bench.draw_workload(bundle_data, 1) != workload


def names(settings: bench.BenchSettings, bundle: Bundle) -> list[str]:
    workload = bench.draw_workload(bundle, 0)
    return [job.name for job in bench.plan(Path("model"), Path("workload"), workload, settings)]


def test_every_backend_search_and_number_of_threads_is_planned(bundle_data: Bundle) -> None:
    planned = names(bench.BenchSettings(), bundle_data)
    for name in ("onnx-exact-1", "numpy-exact-2", "onnx-hnsw-2", "numpy-hnsw-1", "torch-1", "replay-2"):
        assert planned.count(name) == 1
    assert not any("auto" in name for name in planned)
    assert names(bench.BenchSettings(only=("onnx-exact-*", "torch-1")), bundle_data) == [
        "onnx-exact-1",
        "torch-1",
        "onnx-exact-2",
    ]


def test_answers_are_compared_user_by_user() -> None:
    reference = Answers([["a", "b"], ["c", "d"]], [[2.0, 1.0], [4.0, 3.0]])
    swapped = Answers([["b", "a"], ["c", "d"]], [[2.0, 1.0], [4.0, 3.0001]])
    assert bench.compare(swapped, reference) == 1
    assert bench.is_same_model(swapped, reference, 1.0)
    other = Answers([["c", "d"], ["c", "e"]], [[2.0, 1.0], [4.0, 3.0]])
    assert bench.compare(other, reference) == 0.25
    assert not bench.is_same_model(other, reference, 0.25)
    assert not bench.is_same_model(Answers(reference.ids, [[2.0, 1.0], [4.0, 3.1]]), reference, 1.0)


def test_a_measurement_survives_json() -> None:
    told = Measurement.from_json(
        json.loads(
            json.dumps(
                asdict(
                    Measurement(
                        None,
                        0.1,
                        0.2,
                        "exact",
                        {"numpy": "2"},
                        [bench_child.Latency(20, None, 1.0, 2.0, 0.5)],
                        [bench_child.Throughput(64, "a", 3.0, 4.0)],
                        bench_child.Memory(1, 2, 3, 4, None),
                        Answers([["a"]], [[1.0]]),
                    )
                )
            )
        )
    )
    assert told.latency(20, None).p99 == 2.0
    assert told.throughput(64, "a").users_per_second == 3.0
    assert told.memory == bench_child.Memory(1, 2, 3, 4, None)
    assert told.answers == Answers([["a"]], [[1.0]])


@pytest.mark.slow
def test_a_run_of_the_command(
    bundle_folder: Path, tmp_path: Path, script: Callable[..., subprocess.CompletedProcess[bytes]]
) -> None:
    options = (
        "--quick",
        "--only",
        "numpy-exact-1",
        "--only",
        "onnx-exact-1",
        "--output",
        tmp_path / "out.json",
    )
    done = script("runtime.py", "--model", bundle_folder, *options)
    assert done.returncode == 0, done.stderr.decode()
    shown = done.stdout.decode()
    assert "30 items, H 8" in shown
    assert "| ONNX, exact | 1 |" in shown
    assert b"onnx-exact-1: " in done.stderr
    told = json.loads((tmp_path / "out.json").read_text())
    assert [one["job"]["backend"] for one in told["outcomes"]] == ["onnx", "numpy"]
    for one in told["outcomes"]:
        found = one["measurement"]
        assert one["same_items"] == 1
        assert 0 < found["import_seconds"] < found["start_seconds"]
        assert [(f["length"], f["domain"]) for f in found["latencies"]] == [
            *((length, None) for length in LENGTHS),
            *((20, domain) for domain in ("food", "kitchen")),
        ]
        assert all(0 < f["p50"] <= f["p99"] for f in found["latencies"])
        assert {f["size"] for f in found["throughputs"]} == {64, 256}
        assert found["memory"]["n_requests"] == 1000
    assert told["bundle_bytes"] == sum(path.stat().st_size for path in bundle_folder.iterdir())
    again = script("runtime.py", "--model", bundle_folder, *options)
    assert (again.returncode, b"out.json: exists already" in again.stderr) == (1, True)
    quick = ("--quick", "--requests", "1", "--soak", "0", "--only", "onnx-exact-1")
    figures = ("--json", "--output", tmp_path / "figures.json")
    printed = script("runtime.py", "--model", bundle_folder, *quick, *figures)
    assert (tmp_path / "figures.json").read_bytes() == printed.stdout
    assert json.loads(printed.stdout)["domains"] == ["food", "kitchen"]


def fake_python(path: Path, body: str) -> str:
    """A stand-in for the Python of the baselines; its arguments are -m MODULE JOB RESULT STARTED."""
    path.write_text(f"#!{sys.executable}\nimport json, os, sys\njob, result = sys.argv[3:5]\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def run_baseline(bundle_folder: Path, python: str, only: str) -> Measurement:
    settings = replace(bench.BenchSettings(only=(only,), baseline_python=python).quick(), threads=(1, 2))
    (outcome,) = bench.bench(bundle_folder, settings).outcomes
    return outcome.measurement


def test_a_baseline_that_fails_is_left_out(bundle_folder: Path, tmp_path: Path) -> None:
    python = fake_python(tmp_path / "python", "sys.exit('Traceback\\nSomeError: no such operator')")
    assert run_baseline(bundle_folder, python, "torch-1").skipped == "failed: SomeError: no such operator"
    with pytest.raises(UsageError, match="nowhere: does not run"):
        run_baseline(bundle_folder, str(tmp_path / "nowhere"), "replay-1")


def test_a_baseline_with_other_answers_is_void(bundle_folder: Path, tmp_path: Path) -> None:
    workload = bench.draw_workload(read_bundle(bundle_folder), 0)
    right = bench.reference_answers(bundle_folder, workload)
    wrong = Answers(right.ids[::-1], right.scores[::-1])
    for answers, void in ((right, False), (wrong, True)):
        (tmp_path / "answer").write_text(json.dumps(asdict(Measurement(answers=answers))))
        body = f"open(result, 'w').write(open({str(tmp_path / 'answer')!r}).read())"
        found = run_baseline(bundle_folder, fake_python(tmp_path / "python", body), "torch-1")
        assert (found.skipped is not None) == void
        if void:
            assert str(found.skipped).startswith("void: it finds ")


def test_a_child_gets_its_threads_and_its_packages(bundle_folder: Path, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    body = f"""
assert json.loads(job)["threads"] == 2
sys.path.insert(0, os.environ["PYTHONPATH"])
import runtime_bench.job
chosen = {{name: os.environ[name] for name in {bench.THREAD_VARIABLES}}}
chosen["module"] = runtime_bench.job.__file__
chosen["path"] = os.environ["PYTHONPATH"]
open({str(seen)!r}, "w").write(json.dumps(chosen))
sys.exit("done")
"""
    run_baseline(bundle_folder, fake_python(tmp_path / "python", body), "replay-2")
    found = json.loads(seen.read_text())
    assert {found[name] for name in bench.THREAD_VARIABLES} == {"2"}
    assert found["module"].startswith(found["path"])


def test_a_failure_of_the_runtime_is_an_error(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    settings = bench.BenchSettings(only=("onnx-exact-1",)).quick()
    with pytest.raises(LlmcdsrError, match="configuration onnx-exact-1 failed: exit status 1"):
        bench.bench(bundle_folder, settings)
    with pytest.raises(UsageError, match="no configuration is named nothing or such"):
        bench.bench(bundle_folder, replace(settings, only=("nothing", "such")))


def test_what_is_not_there_is_skipped(bundle_folder: Path) -> None:
    job = Job("runtime", str(bundle_folder / "nowhere"), "", ["f1"], backend="numpy", search="exact")
    assert "nowhere" in str(bench_child.run(job, 0.0).skipped)
