"""The answers file: what was appended is there, whatever ended the process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from llmcdsr_lite.errors import DataError, GenerationError
from llmcdsr_tools.generate.answers import Answer, open_answers

RUN = {"model": "m", "seed": 3, "stop": ("a",)}


def answer(user: str, text: str = "1. a\n2. half \ud83d") -> Answer:
    return Answer(user, "kitchen", text, "list", False, 7, None, 0.5)


def keys(path: Path) -> list[tuple[str, str]]:
    with open_answers(path, RUN) as file:
        return list(file.answers)


def test_answers_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers"
    with open_answers(path, RUN) as file:
        file.append(answer("u1"))
        assert len(path.read_bytes().splitlines()) == 2  # there before the file is closed
        file.append(answer("u2", "ü"))
    with open_answers(path, RUN) as file:
        assert list(file.answers.values()) == [answer("u1"), answer("u2", "ü")]
        file.append(answer("u3"))
    assert [user for user, _ in keys(path)] == ["u1", "u2", "u3"]


def test_every_answer_is_on_disk_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sizes = tmp_path / "answers", []
    sync = os.fsync

    def watched(handle: int) -> None:
        sync(handle)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(os, "fsync", watched)
    with open_answers(path, RUN) as file:
        for user in "abc":
            file.append(answer(user))
            assert sizes[-1] == path.stat().st_size
    assert len(sizes) == 4
    assert sizes == sorted(set(sizes))


def test_wherever_the_file_is_torn_the_whole_lines_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with open_answers(path, RUN) as file:
        for user in ("u1", "u2"):
            file.append(answer(user))
    whole = path.read_bytes()
    header, first, _ = (len(line) for line in whole.splitlines(keepends=True))
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        expected = [] if end < header + first else ["u1"] if end < len(whole) else ["u1", "u2"]
        assert [user for user, _ in keys(path)] == expected, end
        with open_answers(path, RUN) as file:
            file.append(answer("u9"))
        assert [user for user, _ in keys(path)] == [*expected, "u9"], end


def test_a_last_line_of_any_length_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    with open_answers(path, RUN) as file:
        file.append(answer("u1"))
    for torn in (65535, 65536, 200_000):
        with path.open("ab") as raw:
            raw.write(b"x" * torn)
        assert [user for user, _ in keys(path)] == ["u1"]
    path.write_bytes(b"x" * 70_000)
    assert keys(path) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "answers:2: expected an answer with user, domain, answer, .*: .*double quotes"),
        ('"text"', "answers:2: expected an answer"),
        ('{"user": "u"}', "answers:2: expected an answer"),
        (json.dumps({**vars(answer("u")), "answer": 3}), "must be strings"),
        ("[" * 100_000, "answers:2: expected an answer"),
    ],
)
def test_damage_before_the_last_line_is_refused(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "answers"
    keys(path)
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match=message):
        keys(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"user": "u1"}, "answers:1: expected the line that begins a llmcdsr-answers file: it is something"),
        ({"format": "llmcdsr-answers", "format_version": 2, "run": {}}, "format_version is 2, .* reads 1"),
    ],
)
def test_other_files_are_refused_and_left_alone(tmp_path: Path, header: dict[str, Any], message: str) -> None:
    path = tmp_path / "answers"
    path.write_text(json.dumps(header) + "\n")
    before = path.read_bytes()
    with pytest.raises(DataError, match=message):
        keys(path)
    assert path.read_bytes() == before


def test_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    keys(path)
    with (
        pytest.raises(GenerationError, match=r"model was 'm' and is now 'n'; seed was 3 and is now None"),
        open_answers(path, {**RUN, "model": "n", "seed": None}),
    ):
        pass


def test_two_processes_do_not_share_a_file(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "answers"
    with (
        open_answers(path, RUN),
        pytest.raises(GenerationError, match="another process is writing to it"),
        open_answers(path, RUN),
    ):
        pass
    keys(path)  # free again
