from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bundle_loads import BundleLoads
from scored_files import SETTINGS

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.errors import BundleError, DataError, UsageError, WorkerError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score import batches as score_batches
from llmcdsr_lite.score import output as score_output
from llmcdsr_lite.score import workers as score_workers
from llmcdsr_lite.score.job import ScoreSummary, score_histories

SKIP = replace(SETTINGS, on_error="skip")


@pytest.fixture
def source(tmp_path: Path, history_lines: Callable[[int], list[str]]) -> Path:
    """50 records, two of them bad."""
    lines = history_lines(50)
    lines[13] = "oops\n"
    lines[41] = '{"user": "u41", "history": [], "domain": "books"}\n'
    path = tmp_path / "in.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Worker processes, as they are started."""
    processes: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            processes.append(self)

    monkeypatch.setattr(score_workers.subprocess, "Popen", Recorded)
    return processes


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("processes", "backend", "name"),
    [(2, "numpy", "out.jsonl"), (3, "onnx", "out.csv.gz")],
)
def test_the_same_bytes_as_one_process(
    bundle_folder: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    backend: Any,
    name: str,
) -> None:
    monkeypatch.setattr(score_output, "_SAVE_SECONDS", 3600)  # a save begins another gzip member
    recommender = Recommender.load(bundle_folder, backend=backend)
    job = replace(SKIP, titles=True, domain="food")
    found, outputs = [], []
    for n in (1, processes):
        reports: list[str] = []
        users: list[int] = []
        summary = score_histories(
            *(recommender, source, tmp_path / name, job),
            processes=n,
            report=reports.append,
            progress=lambda done, users=users: users.append(done.users),  # type: ignore[misc]
        )
        found.append((summary, reports, users))
        outputs.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]
    assert found[0][0].bad == 2
    assert outputs[0] == outputs[1]
    text = gzip.decompress(outputs[1]) if name.endswith(".gz") else outputs[1]
    assert text.decode().count("u49") == (3 if ".csv" in name else 1)


def test_a_bad_record_stops_the_job_where_it_would_stop_one_process(
    recommender: Recommender, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_output, "_SAVE_SECONDS", 0)
    left = []
    for processes in (1, 2):
        with pytest.raises(DataError, match=rf"^{re.escape(str(source))}:14: not valid JSON"):
            score_histories(recommender, source, tmp_path / "out.jsonl", SETTINGS, processes=processes)
        left.append([(tmp_path / f"out.jsonl.partial{end}").read_bytes() for end in ("", ".json")])
    assert left[0] == left[1]
    assert json.loads(left[0][1])["summary"]["records"] == 12  # three batches before that of line 14


def test_batches_in_flight_are_bounded(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[Any]
) -> None:
    read = 0

    def endless(*_: Any) -> Iterator[score_batches.HistoryRecord]:
        nonlocal read
        while True:
            read += 1
            yield score_batches.HistoryRecord(read, str(read), ["f1"])

    ahead: list[int] = []

    def stop(summary: ScoreSummary) -> None:
        ahead.append(read - summary.users)
        if len(ahead) == 200:
            raise KeyboardInterrupt

    monkeypatch.setattr(score_batches, "read_histories", endless)
    with pytest.raises(KeyboardInterrupt):
        score_histories(recommender, tmp_path / "in", tmp_path / "out", SETTINGS, processes=2, progress=stop)
    assert max(ahead) <= 4 * 4  # two batches of four for each of two workers
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def test_each_worker_loads_the_bundle_once_with_one_thread(
    recommender: Recommender,
    bundle_folder: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
) -> None:
    tell = f"open({str(tmp_path / 'threads')!r}, 'a').write(os.environ['OPENBLAS_NUM_THREADS'] + '\\n')"
    loads = BundleLoads(bundle_folder, tmp_path / "hook", tell)
    monkeypatch.setenv("PYTHONPATH", loads.environment["PYTHONPATH"])
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    score_histories(recommender, source, tmp_path / "out.jsonl", SKIP, processes=2)
    assert loads.count() == {process.pid: 1 for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert (tmp_path / "threads").read_text() == "1\n1\n"


def test_a_killed_worker_is_told_and_the_job_resumed(
    recommender: Recommender,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
) -> None:
    monkeypatch.setattr(score_output, "_SAVE_SECONDS", 0)
    output = tmp_path / "out.jsonl"

    def kill(summary: ScoreSummary) -> None:
        started[0].kill()

    message = r"^a scoring process \(pid \d+\) was killed by SIGKILL, .* try fewer processes$"
    with pytest.raises(WorkerError, match=message):
        score_histories(recommender, source, output, SKIP, processes=2, progress=kill)
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2
    state = json.loads((tmp_path / "out.jsonl.partial.json").read_text())
    assert 4 <= state["summary"]["records"] < 50
    resumed = score_histories(recommender, source, output, SKIP, processes=3, resume=True)
    assert resumed == score_histories(recommender, source, tmp_path / "whole.jsonl", SKIP)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise MemoryError('no room for 9 GB')", "failed: MemoryError: no room for 9 GB"),
        pytest.param("raise MemoryError", "failed: MemoryError", marks=pytest.mark.slow),
        ("raise SystemExit(7)", r"\(pid \d+\) ended with exit status 7"),
        pytest.param("raise KeyError('x')", "failed: KeyError: 'x'", marks=pytest.mark.slow),
        ("raise ValueError('ü' * 10**6)", "failed: ValueError: ü{4000}"),
        ("print('chatter' * 99); raise LookupError('heard')", "failed: LookupError: heard"),
    ],
)
def test_a_worker_that_fails(
    recommender: Recommender,
    bundle_folder: Path,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[Any],
    code: str,
    message: str,
) -> None:
    more = f"""
from llmcdsr_lite.score.lines import LineScorer
def fail(self, records):
    {code}
LineScorer.score = fail
"""
    hook = BundleLoads(bundle_folder, tmp_path / "hook", more)
    monkeypatch.setenv("PYTHONPATH", hook.environment["PYTHONPATH"])
    with pytest.raises(WorkerError, match=rf"^a scoring process {message}(\n|$)") as raised:
        score_histories(recommender, source, tmp_path / "out.jsonl", SKIP, processes=2)
    assert all(process.returncode is not None for process in started)
    if "failed" in message and "4000" not in message:
        assert "in fail\n" in raised.value.__notes__[0]  # where it was


