"""The mix of experts in a bundle: its part of config.json, and the files of next-item counts.

================== ==========================================================================
file               content
================== ==========================================================================
next_starts.npy    int64 (domains * (items + 1) + 1,): where each sparse row starts, see `NextCounts`
next_rows.npy      int32 (n,): item rows, rising within a sparse row
next_weights.npy   float32 (n,), above 0
================== ==========================================================================

``mix`` in config.json: for each target domain the fields of `DomainMix`. The files are all there or none:
without them no weight of next-item counts is above zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.bundle.files import CONFIG, read_array
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.weights import KINDS, DomainMix, ExpertWeights

STARTS, ROWS, WEIGHTS = "next_starts.npy", "next_rows.npy", "next_weights.npy"
MIX_FILES = (STARTS, ROWS, WEIGHTS)
_MOST = 1 << 40


def no_mix(domains: Sequence[Domain]) -> Mixes:
    """The mix of the model alone."""
    return (DomainMix(),) * len(domains)


def write_mix(
    folder: Path, mixes: Mixes, counts: NextCounts | None
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Write the files; their names, and the part of config.json."""
    described = [{**asdict(mix), "validation": dict(mix.validation)} for mix in mixes]
    if counts is None:
        return (), described
    np.save(folder / STARTS, np.ascontiguousarray(counts.starts, dtype=np.int64))
    np.save(folder / ROWS, np.ascontiguousarray(counts.rows, dtype=np.int32))
    np.save(folder / WEIGHTS, np.ascontiguousarray(counts.weights, dtype=np.float32))
    return MIX_FILES, described


def read_mix(
    folder: Path, description: dict[str, Any], domains: tuple[Domain, ...], *, with_recall: bool
) -> tuple[Mixes, NextCounts | None]:
    """Read the mix of a bundle, if it has one; its files have been checked for their hash.

    Raises
    ------
    BundleError
        If some of its files are there and others not, or any part does not fit or cannot be meant.
    """
    path = folder / CONFIG
    listed = [name for name in MIX_FILES if name in description["files"]]
    described = description.get("mix")
    if described is None:
        if listed:
            raise BundleError(f"{path}: lists {listed[0]}, but has no field 'mix'")
        if with_recall:
            raise BundleError(f"{path}: has a recall network, but no field 'mix' that says what for")
        return no_mix(domains), None
    if not isinstance(described, list) or len(described) != len(domains):
        raise BundleError(f"{path}: field 'mix' must list {len(domains)} domains, as 'domains' does")
    mixes = tuple(_read_domain(path, entry) for entry in described)
    if not with_recall and any(mix.cold.recalls for mix in mixes):
        raise BundleError(f"{path}: field 'mix' weighs pseudo items, but there is no recall network")
    counts = None
    if listed:
        missing = [name for name in MIX_FILES if name not in listed]
        if missing:
            raise BundleError(f"{path}: field 'files' lists {listed[0]}, but not {missing[0]}")
        counts = _read_counts(folder, domains)
    elif any(w.next for mix in mixes for w in (mix.warm, mix.cold)):
        raise BundleError(f"{path}: field 'mix' weighs next-item counts, but 'files' does not list {STARTS}")
    return mixes, counts


def _read_domain(path: Path, entry: Any) -> DomainMix:
    try:
        if not isinstance(entry["validation"], dict):
            raise TypeError("validation must be an object")
        weights = {kind: ExpertWeights(**entry[kind]) for kind in KINDS}
        mix = DomainMix(**{**entry, **weights})
    except (KeyError, TypeError, UsageError) as error:
        raise BundleError(f"{path}: field 'mix': {error}") from None
    for found, expected in ((entry, asdict(mix)), *((entry[kind], asdict(weights[kind])) for kind in KINDS)):
        if missing := expected.keys() - found.keys():  # a default would be another model
            raise BundleError(f"{path}: field 'mix' has no field {min(missing)!r}")
    return mix


def _read_counts(folder: Path, domains: tuple[Domain, ...]) -> NextCounts:
    n_rows = domains[-1].stop
    starts = read_array(folder / STARTS, np.int64, (len(domains) * n_rows + 1,))
    steps = np.diff(starts)
    if starts[0] != 0 or (steps < 0).any():
        raise BundleError(f"{folder / STARTS}: must rise from 0")
    n = int(starts[-1])
    if not 1 <= n <= _MOST:
        raise BundleError(f"{folder / STARTS}: ends at {n}, expected 1 to {_MOST}")
    rows = read_array(folder / ROWS, np.int32, (n,))
    weights = read_array(folder / WEIGHTS, np.float32, (n,))
    if not weights.min() > 0:
        raise BundleError(f"{folder / WEIGHTS}: holds {weights.min():g}, expected weights above 0")
    for index, domain in enumerate(domains):
        part = rows[starts[index * n_rows] : starts[(index + 1) * n_rows]]
        if len(part) and not domain.start <= part.min() <= part.max() < domain.stop:
            raise BundleError(
                f"{folder / ROWS}: rows {part.min()} to {part.max()} for {domain.name!r}, expected "
                f"{domain.start} to {domain.stop - 1}"
            )
    falls = np.flatnonzero(rows[1:] <= rows[:-1]) + 1  # allowed where a sparse row begins
    if not np.isin(falls, starts).all():
        raise BundleError(f"{folder / ROWS}: rows must rise within a sparse row")
    return NextCounts(starts, rows, weights)
