"""What makes vectors of new items in a bundle: its files, and its part of config.json.

======================== ====================================================================
file                     content
======================== ====================================================================
title_components.npy     float32 (E + 1, D): text embedding to the space in which titles are
                         compared; the last row is added to all
title_directions.npy     int8 (items + 1, D), row 0 zero: the titles of trained items there, of
                         length 127, or zero
======================== ====================================================================

``new_items`` in config.json: ``text`` (E), ``size`` (D), ``neighbours``, ``added`` (items of each domain that
were added after training, its last ones) and ``weighings``, for each domain ``sharpness``, ``scale`` and
``validation`` (`Weighing`).
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.bundle.files import CONFIG, read_array, read_size
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.text.title_neighbours import TitleMap, Weighing

COMPONENTS = "title_components.npy"
DIRECTIONS = "title_directions.npy"
NEW_ITEMS_FILES = (COMPONENTS, DIRECTIONS)

_MAX_TEXT = 1 << 16
_MAX_SIZE = 1 << 14
_MAX_NEIGHBOURS = 10_000
_MAX_SHARPNESS = 1e4
_MAX_SCALE = 100.0


def write_new_items(folder: Path, titles: TitleMap) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Write the files; their names, and the part of config.json."""
    np.save(folder / COMPONENTS, np.ascontiguousarray(titles.components, dtype=np.float32))
    np.save(folder / DIRECTIONS, np.ascontiguousarray(titles.directions, dtype=np.int8))
    return NEW_ITEMS_FILES, {
        "text": titles.dimension,
        "size": titles.components.shape[1],
        "neighbours": titles.n_neighbours,
        "added": list(titles.added),
        "weighings": [{**asdict(w), "validation": dict(w.validation)} for w in titles.weighings],
    }


def read_new_items(folder: Path, description: dict[str, Any], sizes: tuple[int, ...]) -> TitleMap | None:
    """Read what makes vectors of new items, if the bundle has it; its files have been checked for their hash.

    Parameters
    ----------
    folder : Path
    description : dict
        Content of config.json.
    sizes : tuple of int
        Items of each domain.

    Raises
    ------
    BundleError
        If one of its files is there without the other, or any part does not fit or cannot be meant.
    """
    path = folder / CONFIG
    listed = [name for name in NEW_ITEMS_FILES if name in description["files"]]
    described = description.get("new_items")
    if described is None:
        if listed:
            raise BundleError(f"{path}: lists {listed[0]}, but has no field 'new_items'")
        return None
    if not isinstance(described, dict):
        raise BundleError(f"{path}: field 'new_items' must be an object")
    for name in NEW_ITEMS_FILES:
        if name not in listed:
            raise BundleError(f"{path}: field 'files' does not list {name}, which 'new_items' needs")
    text, size = (
        read_size(path, described, name, limit) for name, limit in (("text", _MAX_TEXT), ("size", _MAX_SIZE))
    )
    titles = TitleMap(
        read_array(folder / COMPONENTS, np.float32, (text + 1, size)),
        read_array(folder / DIRECTIONS, np.int8, (sum(sizes) + 1, size)),
        _read_weighings(path, described, len(sizes)),
        read_size(path, described, "neighbours", _MAX_NEIGHBOURS),
        _read_added(path, described, sizes),
    )
    if titles.directions[0].any():
        raise BundleError(f"{folder / DIRECTIONS}: row 0 is padding and must be zero")
    return titles


def _read_added(path: Path, described: dict[str, Any], sizes: tuple[int, ...]) -> tuple[int, ...]:
    added = described.get("added")
    if (
        not isinstance(added, list)
        or len(added) != len(sizes)
        or not all(type(n) is int and 0 <= n < size for n, size in zip(added, sizes, strict=True))
    ):
        raise BundleError(
            f"{path}: field 'new_items.added' is {added!r:.60}, expected numbers below those of each "
            "domain's items"
        )
    return tuple(added)


def _read_weighings(path: Path, described: dict[str, Any], n_domains: int) -> tuple[Weighing, ...]:
    entries = described.get("weighings")
    if not isinstance(entries, list) or len(entries) != n_domains:
        raise BundleError(f"{path}: field 'new_items.weighings' must list {n_domains} domains")
    return tuple(_read_weighing(path, entry) for entry in entries)


def _read_weighing(path: Path, entry: Any) -> Weighing:
    if not isinstance(entry, dict) or not isinstance(entry.get("validation"), dict):
        raise BundleError(f"{path}: field 'new_items.weighings' must hold objects with a 'validation'")
    for name, limit in (("sharpness", _MAX_SHARPNESS), ("scale", _MAX_SCALE)):
        value = entry.get(name)
        if type(value) is not float or not 0 < value <= limit:
            raise BundleError(
                f"{path}: field 'new_items.weighings': {name!r} is {value!r:.60}, expected a number above 0"
            )
    return Weighing(entry["sharpness"], entry["scale"], entry["validation"])
