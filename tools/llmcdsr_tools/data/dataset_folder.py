"""The data set folder: what `ingest` writes and every later stage reads.

================== ==========================================================================
file               content
================== ==========================================================================
dataset.json       format version, domain names and sizes, where the data came from, summary
item_ids.json      JSON array of the item ids, in row order (row 1 first)
item_titles.json   JSON array of the titles, in the same order
train_rows.npy     int32, the item rows of all histories one after the other, oldest item first
train_offsets.npy  int64 (users + 1), history u is ``rows[offsets[u]:offsets[u + 1]]``
train_users.json   JSON array of the user ids
valid_*, test_*    the same three files for the held-out users; their last item is the target
================== ==========================================================================

Item rows: 0 is padding and never occurs, the first domain begins at 1, each other one after the one before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.files import is_utf8
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import FolderKind, atomic_file, atomic_folder
from llmcdsr_tools.data.dataset import MIN_HELD_OUT, SPLITS, Dataset, Histories, Positions, Split
from llmcdsr_tools.data.dataset_summary import density, summarize

FORMAT = "llmcdsr-dataset"
FORMAT_VERSION = 1
HEADER = "dataset.json"
FILES = (
    HEADER,
    "item_ids.json",
    "item_titles.json",
    *(f"{split}_{part}" for split in SPLITS for part in ("rows.npy", "offsets.npy", "users.json")),
)
"""Names of the files that the format has, all of them; whatever else lies in the folder is none of it."""

DATASET = FolderKind("a data set", marker=HEADER, files=frozenset(FILES))


def save_dataset(
    dataset: Dataset, folder: str | Path, *, source: dict[str, Any] | None = None, overwrite: bool = False
) -> None:
    """Write a data set folder atomically.

    Parameters
    ----------
    dataset : Dataset
        What to write.
    folder : str or Path
        Where; it must not exist, or be empty, unless `overwrite` is true.
    source : dict, optional
        JSON-able description of where the data came from, kept for the reader.
    overwrite : bool
        Replace a data set that is there; no other folder is, unless it is empty.

    Raises
    ------
    DataError
        If the folder exists and must not be overwritten.
    """
    folder = Path(folder)
    catalogue = dataset.catalogue
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "domains": [{"name": d.name, "items": d.n_items} for d in catalogue.domains],
        "source": source or {},
        "test_positions": dataset.test_positions,
        "summary": {s: vars(summarize(dataset.split(s), catalogue)) for s in SPLITS},
        "density": density(dataset),
        "untitled_items": sum(not title for title in catalogue.titles),
    }
    with atomic_folder(folder, DATASET, overwrite=overwrite) as out:
        _write_json(out / "item_ids.json", list(catalogue.ids))
        _write_json(out / "item_titles.json", list(catalogue.titles))
        for split in SPLITS:
            histories = dataset.split(split)
            np.save(out / f"{split}_rows.npy", histories.rows.astype(np.int32, copy=False))
            np.save(out / f"{split}_offsets.npy", histories.offsets.astype(np.int64, copy=False))
            _write_json(out / f"{split}_users.json", list(histories.users))
        (out / HEADER).write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")


def load_dataset(folder: str | Path) -> Dataset:
    """Read a data set folder, checking that its parts fit together.

    Raises
    ------
    DataError
        If a file is missing, of a newer format, or does not fit the others; the message names it.
    """
    folder = Path(folder)
    header = _read_json(folder / HEADER)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise DataError(f"{folder / 'dataset.json'}: not a {FORMAT} file")
    version = header.get("format_version")
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise DataError(
            f"{folder / 'dataset.json'}: format_version is {version!r}, "
            f"this version reads up to {FORMAT_VERSION}"
        )
    try:
        names, sizes = zip(*((d["name"], d["items"]) for d in header["domains"]), strict=True)
        if {*map(type, names)} != {str} or {*map(type, sizes)} != {int}:
            raise TypeError("a name is text, a number of items is a number")
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{folder / 'dataset.json'}: field 'domains' must list domains with name and items"
        ) from None
    ids, titles = _read_strings(folder / "item_ids.json"), _read_strings(folder / "item_titles.json")
    try:
        catalogue = Catalogue.from_sizes(ids, titles, names, sizes)
        _ = catalogue.row_of_id  # refuses ids that occur twice
    except DataError as error:
        raise DataError(f"{folder}: dataset.json, item_ids.json and item_titles.json: {error}") from None
    train, valid, test = (_load_histories(folder, split, len(catalogue)) for split in SPLITS)
    positions = header.get("test_positions", "last")
    if positions not in get_args(Positions):
        raise DataError(f"{folder / HEADER}: test_positions is {positions!r}, expected 'last' or 'every'")
    return Dataset(catalogue, train, valid, test, positions)


def write_histories(dataset: Dataset, split: Split, output: str | Path) -> None:
    """Write the histories of a split as JSON Lines that ``llmcdsr score`` reads.

    Parameters
    ----------
    dataset : Dataset
    split : {"train", "valid", "test"}
        Of the held-out splits, the targets are left out.
    output : str or Path
        Written atomically; ``-`` is standard output.
    """
    output = Path(output)
    ids = dataset.catalogue.ids
    held_out = split != "train"
    histories = dataset.split(split)
    lines = (
        json.dumps(
            {"user": user, "history": [ids[row - 1] for row in (rows[:-1] if held_out else rows).tolist()]},
            ensure_ascii=False,
        )
        + "\n"
        for user, rows in zip(histories.users, histories, strict=True)
    )
    if output == Path("-"):
        sys.stdout.writelines(lines)
        return
    with atomic_file(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)


def _load_histories(folder: Path, split: Split, n_items: int) -> Histories:
    rows = _read_array(folder / f"{split}_rows.npy", np.dtype(np.int32))
    offsets = _read_array(folder / f"{split}_offsets.npy", np.dtype(np.int64))
    users = _read_strings(folder / f"{split}_users.json")
    where = folder / f"{split}_offsets.npy"
    if len(offsets) != len(users) + 1:
        raise DataError(f"{where}: {len(offsets)} offsets, expected {len(users) + 1} (users + 1)")
    if offsets[0] != 0 or offsets[-1] != len(rows) or np.any(offsets[1:] < offsets[:-1]):
        raise DataError(f"{where}: must rise from 0 to {len(rows)} (the number of rows)")
    if len(rows) and not (rows.min() >= 1 and rows.max() <= n_items):
        raise DataError(
            f"{folder / f'{split}_rows.npy'}: rows from {rows.min()} to {rows.max()}, expected 1..{n_items}"
        )
    histories = Histories(rows, offsets, users)
    short = np.flatnonzero(histories.lengths < MIN_HELD_OUT)
    if split != "train" and len(short):
        n = histories.lengths[short[0]]
        raise DataError(
            f"{where}: history {short[0]} has {n} item{'' if n == 1 else 's'}, "
            "expected a history and its target"
        )
    return histories


def _read_array(path: Path, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """An array of one axis and that type, as `np.save` writes it.

    The header is checked against the size of the file before anything of the size that it claims is made.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"version {version} of the .npy format, expected (1, 0)")
            shape, _, found = np.lib.format.read_array_header_1_0(file)
            if len(shape) != 1 or found != dtype:
                raise DataError(f"{path}: {found} array of shape {shape}, expected one {dtype} axis")
            expected, size = shape[0] * dtype.itemsize, path.stat().st_size - file.tell()
            if size != expected:
                raise DataError(f"{path}: {size:,} bytes of data, expected {expected:,} for shape {shape}")
            return np.fromfile(file, dtype)
    except DataError:
        raise
    except Exception as error:  # a crafted header makes NumPy's parser raise about anything
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: cannot be read as a NumPy array: {reason}") from None


def _read_strings(path: Path) -> list[str]:
    strings = _read_json(path)
    if not isinstance(strings, list) or not all(isinstance(s, str) for s in strings):
        raise DataError(f"{path}: must be a JSON array of strings")
    if not is_utf8("".join(strings)):
        raise DataError(f"{path}: holds text that is not valid Unicode")
    return strings


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from None


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")
