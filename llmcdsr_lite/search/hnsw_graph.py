"""The graph that approximate search walks, as plain arrays: built with hnswlib, checked, handed back to it.

hnswlib trusts whatever it loads. So a bundle does not hold a file of hnswlib, but the links alone, which can
be checked; the vectors are those of the bundle.

The links are chosen by cosine, though the search is by inner product. A graph that is built by inner product
has the longest vectors for neighbours of everything and cannot be left again towards the others: on trained
item vectors it needs several times the ef_search for the same recall, or does not reach it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError, install_hint
from llmcdsr_lite.model.recall_network import unit_rows

MAX_LINKS = 256
_CHUNK = 1 << 16  # rows checked at a time

Links = npt.NDArray[np.uint32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GraphSettings:
    """How a graph is built.

    Parameters
    ----------
    M : int
        Links of an item, at most; twice as many on the lowest level.
    ef_construction : int
        How many candidates an item's links are chosen from.
    seed : int
        Of the levels.
    threads : int
        The graph is reproducible with one alone.
    """

    M: int = 32
    ef_construction: int = 200
    seed: int = 0
    threads: int = 1


@dataclass(frozen=True, eq=False)
class Graph:
    """Links between the items of each domain, as item rows; unused places are 0 and come last.

    Parameters
    ----------
    links : uint32 array (items + 1, 2M)
        On the lowest level; row 0 zero.
    levels : uint8 array (items + 1,)
        Highest level of every item; row 0 zero.
    upper : uint32 array (sum(levels), M)
        Links on the levels 1, 2, ... of the first item that has such levels, then of the next.
    """

    links: Links
    levels: npt.NDArray[np.uint8]
    upper: Links

    @property
    def M(self) -> int:
        """Links of an item, at most."""
        return int(self.upper.shape[1])


def build_graph(
    vectors: npt.NDArray[np.float32],
    domains: Sequence[Domain],
    settings: GraphSettings,
    progress: Progress | None = None,
) -> Graph:
    """Build the graph of item vectors (items + 1, H).

    Parameters
    ----------
    vectors : float32 array (items + 1, H)
    domains : sequence of Domain
        Items of different domains are not linked.
    settings : GraphSettings
    progress : callable, optional
        Told how many items are done, of how many.

    Raises
    ------
    MissingDependencyError
        If hnswlib is not installed.
    """
    hnswlib = import_hnswlib()
    n_rows, hidden = vectors.shape
    graph = Graph(
        np.zeros((n_rows, 2 * settings.M), np.uint32),
        np.zeros(n_rows, np.uint8),
        np.zeros((0, settings.M), np.uint32),
    )
    upper = []
    for domain in domains:
        index = hnswlib.Index(space="ip", dim=hidden)
        seed = settings.seed + 1  # 0 and 1 are the same to its generator
        index.init_index(
            domain.n_items, M=settings.M, ef_construction=settings.ef_construction, random_seed=seed
        )
        for first in range(domain.start, domain.stop, _CHUNK):
            last = min(first + _CHUNK, domain.stop)
            unit = unit_rows(np.asarray(vectors[first:last]))
            index.add_items(unit, np.arange(first, last), num_threads=settings.threads)
            if progress is not None:
                progress(last - 1, n_rows - 1)
        upper.append(_take_links(index.__getstate__()[0], domain, hidden, graph))
    return Graph(graph.links, graph.levels, np.concatenate([graph.upper, *upper]))


def _take_links(state: dict[str, Any], domain: Domain, hidden: int, graph: Graph) -> Links:
    """Copy what hnswlib has linked into the graph; the links on the upper levels are returned."""
    n_links = graph.M
    records = state["data_level0"].view(_record(n_links, hidden))
    row_of = records["label"].astype(np.uint32)  # several threads add items in any order
    levels = state["element_levels"]
    graph.levels[row_of] = levels
    graph.links[row_of] = _rows(records, row_of)
    lists = state["link_lists"].view(_upper_record(n_links))
    order = np.argsort(np.repeat(row_of, levels), kind="stable")
    return _rows(lists, row_of)[order]


def _rows(records: npt.NDArray[Any], row_of: Links) -> Links:
    """Linked rows (n, links), 0 where there are none."""
    links = records["links"]
    used = np.arange(links.shape[1]) < records["count"][:, None]
    return np.where(used, row_of[np.where(used, links, 0)], np.uint32(0))


def graph_fault(graph: Graph, domains: Sequence[Domain]) -> tuple[str, str] | None:
    """Find what is wrong with a graph of the right shapes: the name of the array, and what is wrong."""
    if graph.links[0].any():
        return "links", "row 0 is padding and must be zero"
    if graph.levels[0]:
        return "levels", "row 0 is padding and must be zero"
    n_lists = int(graph.levels.sum(dtype=np.int64))
    if n_lists != len(graph.upper):
        return "levels", f"add up to {n_lists}, expected {len(graph.upper)}, the number of upper lists"
    first_list = 0
    for domain in domains:
        for first in range(domain.start, domain.stop, _CHUNK):
            rows = np.arange(first, min(first + _CHUNK, domain.stop))
            fault = _links_fault(graph.links[rows[0] : rows[-1] + 1], domain, rows)
            if fault:
                return "links", fault
        levels = graph.levels[domain.start : domain.stop]
        owners = np.repeat(np.arange(domain.start, domain.stop), levels)  # (lists,)
        upper = np.asarray(graph.upper[first_list : first_list + len(owners)])
        fault = _links_fault(upper, domain, owners)
        if fault:
            return "upper", fault
        list_levels = np.arange(len(owners)) - np.searchsorted(owners, owners) + 1
        too_low = (upper != 0) & (graph.levels[upper] < list_levels[:, None])
        if too_low.any():
            place, column = np.argwhere(too_low)[0]
            row, level = upper[place, column], list_levels[place]
            return "upper", (
                f"row {owners[place]} is linked on level {level} to row {row}, "
                f"whose highest level is {graph.levels[row]}"
            )
        first_list += len(owners)
    return None


def _links_fault(links: Links, domain: Domain, owners: npt.NDArray[np.int64]) -> str | None:
    """Find a link that leads out of the domain, or follows an unused place: the owner's row and why."""
    outside = (links - np.uint32(domain.start) >= domain.n_items) & (links != 0)  # below wraps around
    if outside.any():
        place, column = np.argwhere(outside)[0]
        return (
            f"row {owners[place]} is linked to row {links[place, column]}, "
            f"expected rows {domain.start} to {domain.stop - 1} of its domain"
        )
    gaps = (links[:, 1:] != 0) & (links[:, :-1] == 0)
    if gaps.any():
        return f"row {owners[int(np.argmax(gaps.any(axis=1)))]} has a link after an unused place"
    return None


