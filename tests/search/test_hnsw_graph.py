from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import MissingDependencyError
from llmcdsr_lite.search.hnsw_graph import Graph, GraphSettings, build_graph, graph_fault, make_index

hnswlib = pytest.importorskip("hnswlib", reason="hnswlib is not installed (it needs a compiler)")

DOMAINS = (Domain("a", 1, 601), Domain("b", 601, 1501))
SETTINGS = GraphSettings(M=4, ef_construction=40)


@pytest.fixture(scope="module")
def vectors() -> npt.NDArray[np.float32]:
    vectors = np.random.default_rng(1).normal(size=(1501, 8)).astype(np.float32)
    vectors[0] = 0
    return vectors


@pytest.fixture(scope="module")
def graph(vectors: npt.NDArray[np.float32]) -> Graph:
    return build_graph(vectors, DOMAINS, SETTINGS)


def copy(graph: Graph) -> Graph:
    return Graph(graph.links.copy(), graph.levels.copy(), graph.upper.copy())


def naive_fault(graph: Graph) -> bool:
    """Whether anything is wrong, link by link."""
    lists = iter(graph.upper.tolist())
    if any(graph.links[0]) or graph.levels[0] or sum(graph.levels.tolist()) != len(graph.upper):
        return True
    for domain in DOMAINS:
        for row in range(domain.start, domain.stop):
            for level in range(graph.levels[row] + 1):
                links = graph.links[row].tolist() if level == 0 else next(lists)
                used = [link for link in links if link]
                if links[: len(used)] != used:
                    return True
                for link in used:
                    if not domain.start <= link < domain.stop or graph.levels[link] < level:
                        return True
    return False


def test_shapes_and_no_fault(graph: Graph) -> None:
    assert graph.links.shape == (1501, 8)
    assert graph.upper.shape == (graph.levels.sum(), 4)
    assert graph.levels.max() >= 2
    assert graph_fault(graph, DOMAINS) is None
    assert not naive_fault(graph)


def test_the_same_again(graph: Graph, vectors: npt.NDArray[np.float32]) -> None:
    done = []
    again = build_graph(vectors, DOMAINS, SETTINGS, lambda *progress: done.append(progress))
    for name in ("links", "levels", "upper"):
        assert np.array_equal(getattr(again, name), getattr(graph, name))
    assert done == [(600, 1500), (1500, 1500)]
    other = build_graph(vectors, DOMAINS, GraphSettings(M=4, ef_construction=40, seed=1))
    assert not np.array_equal(other.levels, graph.levels)


