"""Graphs in a bundle: what is written is read, nothing else is, and hnswlib meets nothing that harms it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_damage import edit_config, npy, put, refusal, set_field
from mutation import FIRST, N_CASES

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.bundle.index import ARRAYS, BundleIndex
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.search.exact import ExactSearch
from llmcdsr_lite.search.hnsw import SearchGraph
from llmcdsr_lite.search.hnsw_graph import GraphSettings, build_graph

pytest.importorskip("hnswlib", reason="hnswlib is not installed (it needs a compiler)")

SIZES = (70, 90)
FILES = tuple(f"{prefix}{array}.npy" for prefix in ("index_", "recall_index_") for array in ARRAYS)


@pytest.fixture(scope="module")
def large() -> Bundle:
    """Large enough for searches that are not exact: 70 items a0.., 90 items b0..."""
    rng = np.random.default_rng(5)
    config = SASRecConfig(sum(SIZES), hidden=8, n_blocks=1, n_heads=1, max_length=6, dropout=0.0)
    parameters = SASRecParameters.initial(config, rng)
    parameters.item_embedding[1:] = rng.normal(size=(config.n_items, 8))
    ids = [f"a{n}" for n in range(SIZES[0])] + [f"b{n}" for n in range(SIZES[1])]
    catalogue = Catalogue.from_sizes(ids, [f"Item {one}" for one in ids], ("a", "b"), SIZES)
    names, items = rng.normal(size=(2, config.n_items + 1, 5)).astype(np.float32)
    names[0] = items[0] = 0
    items[1:] /= np.linalg.norm(items[1:], axis=1, keepdims=True)
    recall = RecallNetwork(names[None], items, np.zeros((2, 5), np.float32), None, (1.0, 1.0))
    settings = GraphSettings(M=2, ef_construction=20)
    vectors = parameters.item_embedding
    index = BundleIndex(
        SearchGraph(build_graph(vectors, catalogue.domains, settings), (30, 40), {"by": "hand"}, 35),
        SearchGraph(build_graph(items, catalogue.domains, settings), (50, 60)),
    )
    mix = DomainMix(cold=ExpertWeights(inserted=1.0), n_recalled=3)
    counts = np.arange(config.n_items + 1)
    return Bundle(catalogue, parameters, counts, {}, recall=recall, mix=(mix, mix), index=index)


@pytest.fixture(scope="module")
def written(
    large: Bundle, build_bundle: Callable[[Bundle, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return build_bundle(large, tmp_path_factory.mktemp("index") / "bundle")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(written, tmp_path / "bundle"))


def test_round_trip(written: Path, large: Bundle) -> None:
    found = read_bundle(written).index
    assert found is not None
    assert found.recall is not None
    assert large.index is not None
    assert large.index.recall is not None
    for one, other in ((found.items, large.index.items), (found.recall, large.index.recall)):
        assert one.ef_search == other.ef_search
        assert one.measured == other.measured
        assert one.ef_search_together == other.ef_search_together
        for name in ARRAYS:
            array = getattr(one.graph, name)
            assert isinstance(array, np.memmap)
            assert np.array_equal(array, getattr(other.graph, name))
    config = json.loads((written / "config.json").read_text())
    ef_values = {"ef_search": [30, 40], "ef_search_together": 35}
    assert config["index"]["items"] == {"M": 2, **ef_values, "measured": {"by": "hand"}}
    assert set(config["index"]["recall"]) == {"M", "ef_search", "measured"}
    assert set(FILES) < set(config["files"])


def test_the_recommender_searches_the_graph_of_the_bundle(
    written: Path, large: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: Any) -> None:
        raise AssertionError("the bundle has a graph")

    monkeypatch.setattr("llmcdsr_lite.search.hnsw.build_graph", build)
    graph = Recommender.load(written, backend="numpy", search="hnsw")
    exact = Recommender.load(written, backend="numpy", search="exact")
    assert graph.search_name == "hnsw"
    calls = []
    search = ExactSearch.search
    monkeypatch.setattr(ExactSearch, "search", lambda *args, **kw: calls.append(args) or search(*args, **kw))
    hits = 0
    for n in range(20):
        for domain in (None, "a", "b"):
            history = [f"a{n}", f"b{2 * n}", f"b{n + 3}"]
            found = graph.recommend(history, domain=domain, k=4, pseudo="off")
            assert not calls
            expected = exact.recommend(history, domain=domain, k=4, pseudo="off")
            calls.clear()
            assert not {item.id for item in found} & set(history)
            hits += len({item.id for item in found} & {item.id for item in expected})
    assert hits >= 0.9 * 240


def test_pseudo_items_are_recalled_with_the_graph(written: Path, large: Bundle) -> None:
    graph = Recommender.load(written, backend="numpy", search="hnsw")
    exact = Recommender.load(written, backend="numpy", search="exact")
    assert large.recall is not None
    hits = 0
    for n in range(30):
        one = graph.recommend([f"a{n}"], domain="b", explain=True).explanation
        other = exact.recommend([f"a{n}"], domain="b", explain=True).explanation
        assert one is not None
        assert other is not None
        direction = large.recall.names[0, 1 + n] / np.linalg.norm(large.recall.names[0, 1 + n])
        for item in one.pseudo:
            row = large.catalogue.row(item.id)
            assert item.similarity == pytest.approx(float(large.recall.items[row] @ direction), abs=1e-5)
        hits += len({i.id for i in one.pseudo} & {i.id for i in other.pseudo})
    assert hits >= 0.9 * 90


def test_the_items_graph_alone(
    large: Bundle, build_bundle: Callable[[Bundle, Path], Path], tmp_path: Path
) -> None:
    assert large.index is not None
    folder = build_bundle(replace(large, index=replace(large.index, recall=None)), tmp_path / "bundle")
    found = read_bundle(folder).index
    assert found is not None
    assert found.recall is None
    assert Recommender.load(folder, search="hnsw").recommend(["a1"], domain="b", explain=True)


@pytest.mark.parametrize("name", FILES)
def test_all_files_or_none(folder: Path, name: str) -> None:
    edit_config(folder, lambda config: config["files"].pop(name))
    assert f"field 'files' does not list {name}, which 'index." in refusal(folder)


@pytest.mark.parametrize("name", FILES)
def test_changed_file(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refusal(folder).startswith(f"{folder / name}: SHA-256 is")


LINKS = np.zeros((161, 4), np.uint32)
BAD_LINKS = LINKS.copy()
BAD_LINKS[70, 0] = 71


@pytest.mark.parametrize("prefix", ["index_", "recall_index_"])
@pytest.mark.parametrize(
    ("array", "value", "reason"),
    [
        ("links", LINKS[:-1], "shape (160, 4), expected uint32 (161, 4)"),
        ("links", LINKS.astype(np.int32), "int32 array"),
        ("links", BAD_LINKS, "row 70 is linked to row 71, expected rows 1 to 70 of its domain"),
        ("levels", np.zeros(160, np.uint8), "shape (160,), expected uint8 (161,)"),
        ("upper", np.zeros((3, 2), np.uint32), "shape (3, 2), expected uint32"),
        ("upper", np.zeros((0, 2), np.uint32), "recall_index_upper.npy: "),
    ],
)
def test_wrong_array_with_the_right_hash(
    folder: Path, prefix: str, array: str, value: Any, reason: str
) -> None:
    put(folder, f"{prefix}{array}.npy", npy(value))
    message = refusal(folder)
    assert message.startswith(f"{folder / f'{prefix}{array}.npy'}: ")
    assert reason.replace("recall_index_", prefix) in message


@pytest.mark.parametrize(
    ("keys", "value", "reason"),
    [
        (["index"], [], "field 'index' must be an object"),
        (["index"], None, "lists index_links.npy, but has no field 'index'"),
        (["recall"], None, "but has no field 'recall'"),
        (["index", "items"], None, "field 'index.items' must be an object"),
        (["index", "recall"], None, "lists recall_index_links.npy, but has no field 'index.recall'"),
        (["index", "recall"], 3, "field 'index.recall' must be an object"),
        (["index", "items", "M"], 1, "field 'index.items.M' is 1, expected 2 or more"),
        (["index", "items", "M"], 10**9, "field 'M' is 1000000000"),
        (["index", "items", "ef_search"], [30], "field 'index.items.ef_search' is [30]"),
        (["index", "items", "ef_search"], [30, 0], "ef_search"),
        (["index", "items", "ef_search"], [30, 10**9], "ef_search"),
        (["index", "items", "ef_search"], [30, True], "ef_search"),
        (["index", "items", "ef_search_together"], 0, "field 'ef_search_together' is 0"),
        (["index", "items", "ef_search_together"], None, "field 'ef_search_together' is None"),
        (["index", "recall", "ef_search_together"], 10**9, "field 'ef_search_together' is 1000000000"),
        (["index", "recall", "ef_search"], None, "field 'index.recall.ef_search' is None"),
        (["index", "recall", "measured"], [], "field 'index.recall.measured' must be an object"),
    ],
)
def test_wrong_field(folder: Path, keys: list[Any], value: Any, reason: str) -> None:
    set_field(folder, keys, value)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'config.json'}: ")
    assert reason in message


def test_mutations_neither_crash_nor_lie(written: Path) -> None:
    script = Path(__file__).parents[1] / "index_mutations.py"
    done = subprocess.run(
        [sys.executable, script, written, str(FIRST), str(FIRST + N_CASES)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout)
    assert counts["refused"] + counts["answered"] == N_CASES
    assert min(counts.values()) > N_CASES / 20
