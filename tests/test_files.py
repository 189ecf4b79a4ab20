from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file, atomic_folder


class Stop(Exception):
    """Raised by a test in the middle of writing."""


def write_half(path: Path, error: type[BaseException]) -> None:
    path.write_text("half")
    raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_a_failed_file_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_file(path) as temporary:
        write_half(temporary, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.txt"]


def test_permissions_are_those_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file"):
            pass
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with atomic_folder(path) as temporary:
        (temporary / "x").write_text("1")
        assert not path.exists()
    assert (path / "x").read_text() == "1"
    assert names(path.parent) == ["b"]


@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_folder_leaves_nothing(tmp_path: Path, exists: bool) -> None:
    path = tmp_path / "out"
    if exists:
        path.mkdir()
        (path / "x").write_text("old")
    with pytest.raises(Stop), atomic_folder(path, overwrite=True) as temporary:
        write_half(temporary / "x", Stop)
    assert names(tmp_path) == (["out"] if exists else [])
    assert not exists or (path / "x").read_text() == "old"


def test_an_existing_folder_is_replaced_only_if_asked(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_folder(path) as temporary:
        (temporary / "old").touch()
    with pytest.raises(DataError, match="out: exists already"), atomic_folder(path):
        pass
    assert names(path) == ["old"]
    with atomic_folder(path, overwrite=True) as temporary:
        (temporary / "new").touch()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["out"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "x").touch()
    assert names(tmp_path / "out") == ["x"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(DataError, match="is a file, expected a folder"),
        atomic_folder(tmp_path / "out", overwrite=overwrite),
    ):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.mkdir()
    (path / "x").write_text("old")
    replace = os.replace

    def fail_on_new(source: Path, target: Path) -> None:
        if str(source).endswith(".tmp"):
            raise PermissionError("no")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_on_new)
    with pytest.raises(PermissionError), atomic_folder(path, overwrite=True) as temporary:
        (temporary / "x").write_text("new")
    assert (path / "x").read_text() == "old"
    assert names(tmp_path) == ["out"]
