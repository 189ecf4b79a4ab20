"""Writing files and folders so that their names lead to the old state or the new one, never to half of it.

A reader that opens the files of a folder one by one while it is replaced may still get some of each: formats
that must notice hold hashes of their files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from llmcdsr_lite.errors import DataError

_OF_THE_SYSTEM = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is flushed to disk and renamed over `path`.

    On any exception the temporary file is removed and `path` is as it was. A file that is replaced keeps its
    permissions; where `path` is a symbolic link, the file that it leads to is replaced.

    Raises
    ------
    DataError
        If `path` is there and is not a regular file, cannot be made, or the disk is full.
    """
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a regular file, so it is not replaced; choose another name")
    target = Path(os.path.realpath(path))
    with writing(path):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with writing(path, temporary):
            yield temporary
            sync(temporary)
            os.chmod(temporary, mode_of(path))
            os.replace(temporary, target)
            sync(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@dataclass(frozen=True)
class FolderKind:
    """What folders of a kind hold, so that no other is taken for one and replaced.

    Parameters
    ----------
    name : str
        With its article, such as "a bundle".
    marker : str
        A file that every one of them has, and hardly any other folder.
    files : frozenset of str
        All that one may have, with ``/`` between folders.
    """

    name: str
    marker: str
    files: frozenset[str]


def check_folder(path: Path, kind: FolderKind, *, overwrite: bool = False) -> None:
    """Refuse a name for a folder that is taken: before work that takes long, `atomic_folder` does it, too.

    Raises
    ------
    DataError
        If `path` is a file; is a folder that is not empty, and `overwrite` is false; or holds anything that
        a folder of the kind does not, or lacks its marker.
    """
    if not path.is_dir():
        if path.exists() or path.is_symlink():
            raise DataError(f"{path}: is a file, expected a folder or nothing there")
        return
    if not any(path.iterdir()):
        return
    if not overwrite:
        raise DataError(f"{path}: exists already; choose another name or ask for it to be overwritten")
    strange = next((name for name in _contents(path) if name not in kind.files), None)
    if strange is not None or not (path / kind.marker).exists():
        reason = f"lacks {kind.marker}" if strange is None else f"holds {strange}"
        raise DataError(f"{path}: {reason}, so it is not {kind.name} and not replaced; choose another name")


def _contents(folder: Path) -> Iterator[str]:
    """Names of the files in a folder, and of empty folders, but for what a system leaves there."""
    for entry in folder.rglob("*"):
        if entry.name in _OF_THE_SYSTEM:
            continue
        if entry.is_symlink() or not entry.is_dir() or not any(entry.iterdir()):
            yield entry.relative_to(folder).as_posix()


@contextmanager
def atomic_folder(path: Path, kind: FolderKind, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; on success it is flushed to disk and takes that name.

    On any exception the temporary folder is removed and `path` is as it was. Where the system can exchange
    two names (Linux), there is a whole folder at `path` at every moment; elsewhere none for an instant.

    Parameters
    ----------
    path : Path
        The folder to make. Its parent is created if it does not exist.
    kind : FolderKind
        What is made.
    overwrite : bool
        Whether a folder of that kind that is there already may be replaced. No other ever is.

    Raises
    ------
    DataError
        If `path` is taken, see `check_folder`, or the disk is full.
    """
    check_folder(path, kind, overwrite=overwrite)
    target = path.resolve()
    with writing(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        with writing(path, temporary):
            yield temporary
            for entry in (*temporary.rglob("*"), temporary):
                sync(entry)
            os.chmod(temporary, mode_of(path, 0o777))
            check_folder(path, kind, overwrite=overwrite)  # what came there in the meantime
            if not target.exists():
                os.replace(temporary, target)
            elif not _exchange(temporary, target):
                _swap(temporary, target)
            sync(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the old folder, or half of the new one


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names at once; False where the system, or the file system, cannot."""
    if sys.platform != "linux":
        return False
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    here, rename_exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if exchange(here, os.fsencode(a), here, os.fsencode(b), rename_exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(b))


def _swap(new: Path, path: Path) -> None:
    """Exchange two folders by renaming; the old one comes back if the new one cannot take its name."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    try:
        os.replace(path, aside / "replaced")
        try:
            os.replace(new, path)
        except BaseException:
            os.replace(aside / "replaced", path)
            raise
        os.replace(aside / "replaced", new)
    finally:
        aside.rmdir()


@contextmanager
def writing(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Tell failures to write in the name that the user knows, not that of a temporary file or none at all.

    Parameters
    ----------
    path : Path
        What is written.
    temporary : Path, optional
        What has its place until it is whole. If given, the block may fail for other reasons, too: only what
        names the temporary file, or a full disk, which names none, is of `path`.

    Raises
    ------
    DataError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        name = str(path if error.filename is None or temporary is None else error.filename)
        if temporary is not None and not (name.startswith(str(temporary)) or _is_full(error)):
            raise
        if temporary is not None:
            name = name.replace(str(temporary), str(path))
        raise DataError(f"{name}: cannot be written: {error.strerror or error}") from None


def _is_full(error: OSError) -> bool:
    if error.filename is not None:
        return False
    numpy_says = error.errno is None and "requested and" in str(error)
    return numpy_says or error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def mode_of(path: Path, default: int = 0o666) -> int:
    """Permissions of what is at `path`, or those that something new gets there."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return default & ~mask


def sync(path: Path) -> None:
    """Have a file, or the names in a folder where the system has a way to, reach the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        if not path.is_dir():  # some systems, and network file systems, cannot
            raise