def make_index(graph: Graph, vectors: npt.NDArray[np.float32], domain: Domain, threads: int) -> Any:
    """Give hnswlib the graph of a domain, for search by inner product; its labels are item rows.

    A search keeps as many candidates as it is asked for, so that each may have an ef_search of its own: what
    hnswlib calls ``ef`` is of the index, and must not change while others search.

    Parameters
    ----------
    graph : Graph
        Without a fault.
    vectors : float32 array (items + 1, H)
    domain : Domain
    threads : int
        Of a search for many users.

    Raises
    ------
    MissingDependencyError
        If hnswlib is not installed, or lays its memory out in another way than the version known here.
    """
    hnswlib = import_hnswlib()
    n, n_links, hidden = domain.n_items, graph.M, vectors.shape[1]
    empty = hnswlib.Index(space="ip", dim=hidden)
    empty.init_index(n, M=n_links, ef_construction=n_links, random_seed=0)
    state = empty.__getstate__()[0]
    layout, lists_layout = _record(n_links, hidden), _upper_record(n_links)
    _check_layout(state, layout, lists_layout)
    own = slice(domain.start, domain.stop)
    records = np.zeros(n, layout)
    _put_links(records, graph.links[own], domain.start)
    records["vector"] = vectors[own]
    records["label"] = np.arange(domain.start, domain.stop)
    levels = graph.levels[own].astype(np.intc)
    first_list = int(graph.levels[: domain.start].sum(dtype=np.int64))
    lists = np.zeros(int(levels.sum()), lists_layout)
    _put_links(lists, graph.upper[first_list : first_list + len(lists)], domain.start)
    state |= {
        "cur_element_count": n,
        "max_level": int(levels.max()),
        "enterpoint_node": int(levels.argmax()),
        "ef": 1,
        "num_threads": threads,
        "ep_added": True,
        "has_deletions": False,
        "label_lookup_external": records["label"].copy(),
        "label_lookup_internal": np.arange(n, dtype=np.uint32),
        "element_levels": levels,
        "data_level0": records.view(np.int8),
        "link_lists": lists.view(np.int8),
    }
    index = hnswlib.Index.__new__(hnswlib.Index)
    index.__setstate__((state,))
    return index


def _put_links(records: npt.NDArray[Any], links: Links, start: int) -> None:
    used = links != 0
    records["count"] = np.count_nonzero(used, axis=1)
    records["links"] = np.where(used, links - np.uint32(start), np.uint32(0))


def _record(n_links: int, hidden: int) -> np.dtype[Any]:
    """What hnswlib keeps of an item in one piece."""
    vector = ("vector", np.float32, (hidden,))
    return np.dtype([*_upper_record(2 * n_links).descr, vector, ("label", np.uintp)])


def _upper_record(n_links: int) -> np.dtype[Any]:
    """A list of links; among the flags is the mark of deleted items."""
    return np.dtype([("count", np.uint16), ("flags", np.uint16), ("links", np.uint32, (n_links,))])


def _check_layout(state: dict[str, Any], record: np.dtype[Any], upper: np.dtype[Any]) -> None:
    fields: Any = record.fields
    expected = {
        "offset_level0": 0,
        "size_data_per_element": record.itemsize,
        "offset_data": fields["vector"][1],
        "label_offset": fields["label"][1],
        "size_links_per_element": upper.itemsize,
    }
    found = {name: state.get(name) for name in expected}
    if found != expected:
        raise MissingDependencyError(
            f"search 'hnsw' needs hnswlib 0.8: this one keeps items in another form ({found}, "
            f"expected {expected}); use search='exact'"
        )


def import_hnswlib() -> Any:
    """Import hnswlib, or say how it is installed."""
    try:
        import hnswlib
    except ImportError as error:
        raise MissingDependencyError(
            f"search 'hnsw' needs hnswlib ({error}): {install_hint('hnsw')} (it compiles), "
            "or use search='exact'"
        ) from None
    return hnswlib
