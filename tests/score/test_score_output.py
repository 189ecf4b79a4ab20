from __future__ import annotations

import gzip
import io
import json
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scored_files import SETTINGS, names, parsed

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.score import job as score
from llmcdsr_lite.score import output as score_output
from llmcdsr_lite.score.job import ScoreSummary, score_histories

DRIVER = """
import sys, time
from pathlib import Path
from llmcdsr_lite import Recommender
from llmcdsr_lite.score import ScoreSettings, output as score_output, score_histories
score_output._SAVE_SECONDS = 0.02
recommender = Recommender.load(sys.argv[1], backend="numpy")
settings = ScoreSettings(k=3, batch_size=4, on_error="skip")
score_histories(recommender, Path(sys.argv[2]), Path(sys.argv[3]), settings,
                progress=lambda _: time.sleep(0.01))
"""


SLOWER = [
    pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".jsonl.gz", ".csv", ".csv.gz", ".parquet")
]


@pytest.mark.parametrize("suffix", [".jsonl", *SLOWER])
def test_a_killed_job_is_resumed_to_the_same_bytes(
    recommender: Recommender,
    bundle_folder: Path,
    tmp_path: Path,
    history_lines: Callable[[int], list[str]],
    suffix: str,
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    source, output, whole = (tmp_path / name for name in ("in.jsonl", f"out{suffix}", f"whole{suffix}"))
    lines = history_lines(1200)
    lines[1::50] = ["oops\n"] * len(lines[1::50])
    source.write_text("".join(lines), encoding="utf-8")
    job = replace(SETTINGS, on_error="skip")
    expected = score_histories(recommender, source, whole, job)
    state = tmp_path / f"out{suffix}.partial.json"
    process = subprocess.Popen([sys.executable, "-c", DRIVER, bundle_folder, source, output])
    deadline = time.monotonic() + 60
    while not state.exists() or json.loads(state.read_text())["size"] < 2000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not output.exists()
    before = json.loads(state.read_text())["summary"]["records"]
    assert 0 < before < 1200
    with (tmp_path / f"out{suffix}.partial").open("ab") as file:
        file.write(b"lines that were never saved" * 50_000)
    reports: list[str] = []
    assert score_histories(recommender, source, output, job, resume=True, report=reports.append) == expected
    unpack = gzip.decompress if suffix.endswith(".gz") else bytes
    assert unpack(output.read_bytes()) == unpack(whole.read_bytes())
    assert len(reports) < 24  # the part done before is not scored again
    assert names(tmp_path) == sorted(["in.jsonl", f"out{suffix}", f"whole{suffix}"])


@pytest.fixture
def interrupted(
    recommender: Recommender, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Output of a job that was interrupted after five batches, the last of them not saved."""
    clock = iter(range(100))
    monkeypatch.setattr(score_output.time, "monotonic", lambda: next(clock))  # one second a batch
    output = tmp_path / "out.jsonl"

    def stop(summary: ScoreSummary) -> None:
        if summary.users == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_histories(recommender, source, output, SETTINGS, progress=stop)
    monkeypatch.undo()
    assert names(tmp_path) == ["in.jsonl", "out.jsonl.partial", "out.jsonl.partial.json"]
    assert 0 < json.loads((tmp_path / "out.jsonl.partial.json").read_text())["summary"]["users"] < 20
    return output


def test_an_interrupted_job_is_resumed(
    recommender: Recommender, source: Path, interrupted: Path, tmp_path: Path
) -> None:
    users: list[int] = []
    job = replace(SETTINGS, on_error="skip")  # may differ: the bad record may be why it stopped
    summary = score_histories(
        recommender, source, interrupted, job, resume=True, progress=lambda s: users.append(s.users)
    )
    assert users[0] > 8
    assert summary.users == 50
    score_histories(recommender, source, tmp_path / "whole.jsonl", SETTINGS)
    assert interrupted.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_without_resume_it_starts_over(recommender: Recommender, source: Path, interrupted: Path) -> None:
    users: list[int] = []
    score_histories(recommender, source, interrupted, SETTINGS, progress=lambda s: users.append(s.users))
    assert users[0] == 4
    assert len(parsed(interrupted)) == 50


def test_resume_without_anything_to_resume(recommender: Recommender, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert score_histories(recommender, source, output, SETTINGS, resume=True).users == 50
    output.write_text("whole")
    message = f"^{output}: is there, and no interrupted output to continue; without resume it is made anew"
    with pytest.raises(DataError, match=message):
        score_histories(recommender, source, output, SETTINGS, resume=True)
    assert output.read_text() == "whole"
    assert names(tmp_path) == ["in.jsonl", "out"]


@pytest.mark.parametrize("other", ["turned", "changed", "shorter"])
def test_a_stream_of_other_records_is_not_resumed(
    recommender: Recommender, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    monkeypatch.setattr(score_output, "_SAVE_SECONDS", 0)
    output = tmp_path / "out.jsonl"
    lines = source.read_text().splitlines(keepends=True)

    def give(text: list[str]) -> None:
        stdin = io.BufferedReader(io.BytesIO("".join(text).encode()))  # type: ignore[arg-type]
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=stdin))

    def stop(summary: ScoreSummary) -> None:
        if summary.users == 20:
            raise KeyboardInterrupt

    give(lines)
    with pytest.raises(KeyboardInterrupt):
        score_histories(recommender, "-", output, SETTINGS, progress=stop)
    give({"turned": lines[::-1], "changed": [lines[1], *lines[1:]], "shorter": lines[:8]}[other])
    message = "^-: its first 20 records are not those that were scored before; give the same input"
    with pytest.raises(DataError, match=message):
        score_histories(recommender, "-", output, SETTINGS, resume=True)
    give(lines)
    score_histories(recommender, "-", output, SETTINGS, resume=True)
    score_histories(recommender, source, tmp_path / "whole.jsonl", SETTINGS)
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_two_jobs_do_not_write_one_output(recommender: Recommender, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    output = tmp_path / "out.jsonl"
    refused: list[str] = []

    def again(summary: ScoreSummary) -> None:
        for resume in (False, True):
            with pytest.raises(DataError, match=r"partial: another job is writing it$") as caught:
                score_histories(recommender, source, output, SETTINGS, resume=resume)
            refused.append(str(caught.value))

    score_histories(recommender, source, output, SETTINGS, progress=again)
    assert refused
    assert [line["user"] for line in parsed(output)] == [f"u{n}" for n in range(50)]
    assert score_histories(recommender, source, output, SETTINGS).users == 50  # it was let go
    assert names(tmp_path) == ["in.jsonl", "out.jsonl"]


def test_an_output_keeps_its_permissions_and_its_link(
    recommender: Recommender, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    output = tmp_path / "deep" / "out.jsonl"
    output.touch()
    output.chmod(0o600)
    (tmp_path / "link").symlink_to(output)
    score_histories(recommender, source, tmp_path / "link", SETTINGS)
    assert (tmp_path / "link").is_symlink()
    assert output.stat().st_mode & 0o777 == 0o600
    assert len(parsed(output)) == 50
    assert names(tmp_path / "deep") == ["out.jsonl"]


def test_a_full_disk_is_told_with_the_file(
    recommender: Recommender, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(score_output.os, "fsync", fail)
    with pytest.raises(DataError, match=r"out\.partial: cannot be written: No space left on device$"):
        score_histories(recommender, source, tmp_path / "out", SETTINGS)
    assert names(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize("output", ["none/out", "in.jsonl/out"])
def test_a_folder_that_is_none_is_told_before_a_bad_record(
    recommender: Recommender, source: Path, tmp_path: Path, output: str
) -> None:
    source.write_text("oops")
    with pytest.raises(DataError, match=f"{output}.partial: cannot be written: N"):
        score_histories(recommender, str(source), str(tmp_path / output), SETTINGS)


@pytest.mark.parametrize(
    "change",
    [
        {"k": 4},
        {"domain": "food"},
        {"exclude_seen": False},
        {"titles": True},
        {"output_format": "csv"},
        {"batch_size": 5},
    ],
)
def test_other_settings_are_not_resumed(
    recommender: Recommender, source: Path, interrupted: Path, change: dict[str, Any]
) -> None:
    partial = interrupted.with_name("out.jsonl.partial")
    before = partial.read_bytes()
    with pytest.raises(DataError, match=r"partial: is of another job .*; start over without resume"):
        score_histories(recommender, source, interrupted, replace(SETTINGS, **change), resume=True)
    assert partial.read_bytes() == before


def test_another_input_model_or_engine_is_not_resumed(
    recommender: Recommender,
    bundle_data: Bundle,
    build_bundle: Callable[[Bundle, Path], Path],
    bundle_folder: Path,
    source: Path,
    interrupted: Path,
    tmp_path: Path,
) -> None:
    other = build_bundle(replace(bundle_data, training={}), tmp_path / "other")
    copy = Path(shutil.copy(source, tmp_path / "copy.jsonl"))
    jobs = [
        (Recommender.load(other, backend="numpy"), source),
        (Recommender.load(bundle_folder, backend="onnx"), source),
        (recommender, copy),
    ]
    for loaded, path in jobs:
        with pytest.raises(DataError, match="is of another job"):
            score_histories(loaded, path, interrupted, SETTINGS, resume=True)
    with source.open("a") as file:
        file.write('{"user": "new", "history": []}\n')
    with pytest.raises(DataError, match="is of another job"):
        score_histories(recommender, source, interrupted, SETTINGS, resume=True)


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"job": 1, "size": "x", "summary": {}}', '{"job": "x"}'])
def test_a_damaged_state_is_not_resumed(
    recommender: Recommender, source: Path, interrupted: Path, state: str
) -> None:
    interrupted.with_name("out.jsonl.partial.json").write_text(state)
    with pytest.raises(DataError, match=r"partial\.json: damaged .*; start over without resume"):
        score_histories(recommender, source, interrupted, SETTINGS, resume=True)


def test_a_cut_output_is_not_resumed(recommender: Recommender, source: Path, interrupted: Path) -> None:
    interrupted.with_name("out.jsonl.partial").write_bytes(b"x")
    with pytest.raises(DataError, match="partial: shorter than it was; start over without resume"):
        score_histories(recommender, source, interrupted, SETTINGS, resume=True)


def test_an_old_state_is_never_taken_for_that_of_a_new_job(
    recommender: Recommender, source: Path, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that starts over and is killed before its first save has nothing to resume."""
    killed = "killed here"

    def kill(*_: Any) -> None:
        raise SystemExit(killed)

    monkeypatch.setattr(score, "header", kill)
    monkeypatch.setattr(score_output.FileSink, "__exit__", lambda self, *_: self._file.close())
    with pytest.raises(SystemExit, match=killed):
        score_histories(recommender, source, interrupted, SETTINGS)
    assert interrupted.with_name("out.jsonl.partial").exists()
    assert not interrupted.with_name("out.jsonl.partial.json").exists()
