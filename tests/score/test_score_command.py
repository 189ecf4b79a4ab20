"""``llmcdsr score`` in a process of its own: what it prints, and what it is started with."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scored_files import names

from llmcdsr_lite.cli.output import Counter
from llmcdsr_lite.score import ScoreSummary

Command = Callable[..., subprocess.CompletedProcess[bytes]]


def as_csv(lines: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["user", "history", "domain"])
    for record in map(json.loads, lines):
        writer.writerow([record["user"], " ".join(record["history"]), record.get("domain", "")])
    return text.getvalue()


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        *((name, "1") for name in ("in.jsonl", "in.csv", "in.jsonl.gz", "-")),
        *((name, "2") for name in ("in.jsonl", "-")),
        *(pytest.param(name, "2", marks=pytest.mark.slow) for name in ("in.csv", "in.jsonl.gz")),
    ],
)
def test_an_error_is_one_line(
    llmcdsr: Command,
    bundle_folder: Path,
    tmp_path: Path,
    history_lines: Callable[[int], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    processes: str,
) -> None:
    monkeypatch.setattr("llmcdsr_lite.score.output._SAVE_SECONDS", 1e9)  # nothing is saved: nothing is told
    lines = history_lines(1000)
    good = as_csv(lines) if name == "in.csv" else "".join(lines)
    content = f"{good}garbage\n{good}".encode()
    (tmp_path / "in").write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    source = Path("-") if name == "-" else (tmp_path / "in").rename(tmp_path / name)
    options = ("--model", bundle_folder, "-o", tmp_path / "out", "--processes", processes)
    done = llmcdsr("score", source, *options, input=content)
    number = content[: content.index(b"garbage")].count(b"\n") + 1
    message = done.stderr.decode()
    assert done.returncode == 1
    assert re.fullmatch(rf"Error: {re.escape(str(source))}:{number}: [^\n]+\n", message), message
    assert names(tmp_path) == ["in" if name == "-" else name]


def shell(command: str, bundle_folder: Path, source: Path) -> subprocess.CompletedProcess[bytes]:
    program = Path(sys.executable).with_name("llmcdsr")
    text = f'"{program}" score {command}'
    environment = {**os.environ, "MODEL": str(bundle_folder), "IN": str(source)}
    return subprocess.run(["sh", "-c", text], capture_output=True, env=environment, timeout=60, check=False)


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ('"$IN" --model "$MODEL" >&-', b"Error: standard output is closed\n"),
        ('- --model "$MODEL" <&-', b"Error: -: cannot be read: standard input is closed\n"),
    ],
)
def test_a_closed_stream_is_told(bundle_folder: Path, source: Path, command: str, message: bytes) -> None:
    done = shell(command, bundle_folder, source)
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_messages_may_have_nowhere_to_go(bundle_folder: Path, source: Path) -> None:
    done = shell('"$IN" --model "$MODEL" 2>&-', bundle_folder, source)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 50


def test_gzip_from_a_pipe(
    llmcdsr: Command, llmcdsr_process: Command, bundle_folder: Path, source: Path
) -> None:
    plain = llmcdsr("score", source, "--model", bundle_folder)
    piped = llmcdsr_process("score", "-", "--model", bundle_folder, input=gzip.compress(source.read_bytes()))
    assert (piped.returncode, piped.stdout) == (0, plain.stdout)
    assert len(plain.stdout.splitlines()) == 50


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_messages_are_kept_off_the_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 10.0, 12.0])
    monkeypatch.setattr("llmcdsr_lite.cli.output.time.perf_counter", lambda: next(clock))
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    counter = Counter()
    counter.tell("before")
    counter.show(ScoreSummary(users=5_000))  # most of them by a job that this one continues
    counter.tell("between")
    counter.show(ScoreSummary(users=5_100))
    counter.end()
    counter.end()
    assert terminal.getvalue() == "before\n\r5,000 users \nbetween\n\r5,100 users, 50 a second \n"


def test_an_error_is_kept_off_the_counter(bundle_folder: Path, source: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    with source.open("a") as file:
        file.write("oops\n")
    command: list[Any] = [
        Path(sys.executable).with_name("llmcdsr"),
        "score",
        source,
        "--model",
        bundle_folder,
    ]
    done = subprocess.run(
        [*command, "-o", tmp_path / "out", "--batch-size", "50"], stderr=terminal, timeout=60, check=False
    )
    os.close(terminal)
    text = os.read(controller, 10_000).decode().replace("\r\n", "\n")
    os.close(controller)
    assert done.returncode == 1
    assert re.fullmatch(r"\r50 users \nError: .*in\.jsonl:51: not valid JSON: .*\n", text), text
