"""The recall network in a bundle: its files, all there or none, and its part of config.json.

======================= =====================================================================
file                    content
======================= =====================================================================
recall_names.npy        float32 (domains - 1, items + 1, H'), row 0 zero: what every item says in
                        the space of each domain that it is not of, in the order of the domains
recall_items.npy        float32 (items + 1, H'), row 0 zero: the item vectors that recall
                        searches, of length 1 (or zero)
recall_poolers.npy      float32 (domains, H'): weights of names of each domain
recall_projections.npy  float32 (domains, H', E), may be left out: text embedding to the space of
                        each domain
======================= =====================================================================

``recall`` in config.json: ``hidden`` (H'), ``text`` (E, or null without projections) and ``title_lengths``
(mean length of projected titles in the space of each domain). What is done with pseudo items is in ``mix``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.bundle.files import CONFIG, let_go, read_array, read_size
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.recall import FloatArray, RecallNetwork

NAMES = "recall_names.npy"
ITEMS = "recall_items.npy"
POOLERS = "recall_poolers.npy"
PROJECTIONS = "recall_projections.npy"
RECALL_FILES = (NAMES, ITEMS, POOLERS)

_MAX_HIDDEN = 1 << 14
_MAX_TEXT = 1 << 16
_MAX_LENGTH = 1e6
_LENGTH_TOLERANCE = 1e-3


def write_recall(folder: Path, network: RecallNetwork) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Write the files; their names, and the part of config.json."""
    arrays = {NAMES: network.names, ITEMS: network.items, POOLERS: network.poolers}
    if network.projections is not None:
        arrays[PROJECTIONS] = network.projections
    for name, array in arrays.items():
        np.save(folder / name, np.ascontiguousarray(array, dtype=np.float32))
    text = None if network.projections is None else network.projections.shape[2]
    described = {"hidden": network.hidden, "text": text, "title_lengths": list(network.title_lengths)}
    return tuple(arrays), described


def read_recall(
    folder: Path, description: dict[str, Any], n_rows: int, n_domains: int
) -> RecallNetwork | None:
    """Read the recall network of a bundle, if it has one; its files have been checked for their hash.

    Parameters
    ----------
    folder : Path
    description : dict
        Content of config.json.
    n_rows : int
        Items + 1.
    n_domains : int

    Raises
    ------
    BundleError
        If some of its files are there and others not, or any part does not fit or cannot be meant.
    """
    path = folder / CONFIG
    listed = [name for name in (*RECALL_FILES, PROJECTIONS) if name in description["files"]]
    described = description.get("recall")
    if described is None:
        if listed:
            raise BundleError(f"{path}: lists {listed[0]}, but has no field 'recall'")
        return None
    if not isinstance(described, dict):
        raise BundleError(f"{path}: field 'recall' must be an object")
    for name in RECALL_FILES:
        if name not in listed:
            raise BundleError(f"{path}: field 'files' does not list {name}, which 'recall' needs")
    if n_domains < 2:
        raise BundleError(f"{path}: has field 'recall', but one domain alone: there is nothing to recall for")
    hidden = read_size(path, described, "hidden", _MAX_HIDDEN)
    projections = None
    if described.get("text") is not None:
        text = read_size(path, described, "text", _MAX_TEXT)
        if PROJECTIONS not in listed:
            raise BundleError(f"{path}: field 'files' does not list {PROJECTIONS}, which 'recall.text' needs")
        projections = read_array(folder / PROJECTIONS, np.float32, (n_domains, hidden, text))
    elif PROJECTIONS in listed:
        raise BundleError(f"{path}: lists {PROJECTIONS}, but field 'recall.text' is not set")
    network = RecallNetwork(
        read_array(folder / NAMES, np.float32, (n_domains - 1, n_rows, hidden)),
        read_array(folder / ITEMS, np.float32, (n_rows, hidden)),
        read_array(folder / POOLERS, np.float32, (n_domains, hidden)),
        projections,
        _read_lengths(path, described, n_domains),
    )
    for name, padding in ((NAMES, network.names[:, 0]), (ITEMS, network.items[0])):
        if padding.any():
            raise BundleError(f"{folder / name}: row 0 is padding and must be zero")
    _check_lengths(folder / ITEMS, network.items)
    let_go(network.items)
    return network


def _read_lengths(path: Path, described: dict[str, Any], n_domains: int) -> tuple[float, ...]:
    lengths = described.get("title_lengths")
    if (
        not isinstance(lengths, list)
        or len(lengths) != n_domains
        or not all(type(length) is float and 0 < length < _MAX_LENGTH for length in lengths)
    ):
        raise BundleError(
            f"{path}: field 'recall.title_lengths' is {lengths!r:.60}, expected {n_domains} lengths"
        )
    return tuple(lengths)


def _check_lengths(path: Path, items: FloatArray) -> None:
    """Every item vector has length 1, or is zero."""
    lengths = np.sqrt(np.einsum("nh,nh->n", items, items))
    wrong = (np.abs(lengths - 1) > _LENGTH_TOLERANCE) & (lengths != 0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise BundleError(f"{path}: row {row} has length {lengths[row]:.4g}, expected 1 (or 0)")
