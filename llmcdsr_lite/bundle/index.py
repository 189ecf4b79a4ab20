"""The graphs of approximate search in a bundle: their files, and their part of config.json.

======================== ====================================================================
file                     content
======================== ====================================================================
index_links.npy          uint32 (items + 1, 2M), row 0 zero: the rows that every item is
                         linked to on the lowest level; unused places are 0 and come last
index_levels.npy         uint8 (items + 1,), row 0 zero: highest level of every item
index_upper.npy          uint32 (sum of the levels, M): links on the levels 1, 2, ... of the
                         first item that has such levels, then of the next
recall_index_links.npy   the same for the item vectors of the recall network; these three are
recall_index_levels.npy  all there or none
recall_index_upper.npy
======================== ====================================================================

``index`` in config.json: ``items`` and, with the last three, ``recall``, each with ``M``,
``ef_search`` (of each domain), ``measured``, how it was built and what it finds, and possibly
``ef_search_together``, how wide a domain is searched at most where several are searched at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.bundle.files import CONFIG, let_go, read_array, read_size
from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.search.hnsw import SearchGraph
from llmcdsr_lite.search.hnsw_graph import MAX_LINKS, Graph, graph_fault

ARRAYS = ("links", "levels", "upper")
PREFIXES = {"items": "index_", "recall": "recall_index_"}
INDEX_FILES = tuple(f"{prefix}{array}.npy" for prefix in PREFIXES.values() for array in ARRAYS)

_MAX_EF_SEARCH = 10_000


@dataclass(frozen=True, eq=False)
class BundleIndex:
    """The graphs of a bundle: of the item vectors, and of those of the recall network."""

    items: SearchGraph
    recall: SearchGraph | None = None


def write_index(folder: Path, index: BundleIndex) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Write the files; their names, and the part of config.json."""
    names: list[str] = []
    described: dict[str, Any] = {}
    for part, prefix in PREFIXES.items():
        searched: SearchGraph | None = getattr(index, part)
        if searched is None:
            continue
        for array in ARRAYS:
            names.append(f"{prefix}{array}.npy")
            np.save(folder / names[-1], getattr(searched.graph, array))
        described[part] = {
            "M": searched.graph.M,
            "ef_search": list(searched.ef_search),
            "measured": dict(searched.measured),
        }
        if searched.ef_search_together is not None:
            described[part]["ef_search_together"] = searched.ef_search_together
    return tuple(names), described


def read_index(
    folder: Path, description: dict[str, Any], domains: Sequence[Domain], *, with_recall: bool
) -> BundleIndex | None:
    """Read the graphs of a bundle, if it has any; their files have been checked for their hash.

    Parameters
    ----------
    folder : Path
    description : dict
        Content of config.json.
    domains : sequence of Domain
    with_recall : bool
        Whether the bundle has a recall network.

    Raises
    ------
    BundleError
        If a file is there without the others, or a graph is not one that can be searched safely.
    """
    path = folder / CONFIG
    described = description.get("index")
    if described is None:
        _refuse_files(path, description, tuple(PREFIXES), "field 'index'")
        return None
    if not isinstance(described, dict):
        raise BundleError(f"{path}: field 'index' must be an object")
    items = _read_graph(folder, description, "items", domains)
    recall = None
    if described.get("recall") is None:
        _refuse_files(path, description, ("recall",), "field 'index.recall'")
    elif not with_recall:
        raise BundleError(f"{path}: has a field 'index.recall', but no field 'recall'")
    else:
        recall = _read_graph(folder, description, "recall", domains)
    return BundleIndex(items, recall)


def _refuse_files(path: Path, description: dict[str, Any], parts: tuple[str, ...], field: str) -> None:
    for part in parts:
        for array in ARRAYS:
            name = f"{PREFIXES[part]}{array}.npy"
            if name in description["files"]:
                raise BundleError(f"{path}: lists {name}, but has no {field}")


def _read_graph(
    folder: Path, description: dict[str, Any], part: str, domains: Sequence[Domain]
) -> SearchGraph:
    path, described = folder / CONFIG, description["index"].get(part)
    if not isinstance(described, dict):
        raise BundleError(f"{path}: field 'index.{part}' must be an object")
    paths = {}
    for array in ARRAYS:
        name = f"{PREFIXES[part]}{array}.npy"
        if name not in description["files"]:
            raise BundleError(f"{path}: field 'files' does not list {name}, which 'index.{part}' needs")
        paths[array] = folder / name
    n_links = read_size(path, described, "M", MAX_LINKS)
    if n_links < 2:
        raise BundleError(f"{path}: field 'index.{part}.M' is {n_links}, expected 2 or more")
    n_rows = domains[-1].stop
    levels = read_array(paths["levels"], np.uint8, (n_rows,))
    graph = Graph(
        read_array(paths["links"], np.uint32, (n_rows, 2 * n_links)),
        levels,
        read_array(paths["upper"], np.uint32, (int(levels.sum(dtype=np.int64)), n_links)),
    )
    fault = graph_fault(graph, domains)
    if fault is not None:
        array, reason = fault
        raise BundleError(f"{paths[array]}: {reason}")
    let_go(graph.links)  # the check has read them all: exact search never will
    let_go(graph.upper)
    measured = described.get("measured")
    if not isinstance(measured, dict):
        raise BundleError(f"{path}: field 'index.{part}.measured' must be an object")
    together = (
        None
        if "ef_search_together" not in described
        else read_size(path, described, "ef_search_together", _MAX_EF_SEARCH)
    )
    return SearchGraph(graph, _read_widths(path, described, part, len(domains)), measured, together)


def _read_widths(path: Path, described: dict[str, Any], part: str, n_domains: int) -> tuple[int, ...]:
    ef_values = described.get("ef_search")
    if (
        not isinstance(ef_values, list)
        or len(ef_values) != n_domains
        or not all(type(ef) is int and 1 <= ef <= _MAX_EF_SEARCH for ef in ef_values)
    ):
        raise BundleError(
            f"{path}: field 'index.{part}.ef_search' is {ef_values!r:.60}, "
            f"expected {n_domains} numbers from 1 to {_MAX_EF_SEARCH}"
        )
    return tuple(ef_values)
