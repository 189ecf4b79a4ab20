from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.pipeline import stage_cache
from llmcdsr_tools.pipeline.stage_cache import Stage, complete, finished, stage_folder, stage_key, tree_hash


class Writer:
    """Writes a text to the output, and counts how often."""

    def __init__(self, text: str = "made") -> None:
        self.text, self.calls = text, 0

    def __call__(self, output: Path) -> Callable[[], None]:
        def run() -> None:
            self.calls += 1
            output.write_text(self.text)

        return run


def stage_of(work: Path, write: Writer, key: str = "0123456789abcdef0", **changes: Any) -> Stage:
    folder = stage_folder(work, "embed", key)
    output = changes.pop("output", folder / "out.txt")
    return Stage("embed", key, folder, output, write(output), **changes)


def test_a_stage_runs_once(tmp_path: Path) -> None:
    write = Writer()
    stage = stage_of(tmp_path, write)
    assert stage.folder == tmp_path / "embed" / "0123456789abcdef"
    assert finished(stage, {}) is None
    record = complete(stage, {})
    assert finished(stage, {}) == record
    assert record.output_sha256 == hashlib.sha256(b"made").hexdigest()
    assert record.seconds >= 0
    assert finished(stage_of(tmp_path, write, key="f" * 17), {}) is None
    assert write.calls == 1


def test_an_output_that_was_changed_is_made_again(tmp_path: Path) -> None:
    write = Writer()
    stage = stage_of(tmp_path, write)
    complete(stage, {})
    for change in (lambda: stage.output.write_text("mine"), stage.output.unlink):
        change()
        (stage.folder / "half.partial").write_text("of an earlier call")
        assert finished(stage, {}) is None
        complete(stage, {})
        assert stage.output.read_text() == "made"
        assert not (stage.folder / "half.partial").exists()
    assert write.calls == 3


def test_an_output_that_appears_whole_is_not_made_again(tmp_path: Path) -> None:
    """The process was killed between the output and its record."""
    write = Writer("other")
    stage = stage_of(tmp_path, write)
    stage.folder.mkdir(parents=True)
    stage.output.write_text("whole")
    record = complete(stage, {})
    assert write.calls == 0
    assert finished(stage, {}) == record
    filling = stage_of(tmp_path, write, key="2" * 17, appears_whole=False)
    filling.folder.mkdir(parents=True)
    filling.output.write_text("half")
    complete(filling, {})
    assert write.calls == 1


def test_an_output_elsewhere_is_always_made(tmp_path: Path) -> None:
    write = Writer()
    stage = stage_of(tmp_path / "work", write, output=tmp_path / "bundle")
    stage.output.write_text("of another configuration")
    for name in (".bundle.abc.tmp", ".bundle.def.old", ".bundle2.abc.tmp"):
        (tmp_path / name).mkdir()
    complete(stage, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [".bundle2.abc.tmp", "bundle", "work"]
    assert stage.output.read_text() == "made"
    assert finished(stage, {}) is not None


def test_what_a_killed_process_leaves_is_removed(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, Writer())
    (stage.folder / ".out.txt.abc.tmp").mkdir(parents=True)
    (stage.folder / ".out.txt.def.tmp").write_text("")
    (stage.folder / ".out.txt.ghi.old").mkdir()
    (stage.folder / "out.txt.partial").write_text("kept: the stage goes on with it")
    complete(stage, {})
    assert sorted(p.name for p in stage.folder.iterdir()) == ["done.json", "out.txt", "out.txt.partial"]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"key": "x"}'])
def test_a_record_that_is_none(tmp_path: Path, content: str) -> None:
    stage = stage_of(tmp_path, Writer())
    complete(stage, {})
    (stage.folder / "done.json").write_text(content)
    assert finished(stage, {}) is None
    complete(stage, {})
    assert finished(stage, {}) is not None


def test_a_stage_that_fails_leaves_no_record(tmp_path: Path) -> None:
    stage = stage_of(tmp_path, Writer())

    def fail() -> None:
        raise DataError("no")

    with pytest.raises(DataError, match="no"):
        complete(Stage("embed", stage.key, stage.folder, stage.output, fail), {})
    assert finished(stage, {}) is None


def test_all_that_makes_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("1")
    folder.mkdir()
    (folder / "a").write_text("1")
    before = stage_of(tmp_path, Writer(), key="1" * 17)
    after = stage_of(tmp_path, Writer(), key="2" * 17)
    files = {"items": file, "encoder": folder, "none": None}
    base = stage_key("embed", {"k": 1}, files, [before])
    assert base == stage_key("embed", {"k": 1}, dict(reversed(files.items())), [before])
    keys = {
        base,
        stage_key("train", {"k": 1}, files, [before]),
        stage_key("embed", {"k": 2}, files, [before]),
        stage_key("embed", {"k": 1}, {**files, "none": file}, [before]),
        stage_key("embed", {"k": 1}, files, [after]),
        stage_key("embed", {"k": 1}, files, [before, after]),
    }
    (folder / "a").write_text("2")
    keys.add(stage_key("embed", {"k": 1}, files, [before]))
    (folder / "a").rename(folder / "b")
    keys.add(stage_key("embed", {"k": 1}, files, [before]))
    file.write_text("2")
    keys.add(stage_key("embed", {"k": 1}, files, [before]))
    monkeypatch.setattr(stage_cache, "__version__", "99")
    keys.add(stage_key("embed", {"k": 1}, files, [before]))
    assert len(keys) == 10


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: cannot be read: No such file"):
        stage_key("embed", {}, {"source": tmp_path / "nothing"}, [])


def test_tree_hash_reads_every_file(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_text("1")
    before = tree_hash(tmp_path)
    (tmp_path / "a" / "b" / "c").write_text("2")
    changed = tree_hash(tmp_path)
    (tmp_path / "a" / "b" / "c").rename(tmp_path / "a" / "c")
    assert len({before, changed, tree_hash(tmp_path)}) == 3


def test_what_it_was_made_from_must_be_the_same(tmp_path: Path) -> None:
    """A stage before it was run again, and came out otherwise under the same key."""
    write = Writer()
    stage = stage_of(tmp_path, write)
    record = complete(stage, {"ingest": "1"})
    assert finished(stage, {"ingest": "1"}) == record
    for other in ({}, {"ingest": "2"}, {"ingest": "1", "embed": "1"}):
        assert finished(stage, other) is None
    complete(stage, {"ingest": "2"})
    assert finished(stage, {"ingest": "2"}) is not None
    assert write.calls == 2
