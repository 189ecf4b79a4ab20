from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from llmcdsr_lite import files
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import FolderKind, atomic_file, atomic_folder, check_folder, writing

KIND = FolderKind("a shelf", marker="x", files=frozenset({"x", "new", "in/side"}))


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
        with atomic_folder(tmp_path / "folder", KIND):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o750


def test_a_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with atomic_folder(path, KIND) as temporary:
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
    with pytest.raises(Stop), atomic_folder(path, KIND, overwrite=True) as temporary:
        write_half(temporary / "x", Stop)
    assert names(tmp_path) == (["out"] if exists else [])
    assert not exists or (path / "x").read_text() == "old"


@pytest.mark.parametrize("can_exchange", [False, True])
def test_an_existing_folder_is_replaced_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "_exchange", lambda *_: False)
    path = tmp_path / "out"
    with atomic_folder(path, KIND) as temporary:
        (temporary / "x").touch()
    path.chmod(0o700)
    with pytest.raises(DataError, match="out: exists already"), atomic_folder(path, KIND):
        pass
    assert names(path) == ["x"]
    with atomic_folder(path, KIND, overwrite=True) as temporary:
        (temporary / "new").touch()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["out"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange two names")
def test_a_folder_that_is_replaced_is_never_missing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two names")
    assert (names(tmp_path / "a"), names(tmp_path / "b")) == (["b"], ["a"])
    with pytest.raises(FileNotFoundError):
        files._exchange(tmp_path / "a", tmp_path / "none")


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (["x", "letter.txt"], "holds letter.txt"),
        (["x", "in/side", "in/other"], "holds in/other"),
        (["x", "empty/"], "holds empty"),
        (["new"], "lacks x"),
    ],
)
def test_a_folder_of_another_kind_is_never_replaced(tmp_path: Path, found: list[str], reason: str) -> None:
    for name in found:
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).mkdir() if name.endswith("/") else (tmp_path / "out" / name).touch()
    message = f"out: {reason}, so it is not a shelf and not replaced"
    with pytest.raises(DataError, match=message), atomic_folder(tmp_path / "out", KIND, overwrite=True):
        pass
    with pytest.raises(DataError, match=message):
        check_folder(tmp_path / "out", KIND, overwrite=True)
    assert all((tmp_path / "out" / name).exists() for name in found)


def test_what_came_while_a_folder_was_made_stays(tmp_path: Path) -> None:
    path = tmp_path / "out"

    def make() -> None:
        with atomic_folder(path, KIND, overwrite=True) as temporary:
            (temporary / "x").touch()
            path.mkdir()
            (path / "letter.txt").touch()

    with pytest.raises(DataError, match="holds letter"):
        make()
    assert names(tmp_path) == ["out"]
    assert names(path) == ["letter.txt"]


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch()
    path.chmod(0o600)
    with atomic_file(path) as temporary:
        temporary.write_text("new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == "new"


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_leads_to_the_new_file(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "file", tmp_path / "link"
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    with atomic_file(link) as temporary:
        temporary.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert names(tmp_path / "deep") == ["file"]


@pytest.mark.parametrize("through_a_link", [False, True])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, through_a_link: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "pipe"
    if through_a_link:
        path = tmp_path / "link"
        path.symlink_to("pipe")
    with pytest.raises(DataError, match=f"^{path}: is not a regular file"), atomic_file(path):
        pass
    assert stat.S_ISFIFO(path.stat().st_mode)


def fail(error: OSError) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (OSError("1000 requested and 12 written"), "1000 requested and 12 written"),  # by NumPy
    ],
)
def test_a_full_disk_names_the_file(tmp_path: Path, error: OSError, reason: str) -> None:
    path = tmp_path / "out"
    with pytest.raises(DataError, match=f"^{path}: cannot be written: {reason}$"), atomic_file(path):
        fail(error)
    with pytest.raises(DataError, match=f"^{path}: cannot be written: {reason}$"), atomic_folder(path, KIND):
        fail(error)
    assert names(tmp_path) == []


def test_errors_have_the_name_that_the_user_gave(tmp_path: Path) -> None:
    path = tmp_path / "none" / "out"
    with pytest.raises(DataError, match=f"^{path}: cannot be written: No such file"), atomic_file(path):
        pass
    path = tmp_path / "out"
    with (
        pytest.raises(DataError, match=f"^{path}/in/side: cannot be written: No such file"),
        atomic_folder(path, KIND) as temporary,
    ):
        (temporary / "in" / "side").touch()
    for error in (FileNotFoundError(errno.ENOENT, "No such file", "input"), BrokenPipeError()):
        with pytest.raises(type(error)), atomic_file(path):
            fail(error)


def test_what_a_system_leaves_in_a_folder_makes_it_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    with atomic_folder(folder, KIND) as out:
        (out / "x").write_text("1")
    (folder / ".DS_Store").write_text("where the icons are")
    with atomic_folder(folder, KIND, overwrite=True) as out:
        (out / "x").write_text("2")
    assert names(folder) == ["x"]


def test_a_name_is_told_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "None" / "out"  # as Python writes that there is no temporary file
    with pytest.raises(DataError) as caught, writing(path):
        path.write_text("")
    assert str(caught.value) == f"{path}: cannot be written: No such file or directory"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with atomic_folder(tmp_path / "out", KIND) as temporary:
        (temporary / "x").touch()
    assert names(tmp_path / "out") == ["x"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_is_never_replaced_by_a_folder(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(DataError, match="is a file, expected a folder"),
        atomic_folder(tmp_path / "out", KIND, overwrite=overwrite),
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

    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    monkeypatch.setattr(os, "replace", fail_on_new)
    with pytest.raises(PermissionError), atomic_folder(path, KIND, overwrite=True) as temporary:
        (temporary / "x").write_text("new")
    assert (path / "x").read_text() == "old"
    assert names(tmp_path) == ["out"]
