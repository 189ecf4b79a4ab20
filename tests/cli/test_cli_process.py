"""The command line as a process: a reader that stops early, Ctrl-C."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path


def test_a_reader_that_stops_early_ends_it_quietly(
    bundle_folder: Path, tmp_path: Path, history_lines: Callable[[int], list[str]]
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text("".join(history_lines(5000)), encoding="utf-8")
    command = Path(sys.executable).with_name("llmcdsr")
    process = subprocess.Popen(
        [command, "score", source, "--model", bundle_folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["user"] == "u0"
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(30) == 1
    process.stderr.close()


def test_ctrl_c_says_how_to_go_on(bundle_folder: Path, tmp_path: Path) -> None:
    driver = (
        # a shell's background jobs start with the signal ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from llmcdsr_lite.score import output as score_output; score_output._SAVE_SECONDS = 0\n"
        "from llmcdsr_tools.cli.commands import cli; cli()"
    )
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", driver, "score", "-", "--model", bundle_folder),
            *("-o", tmp_path / "out.jsonl", "--batch-size", "1"),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        process.stdin.write(b'{"user": "u", "history": ["f1"]}\n' * 1000)
        process.stdin.flush()
        while not (tmp_path / "out.jsonl.partial.json").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        message = process.stderr.read().decode()
        assert process.wait(30) == 1
    finally:
        process.kill()
        process.stderr.close()
        process.stdin.close()
    assert f"{tmp_path / 'out.jsonl'}.partial holds the part done; resume continues\n" in message
    assert "Traceback" not in message
    assert not (tmp_path / "out.jsonl").exists()