def test_a_bundle_that_workers_cannot_load(bundle_folder: Path, source: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    recommender = Recommender.load(copy, backend="numpy")
    (copy / "item_ids.json").unlink()
    with pytest.raises(BundleError, match=r"copy.item_ids\.json: "):
        score_histories(recommender, source, tmp_path / "out.jsonl", SKIP, processes=2)


def test_a_bundle_that_was_replaced(
    bundle_data: Bundle,
    bundle_folder: Path,
    build_bundle: Callable[[Bundle, Path], Path],
    source: Path,
    tmp_path: Path,
) -> None:
    copy = shutil.copytree(bundle_folder, tmp_path / "copy")
    recommender = Recommender.load(copy, backend="numpy")
    shutil.rmtree(copy)
    build_bundle(replace(bundle_data, item_counts=bundle_data.item_counts + 1), copy)
    with pytest.raises(BundleError, match="copy: is no longer the bundle that the job began with"):
        score_histories(recommender, source, tmp_path / "out.jsonl", SKIP, processes=2)


def test_numbers_of_processes_that_cannot_be_meant(
    recommender: Recommender, bundle_data: Any, source: Path, tmp_path: Path
) -> None:
    from llmcdsr_lite.model.backends import NumpyBackend

    for processes in (0, 1025):
        with pytest.raises(UsageError, match=f"processes must be from 1 to 1024, found {processes}"):
            score_histories(recommender, source, tmp_path / "out", processes=processes)
    in_memory = Recommender(bundle_data, NumpyBackend(bundle_data.parameters))
    with pytest.raises(UsageError, match="several need a recommender that was loaded from a folder"):
        score_histories(in_memory, source, tmp_path / "out", processes=2)


def command(bundle_folder: Path, output: Path, *more: str) -> list[str | Path]:
    driver = (
        "from llmcdsr_lite.score import output as score_output; score_output._SAVE_SECONDS = 0\n"
        "from llmcdsr_tools.cli.commands import cli; cli()"
    )
    arguments = ("score", "-", "--model", bundle_folder, "-o", output, "--batch-size", "1", *more)
    return [sys.executable, "-c", driver, *arguments]


def children(pid: int) -> list[int]:
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():
        pytest.skip("this system does not tell which processes a process started")
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.fixture
def busy(bundle_folder: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command line in a group of its own, as a shell starts it, waiting for more input."""
    process = subprocess.Popen(
        command(bundle_folder, tmp_path / "out.jsonl", "--processes", "2"),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        process.stdin.write(b'{"user": "u", "history": ["f1"]}\n' * 1000)
        process.stdin.flush()
        wait_until((tmp_path / "out.jsonl.partial.json").exists)
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        process.stdin.close()


def test_no_more_workers_than_batches(
    bundle_folder: Path, source: Path, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    recommender = Recommender.load(bundle_folder, backend="numpy")
    job = replace(SKIP, domain="food", batch_size=30)
    score_histories(recommender, source, tmp_path / "out.jsonl", job, processes=500)
    assert len(started) == 2


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_job(busy: subprocess.Popen[bytes], tmp_path: Path, kind: int) -> None:
    workers = children(busy.pid)
    assert len(workers) == 2
    start = time.monotonic()
    os.killpg(busy.pid, kind)  # Ctrl-C reaches the whole group
    assert busy.wait(30) == (1 if kind == signal.SIGINT else -kind)
    wait_until(lambda: not any(map(running, workers)))
    assert time.monotonic() - start < 10
    assert busy.stderr is not None
    message = busy.stderr.read().decode()
    assert "Traceback" not in message
    if kind == signal.SIGINT:
        assert message.endswith(".partial holds the part done; resume continues\n\nAborted!\n")


def test_the_command_line(llmcdsr: Callable[..., Any], bundle_folder: Path, source: Path) -> None:
    arguments = ("score", source, "--model", bundle_folder, "-k", "3", "--on-error", "skip")
    one, two = llmcdsr(*arguments), llmcdsr(*arguments, "--processes", "2")
    assert (two.returncode, two.stdout, two.stderr) == (0, one.stdout, one.stderr)
    refused = llmcdsr(*arguments, "--processes", "2", "--threads", "2")
    assert refused.returncode == 2
    assert b"--threads is for one process" in refused.stderr