def test_links_are_what_hnswlib_saves(
    graph: Graph, vectors: npt.NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Read the file that hnswlib writes of the same graph, number by number."""
    path = tmp_path_factory.mktemp("index") / "b.bin"
    domain = DOMAINS[1]
    index = hnswlib.Index(space="ip", dim=8)
    index.init_index(900, M=4, ef_construction=40, random_seed=0)
    unit = vectors[601:] / np.linalg.norm(vectors[601:], axis=1, keepdims=True)
    index.add_items(unit, num_threads=1)
    index.save_index(str(path))
    content = path.read_bytes()
    size, start = 4 + 8 * 4 + 8 * 4 + 8, 96
    tail = start + 900 * size
    lists = iter(graph.upper[graph.levels[:601].sum() :].tolist())
    for i in range(900):
        record = np.frombuffer(content, np.uint32, 9, start + i * size).tolist()
        assert [link + 601 for link in record[1 : 1 + record[0]]] == [
            link for link in graph.links[domain.start + i].tolist() if link
        ]
        n_bytes = int(np.frombuffer(content, np.uint32, 1, tail)[0])
        tail += 4
        assert n_bytes == 20 * graph.levels[601 + i]
        for _ in range(n_bytes // 20):
            record = np.frombuffer(content, np.uint32, 5, tail).tolist()
            assert [link + 601 for link in record[1 : 1 + record[0]]] == [
                link for link in next(lists) if link
            ]
            tail += 20
    assert tail == len(content)


def test_several_threads_give_a_graph_as_good(graph: Graph, vectors: npt.NDArray[np.float32]) -> None:
    other = build_graph(vectors, DOMAINS, GraphSettings(M=4, ef_construction=40, threads=4))
    assert graph_fault(other, DOMAINS) is None
    assert not naive_fault(other)
    # row for row: an item is linked to near ones, whatever number hnswlib gave it
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    for one in (graph, other):
        linked = [unit[row] @ unit[one.links[row, 0]] for row in range(1, 1501)]
        assert np.mean(linked) > 0.5


def test_labels_are_rows_and_distances_of_the_vectors_given(
    graph: Graph, vectors: npt.NDArray[np.float32]
) -> None:
    for domain in DOMAINS:
        index = make_index(graph, vectors, domain, 1)
        index.set_ef(600)
        labels, distances = index.knn_query(vectors[7:8] * 3, k=5)
        scores = vectors.astype(np.float64) @ (vectors[7] * 3)
        expected = sorted(range(domain.start, domain.stop), key=lambda row: -scores[row])[:5]
        assert labels[0].tolist() == expected
        np.testing.assert_allclose(1 - distances[0], scores[expected], rtol=1e-5)


def outside(graph: Graph) -> None:
    graph.links[5, 0] = 1501


def padding_linked(graph: Graph) -> None:
    graph.links[0, 0] = 1


def other_domain(graph: Graph) -> None:
    graph.links[600, 0] = 601


def other_domain_below(graph: Graph) -> None:
    graph.links[601, 0] = 600


def far_outside(graph: Graph) -> None:
    graph.links[1500, 7] = 2**32 - 1


def gap(graph: Graph) -> None:
    graph.links[9, 0], graph.links[9, 1] = 0, 10


def padding_level(graph: Graph) -> None:
    graph.levels[0] = 1


def one_list_too_few(graph: Graph) -> None:
    graph.levels[np.argmin(graph.levels[1:]) + 1] = 1


def upper_outside(graph: Graph) -> None:
    graph.upper[0, 0] = 1501


def upper_other_domain(graph: Graph) -> None:
    graph.upper[-1, 0] = np.argmax(graph.levels[:601])


def upper_gap(graph: Graph) -> None:
    graph.upper[0] = [0, graph.upper[0, 0], 0, 0]


def too_low(graph: Graph) -> None:
    graph.upper[0, 0] = np.argmin(graph.levels[1:601]) + 1


def levels_swapped(graph: Graph) -> None:
    high, low = np.argmax(graph.levels), np.argmin(graph.levels[601:]) + 601
    graph.levels[[high, low]] = graph.levels[[low, high]]


@pytest.mark.parametrize(
    ("damage", "array", "reason"),
    [
        (outside, "links", "row 5 is linked to row 1501, expected rows 1 to 600 of its domain"),
        (padding_linked, "links", "row 0 is padding"),
        (other_domain, "links", "row 600 is linked to row 601, expected rows 1 to 600"),
        (other_domain_below, "links", "row 601 is linked to row 600, expected rows 601 to 1500"),
        (far_outside, "links", "row 1500 is linked to row 4294967295"),
        (gap, "links", "row 9 has a link after an unused place"),
        (padding_level, "levels", "row 0 is padding"),
        (one_list_too_few, "levels", "add up to "),
        (upper_outside, "upper", "is linked to row 1501, expected rows 1 to 600"),
        (upper_other_domain, "upper", "expected rows 601 to 1500"),
        (upper_gap, "upper", "has a link after an unused place"),
        (too_low, "upper", "on level 1 to row 2, whose highest level is 0"),
        (levels_swapped, "upper", "whose highest level is 0"),
    ],
)
def test_faults(graph: Graph, damage: Callable[[Graph], None], array: str, reason: str) -> None:
    damaged = copy(graph)
    damage(damaged)
    assert naive_fault(damaged)
    fault = graph_fault(damaged, DOMAINS)
    assert fault is not None
    assert fault[0] == array
    assert reason in fault[1]


def test_faults_are_found_wherever_they_are(graph: Graph) -> None:
    """Random changes: found if, and only if, looking at every link finds something."""
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(60):
        damaged = copy(graph)
        array = (damaged.links, damaged.upper, damaged.levels)[rng.integers(3)]
        place = tuple(rng.integers(0, n) for n in array.shape)
        value = int(rng.integers(0, 4 if array.dtype == np.uint8 else 1600))
        array[place] = value
        wrong = naive_fault(damaged)
        assert (graph_fault(damaged, DOMAINS) is not None) == wrong
        found += wrong
    assert 10 < found < 60


def test_another_layout_is_refused(
    graph: Graph, vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(hnswlib.Index):  # type: ignore[misc]
        def __getstate__(self) -> tuple[dict[str, object]]:
            return ({**super().__getstate__()[0], "label_offset": 8},)

    monkeypatch.setattr(hnswlib, "Index", Other)
    with pytest.raises(MissingDependencyError, match=r"needs hnswlib 0\.8.*'label_offset': 8"):
        make_index(graph, vectors, DOMAINS[0], 1)


def test_without_hnswlib(vectors: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(MissingDependencyError, match="needs hnswlib"):
        build_graph(vectors, DOMAINS, SETTINGS)
