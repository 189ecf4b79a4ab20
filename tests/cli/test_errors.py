"""How commands fail: wrong usage, failed jobs, closed streams, never a traceback."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run

from llmcdsr_lite import Recommender

Command = Callable[..., subprocess.CompletedProcess[bytes]]

M = "MODEL"
BAD_USAGE = [
    ["nonsense"],
    ["score"],
    ["score", "x.jsonl"],
    ["score", "in.jsonl", "--model", M, "-k", "0"],
    ["score", "in.jsonl", "--model", M, "-k", "many"],
    ["score", "in.jsonl", "--model", M, "--batch-size", "-1"],
    ["score", "in.jsonl", "--model", M, "--batch-size", "99999999999999999999"],
    ["score", "in.jsonl", "--model", M, "--on-error", "ignore"],
    ["score", "in.jsonl", "--model", M, "--separator", ""],
    ["score", "in.jsonl", "--model", M, "--resume"],
    ["score", "in.jsonl", "--model", M, "--threads", "20000"],
    ["score", "in.jsonl", "--model", M, "--output-format", "xml"],
    ["recommend", "--model", M],
    ["recommend", "f1"],
    ["recommend", "f1", "--model", M, "-k", "0"],
    ["recommend", "f1", "--model", M, "--backend", "torch"],
    ["recommend", "f1", "--model", M, "--domain", "books"],
    ["score", "in.jsonl", "--model", M, "--domain", "books"],
    ["similar", "f1", "--model", M, "--domain", "books"],
    ["similar", "--model", M],
    ["inspect"],
    ["ingest"],
    ["train", "x"],
    ["evaluate", "x"],
    ["export", "x"],
]
BAD_INPUT = [
    (["recommend", "zz", "--model", M], "history: item 'zz' is not in the catalogue"),
    (["recommend", "--title", "gold", "--model", M], "no title has all the words of 'gold'"),
    (["recommend", "--title", "", "--model", M], "no title has all the words of ''"),
    (["recommend", "f1", "--model", "none"], "none/config.json: is missing; is none a bundle?"),
    (["recommend", "f1", "--model", "damaged"], "damaged/dense.npy: is missing; is damaged a bundle?"),
    (["recommend", "f1", "--model", "in.jsonl"], "in.jsonl/config.json: "),
    (["similar", "zz", "--model", M], "item 'zz' is not in the catalogue"),
    (["inspect", "none"], "none/config.json: is missing; is none a bundle?"),
    (["inspect", "damaged"], "damaged/dense.npy: is missing"),
    (["inspect", "in.jsonl"], "in.jsonl/config.json: "),
    (["score", "none.jsonl", "--model", M, "-o", "out"], "none.jsonl: cannot be read: No such file"),
    (["score", ".", "--model", M, "-o", "out"], ".: cannot be read: Is a directory"),
    (["score", "bad.gz", "--model", M, "-o", "out"], "bad.gz: cannot be read to its end: Not a gzipped file"),
    (["score", "in.jsonl", "--model", M, "-o", "no/out"], "no/out.partial: cannot be written: No such file"),
    (["score", "in.jsonl", "--model", M, "-o", "damaged"], "damaged: is not a regular file"),
    (["score", "in.jsonl", "--model", M, "-o", "/dev/null"], "/dev/null: is not a regular file"),
    (["score", "in.jsonl", "--model", M, "-o", "in.jsonl"], "in.jsonl: is the input"),
    (["score", "in.jsonl", "--model", M, "-o", "."], ".: is not a regular file"),
    (["score", "bad.jsonl", "--model", M, "-o", "out"], "bad.jsonl:1: not valid JSON"),
    (["score", "in.jsonl", "--model", M, "--input-format", "csv", "-o", "out"], "in.jsonl:1: the header is"),
    (["score", "in.jsonl", "--model", "none", "-o", "out"], "none/config.json: is missing"),
    (["ingest", "none.csv", "--items", "none.csv", "--domain", "A", "-o", "out"], "none.csv"),
    (["train", "none", "-o", "out"], "none"),
    (["evaluate", "none", "none"], "none"),
    (["export", "none", "-o", "out"], "none"),
    (["histories", "none"], "none"),
]


@pytest.mark.parametrize("arguments", BAD_USAGE, ids=" ".join)
def test_wrong_usage_ends_with_status_2(place: Path, arguments: list[str]) -> None:
    result = run(*[str(place) if a == M else a for a in arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.search(r"^Error: ", result.stderr, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_INPUT, ids=lambda v: " ".join(v) if isinstance(v, list) else ""
)
def test_a_failed_job_ends_with_status_1_and_one_line(
    place: Path, arguments: list[str], message: str
) -> None:
    before = sorted(Path().iterdir())
    result = run(*[str(place) if a == M else a for a in arguments])
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def test_no_traceback_in_a_real_process(llmcdsr_process: Command, place: Path) -> None:
    done = llmcdsr_process("recommend", "zz", "--model", place)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"Error: history: item 'zz' is not in the catalogue\n"


def test_progress_on_a_terminal(bundle_folder: Path, source: Path, tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    command = Path(sys.executable).with_name("llmcdsr")
    done = subprocess.run(
        [command, "score", source, "--model", bundle_folder, "-o", tmp_path / "out", "--batch-size", "20"],
        stderr=terminal,
        timeout=60,
        check=False,
    )
    os.close(terminal)
    text = os.read(controller, 10_000).decode().replace("\r\n", "\n")
    os.close(controller)
    assert done.returncode == 0
    assert re.match(r"\r20 users \r30 users, [\d,]+ a second \n30 users scored, .*\n$", text)


@pytest.mark.parametrize(
    "command", ["inspect MODEL", "recommend f1 --model MODEL", "similar f1 --model MODEL --json"]
)
def test_a_closed_standard_output_is_told(bundle_folder: Path, command: str) -> None:
    words = [str(bundle_folder) if word == M else word for word in command.split()]
    shell = shlex.join([str(Path(sys.executable).with_name("llmcdsr")), *words])
    done = subprocess.run(["sh", "-c", f"{shell} >&-"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "Error: standard output is closed\n")


@pytest.mark.parametrize("command", ["score - --model MODEL", "add-items --items - --model MODEL -o grown"])
def test_a_closed_standard_input_is_told(bundle_folder: Path, tmp_path: Path, command: str) -> None:
    words = [str(bundle_folder) if word == M else word for word in command.split()]
    shell = shlex.join([str(Path(sys.executable).with_name("llmcdsr")), *words])
    done = subprocess.run(
        ["sh", "-c", f"{shell} <&-"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"Error: .*standard input is closed\n", done.stderr)


def test_too_little_memory_is_told(bundle_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        np.empty(1 << 60, np.uint8)

    monkeypatch.setattr(Recommender, "load", load)
    result = run("recommend", "f1", "--model", bundle_folder)
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: not enough memory: Unable to allocate .*\n", result.stderr)


def test_titles_that_the_output_cannot_show(llmcdsr_process: Command, bundle_folder: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1251"}
    done = llmcdsr_process("recommend", "f1", "--model", bundle_folder, env=environment)
    assert done.returncode == 1
    assert (
        done.stderr == b"Error: standard output is cp1251, which lacks '\\xe9'; set PYTHONIOENCODING=utf-8\n"
    )
