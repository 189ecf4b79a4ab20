"""Checked reading of the files of a bundle: nothing is followed, unpickled or believed."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import BundleError

CONFIG = "config.json"
LARGEST = 1e6  # no trained value comes near; sums of products of such ones stay finite
_ATTEMPTS = 5
_MAX_FILES = 100
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Read = TypeVar("Read")


def check_files(folder: Path, description: dict[str, Any], required: tuple[str, ...]) -> None:
    """Every listed file is in the folder, with the size and hash that are listed."""
    files = description.get("files")
    if not isinstance(files, dict):
        raise BundleError(f"{folder / CONFIG}: field 'files' must be an object")
    if len(files) > _MAX_FILES:  # a thousand names can be links to one large file, hashed a thousand times
        raise BundleError(f"{folder / CONFIG}: lists {len(files)} files, expected {_MAX_FILES} at most")
    for name in required:
        if name not in files:
            raise BundleError(f"{folder / CONFIG}: field 'files' does not list {name}")
    for name, entry in files.items():
        check_path(folder, name)
        path = folder / name
        if not isinstance(entry, dict) or type(entry.get("bytes")) is not int:
            raise BundleError(f"{folder / CONFIG}: entry {name!r} of 'files' needs bytes and sha256")
        if path.stat().st_size != entry["bytes"]:
            raise BundleError(f"{path}: {path.stat().st_size} bytes, expected {entry['bytes']}")
        found = file_sha256(path)
        if found != entry.get("sha256"):
            raise BundleError(
                f"{path}: SHA-256 is {found}, expected {entry.get('sha256')}: damaged or changed"
            )


def check_path(folder: Path, name: str) -> None:
    """Refuse names that are paths, files that are missing, and links that lead out of the folder."""
    if not _FILE_NAME.fullmatch(name):
        raise BundleError(f"{folder / CONFIG}: {name!r} is not a plain file name inside the bundle")
    path = folder / name
    try:
        if not path.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            raise BundleError(f"{path}: is a link that leads out of the bundle")
        if not stat.S_ISREG(path.stat().st_mode):
            raise BundleError(f"{path}: is not a regular file")
    except FileNotFoundError:
        raise BundleError(f"{path}: is missing; is {folder} a bundle?") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise BundleError(f"{path}: cannot be read: {error}") from None


def read_size(path: Path, holder: dict[str, Any], name: str, limit: int) -> int:
    """A field that must be a number from 1 to `limit`."""
    value = holder.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
        raise BundleError(f"{path}: field {name!r} is {value!r}, expected a number from 1 to {limit}")
    return value


def read_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """A finite array of that type and shape, memory-mapped and read-only."""
    try:
        # unlike np.load this opens .npy alone: no archive of arrays, and never a pickle
        array: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a crafted header makes NumPy's parser raise about anything
        reason = str(error) or type(error).__name__
        raise BundleError(f"{path}: cannot be read as a NumPy array: {reason}") from None
    if array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        raise BundleError(
            f"{path}: {array.dtype} array of shape {array.shape}, "
            f"expected {np.dtype(dtype)} {shape} in C order"
        )
    if array.dtype.kind == "f":
        lowest, highest = float(array.min()), float(array.max())  # nan if there is any
        if not (math.isfinite(lowest) and math.isfinite(highest)):
            raise BundleError(f"{path}: holds values that are not finite")
        if max(-lowest, highest) > LARGEST:
            raise BundleError(f"{path}: holds {max(-lowest, highest):.3g}, expected no more than {LARGEST:g}")
    let_go(array)
    return array


def let_go(array: npt.NDArray[Any]) -> None:
    """Let the pages go that a check has read: those that requests need come back from the system's cache."""
    mapped = array.base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def read_strings(path: Path, n: int) -> list[str]:
    """A JSON array of n strings."""
    strings = read_value(path)
    if not isinstance(strings, list) or set(map(type, strings)) - {str}:  # fast: there may be millions
        raise BundleError(f"{path}: must be a JSON array of strings")
    if not is_utf8("".join(strings)):
        raise BundleError(f"{path}: holds text that is not valid Unicode")
    if len(strings) != n:
        raise BundleError(f"{path}: {len(strings)} strings, expected {n} (the items of all domains)")
    return strings


def is_utf8(text: str) -> bool:
    """Whether it can be written: JSON escapes can name half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def read_value(path: Path) -> Any:
    """Parse a JSON file of a bundle."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not valid JSON: {error}") from None


def file_sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def undisturbed(folder: Path, read: Callable[[], Read]) -> Read:
    """What `read` makes of a bundle; read again if another one took the folder's name in the meantime.

    Its parts would be of both: hashes of the one, arrays of the other.

    Raises
    ------
    BundleError
        As `read` does, or if the folder is replaced time and again.
    """
    for _ in range(_ATTEMPTS):
        before = _identity(folder)
        try:
            found = read()
        except (BundleError, OSError) as error:
            if _identity(folder) != before:
                continue
            if isinstance(error, BundleError):
                raise
            raise BundleError(f"{error.filename or folder}: cannot be read: {error.strerror}") from None
        if _identity(folder) == before:
            return found
    raise BundleError(f"{folder}: was replaced {_ATTEMPTS} times while it was read")


def _identity(folder: Path) -> tuple[int, ...]:
    """What differs between a bundle and the next one of that name."""
    try:
        of_folder, config = folder.stat(), (folder / CONFIG).stat()
    except OSError:
        return ()  # between two renames; or reading tells what is wrong
    return of_folder.st_dev, of_folder.st_ino, config.st_ino, config.st_size, config.st_mtime_ns
