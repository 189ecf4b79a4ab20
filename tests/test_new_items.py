"""New items: their vectors against loops in float64, answers against a bundle built with those vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from llmcdsr_lite import BundleError, DataError, NewItem, Recommender, UsageError
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.backends import BackendName
from llmcdsr_lite.model.parameters import SASRecParameters
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.text.title_neighbours import TitleMap

BACKENDS: tuple[BackendName, ...] = ("onnx", "numpy")
MIXES = (
    DomainMix(cold=ExpertWeights(inserted=1.0), n_recalled=3),
    DomainMix(cold=ExpertWeights(similar=1.5), source="companions", n_recalled=4),
)
HISTORIES = [["f1"], ["k4", "new-k"], ["new-f2", "f3", "new-k"], ["new-f1"], ["k2", "k9", "k0"], []]


def embedding(seed: int) -> list[float]:
    values: list[float] = np.random.default_rng(seed).normal(size=7).tolist()
    return values


NEW = [
    NewItem("new-k", "kitchen", "Copper pan", embedding(1)),
    NewItem("new-f1", "food", "Café beans No. 99", embedding(2)),
    NewItem("new-f2", "food", "", embedding(3)),
]


class Encoder:
    """Stands for a text encoder: a title "seed 5" gets the fifth embedding; blank text says nothing."""

    dimension = 7

    def encode(self, texts: list[str], batch_size: int = 16) -> Any:
        assert batch_size == 1  # a quantised model gives a text another vector in other company
        vectors = [embedding(int(t.split()[-1])) if t != "the" else [0.0] * 7 for t in texts]
        return np.array(vectors, np.float32)


@pytest.fixture(scope="module")
def bundle(bundle_data: Bundle, recall_network: RecallNetwork, title_map: TitleMap) -> Bundle:
    return replace(bundle_data, recall=recall_network, mix=MIXES, new_items=title_map)


@pytest.fixture(scope="module")
def folder(
    bundle: Bundle, build_bundle: Callable[[Bundle, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return build_bundle(bundle, tmp_path_factory.mktemp("new_items") / "bundle")


def naive_vector(bundle: Bundle, item: NewItem) -> Any:
    """The formula, item by item."""
    titles = bundle.new_items
    assert titles is not None
    index = ("food", "kitchen").index(item.domain)
    weighing = titles.weighings[index]
    components = titles.components.astype(np.float64)
    place = np.asarray(item.embedding, np.float64) @ components[:-1] + components[-1]
    place /= np.sqrt(place @ place)
    cosines = []
    for row in range(1, 13) if index == 0 else range(13, 31):
        direction = titles.directions[row].astype(np.float64) / 127
        if direction.any():
            cosines.append((float(direction @ place), row))
    best = sorted(cosines, reverse=True)[: titles.n_neighbours]
    weights = [np.exp(weighing.sharpness * cosine) for cosine, _ in best]
    table = bundle.item_vectors.astype(np.float64)
    mean = sum(w * table[row] for w, (_, row) in zip(weights, best, strict=True)) / sum(weights)
    return weighing.scale * mean


def from_scratch(bundle: Bundle, items: list[NewItem]) -> Bundle:
    """The bundle with these items at the ends of their domains, every array built row by row."""
    recall, titles = bundle.recall, bundle.new_items
    assert recall is not None
    assert recall.projections is not None
    assert titles is not None
    rows: list[tuple[Any, ...]] = [
        ("", "", np.zeros(8), 0, np.zeros(5), np.zeros(5), np.zeros(4, np.int8))  # padding
    ]
    for index, (domain, start, stop) in enumerate([("food", 1, 13), ("kitchen", 13, 31)]):
        for row in range(start, stop):
            old = (bundle.item_vectors, bundle.item_counts, recall.names[0], recall.items, titles.directions)
            ids, names = bundle.catalogue.ids, bundle.catalogue.titles
            rows.append((ids[row - 1], names[row - 1], *(array[row] for array in old)))
        for item in items:
            if item.domain == domain:
                text = np.asarray(item.embedding, np.float64)
                # food says companions to the kitchen, a new item has none; the kitchen says titles to food
                says = recall.projections[0] @ text if domain == "kitchen" else np.zeros(5)
                own = recall.projections[index] @ text
                own /= np.linalg.norm(own)
                vector = naive_vector(bundle, item)
                rows.append((item.id, item.title, vector, 0, says, own, np.zeros(4, np.int8)))
    ids, names, table, counts, says, own, directions = zip(*rows, strict=True)
    n_a = 12 + sum(item.domain == "food" for item in items)
    sizes = (n_a, len(rows) - 1 - n_a)
    config = replace(bundle.parameters.config, n_items=len(rows) - 1)
    parameters = SASRecParameters(config, np.array(table, np.float32), bundle.parameters.dense)
    return replace(
        bundle,
        catalogue=Catalogue.from_sizes(ids[1:], names[1:], ("food", "kitchen"), sizes),
        parameters=parameters,
        item_counts=np.array(counts),
        recall=replace(recall, names=np.array([says], np.float32), items=np.array(own, np.float32)),
        new_items=replace(titles, directions=np.array(directions, np.int8), added=(n_a - 12, sizes[1] - 18)),
    )


def answers(recommender: Recommender) -> list[Any]:
    """What a recommender says to all kinds of requests."""
    found: list[Any] = []
    for domain in (None, "food", "kitchen"):
        for history in HISTORIES:
            answer = recommender.recommend(history, domain=domain, k=40, explain=True)
            found += [[(item.id, item.title, item.domain) for item in answer], [i.score for i in answer]]
            assert answer.explanation is not None
            found += [[(p.id, p.title) for p in answer.explanation.pseudo]]
        batch = recommender.recommend_batch(HISTORIES, domain=domain, k=7, exclude=["k1", "new-k"])
        found += [batch.ids.tolist(), batch.scores.ravel().tolist(), batch.fallback.tolist()]
    named = recommender.recommend(["f1"], domain="kitchen", pseudo=["new-k", "Café beans No. 99"], k=9)
    allowed = recommender.recommend(["f1"], allow=["new-k", "new-f2", "k3"])
    for answer in (named, allowed, recommender.similar("new-f1", 40), recommender.similar("k3", 5)):
        found += [[item.id for item in answer], [item.score for item in answer]]
    return found


def assert_same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if one and isinstance(one[0], float):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
        else:
            assert one == other


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_are_those_of_the_formula(bundle: Bundle, folder: Path, backend: BackendName) -> None:
    grown = Recommender.load(folder, backend=backend).add_items(NEW)
    for item in NEW:
        found = grown.bundle.item_vectors[grown.items.row(item.id)]
        np.testing.assert_allclose(found, naive_vector(bundle, item), rtol=1e-5, atol=1e-6)
    assert grown.items.domains[0].n_items == 14
    assert [grown.items.ids[i] for i in (12, 13, 14, 32)] == ["new-f1", "new-f2", "k0", "new-k"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_answers_are_those_of_a_bundle_built_with_the_vectors(
    bundle: Bundle,
    folder: Path,
    backend: BackendName,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
) -> None:
    expected = answers(
        Recommender.load(build_bundle(from_scratch(bundle, NEW), tmp_path / "made"), backend=backend)
    )
    grown = Recommender.load(folder, backend=backend).add_items(NEW)
    assert_same(answers(grown), expected)
    assert any("new-k" in str(one) for one in expected)
    grown.save(tmp_path / "grown")
    for other in BACKENDS:
        assert_same(answers(Recommender.load(tmp_path / "grown", backend=other)), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_recommender_at_hand_stays(folder: Path, backend: BackendName) -> None:
    recommender = Recommender.load(folder, backend=backend)

    def answer() -> list[Any]:
        found = recommender.recommend_batch([["f1", "k2"], ["k3"]], k=40)
        return [found.ids.tolist(), found.scores.tolist(), [i.id for i in recommender.similar("f1", 40)]]

    before = answer()
    grown = recommender.add_items(NEW)
    assert answer() == before
    assert len(recommender.items) == 30
    assert len(grown.items) == 33
    with pytest.raises(KeyError):
        recommender.items.row("new-k")


def test_one_addition_or_three_make_no_difference(folder: Path) -> None:
    recommender = Recommender.load(folder)
    at_once = recommender.add_items(NEW)
    for item in NEW:
        recommender = recommender.add_items([item])
    assert_same(answers(recommender), answers(at_once))
    assert recommender.bundle.new_items is not None
    assert recommender.bundle.new_items.added == (2, 1)


def test_no_items_are_no_change(folder: Path) -> None:
    recommender = Recommender.load(folder)
    found = recommender.add_items([]).recommend(["f1"], k=30)
    assert list(found) == list(recommender.recommend(["f1"], k=30))


def test_mappings_and_titles_with_an_encoder(bundle: Bundle, folder: Path) -> None:
    encoder: Any = Encoder()
    made = Recommender(bundle, Recommender.load(folder)._ranking.backend, encoder=encoder)
    with pytest.raises(UsageError, match="not loaded from a folder, so it has no model card"):
        made.add_items(NEW)
    recommender = Recommender(
        read_bundle(folder), Recommender.load(folder, backend="numpy")._ranking.backend, encoder=encoder
    )
    grown = recommender.add_items(
        [
            {"id": "new-k", "domain": "kitchen", "title": "seed 1"},
            {"id": "new-f", "domain": "food", "title": "seed 9", "embedding": np.array(embedding(2))},
        ]
    )
    expected = naive_vector(bundle, NEW[0])
    np.testing.assert_allclose(grown.bundle.item_vectors[grown.items.row("new-k")], expected, rtol=1e-5)
    expected = naive_vector(bundle, NEW[1])  # what is given goes before what would be encoded
    np.testing.assert_allclose(grown.bundle.item_vectors[grown.items.row("new-f")], expected, rtol=1e-5)
    assert grown.recommend(["f1"], domain="kitchen", k=30, pseudo=["seed 4"])  # the encoder is kept


def test_an_encoder_without_a_recall_network(
    bundle_data: Bundle,
    title_map: TitleMap,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
) -> None:
    build_bundle(replace(bundle_data, new_items=title_map), tmp_path / "bundle")
    encoder: Any = Encoder()
    backend = Recommender.load(tmp_path / "bundle")._ranking.backend
    recommender = Recommender(read_bundle(tmp_path / "bundle"), backend, encoder=encoder)
    grown = recommender.add_items([{"id": "new", "domain": "food", "title": "seed 3"}])
    assert grown.items.ids[12] == "new"
    assert "new" in [item.id for item in grown.recommend(["k1"], domain="food", k=13)]
    encoder.dimension = 9
    with pytest.raises(UsageError, match="gives 9 values a text, this bundle expects 7"):
        Recommender(read_bundle(tmp_path / "bundle"), backend, encoder=encoder)


def test_new_items_are_the_least_popular(folder: Path) -> None:
    grown = Recommender.load(folder).add_items(NEW)
    answer = grown.recommend([], domain="food", k=14)
    assert answer.fallback
    assert len(answer) == 14
    assert all(item.score == 0 for item in answer if item.id.startswith("new"))


def test_the_saved_bundle_stands_alone(folder: Path, tmp_path: Path) -> None:
    grown = Recommender.load(folder).add_items(NEW)
    grown.save(tmp_path / "grown")
    onnx.checker.check_model(str(tmp_path / "grown" / "recommender.onnx"), full_check=True)
    # as a browser does it: the table is read from where the graph says it is
    session = onnxruntime.InferenceSession(tmp_path / "grown" / "recommender.onnx")
    rows = np.array([[grown.items.row("f3"), grown.items.row("new-k")]])
    (found,) = session.run(None, {"item_rows": rows})
    np.testing.assert_allclose(found, grown._ranking.backend.represent([rows[0]]), rtol=1e-5, atol=1e-6)
    config = json.loads((tmp_path / "grown" / "config.json").read_text())
    assert config["new_items"]["added"] == [2, 1]
    assert [d["items"] for d in config["domains"]] == [14, 19]
    again = Recommender.load(tmp_path / "grown").add_items([NewItem("more", "food", "x", embedding(8))])
    again.save(tmp_path / "grown", overwrite=True)
    card = (tmp_path / "grown" / "README.md").read_text()
    assert card.startswith("# A test\n\n## Added items\n")
    assert card.count("## Added items") == 1
    assert "- food: 3 of 15 items, the last ones\n- kitchen: 1 of 19 items, the last ones\n" in card


def test_saving_without_new_items_copies(folder: Path, tmp_path: Path) -> None:
    Recommender.load(folder, backend="numpy").save(tmp_path / "copy")
    for path in folder.iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(DataError, match="exists already"):
        Recommender.load(folder).save(tmp_path / "copy")


def test_a_folder_that_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file/sub: cannot be written: "):
        Recommender.load(folder, backend="numpy").save(tmp_path / "file" / "sub")


def test_a_model_card_that_has_changed_since(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    recommender = Recommender.load(copy, backend="numpy")
    (copy / "README.md").write_bytes(b"another")
    with pytest.raises(BundleError, match="has changed since the bundle was loaded"):
        recommender.add_items(NEW)
    (copy / "README.md").unlink()
    with pytest.raises(BundleError, match="cannot be read any more"):
        recommender.save(tmp_path / "saved")


GOOD = {"id": "n", "domain": "food", "title": "t", "embedding": [1.0] * 7}


def test_a_whole_number_is_the_id_that_it_is_written_as(folder: Path) -> None:
    grown = Recommender.load(folder).add_items([{**GOOD, "id": 71}, {**GOOD, "id": np.int32(5)}])
    assert grown.similar(71, k=1).to_dicts() == grown.similar("71", k=1).to_dicts()
    assert "5" in grown.items.row_of_id


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "k3"}, "item 1: item 'k3' is in the catalogue already"),
        ({"id": "first"}, "item 1: item 'first' came before, as item 0"),
        ({"id": ""}, "item 1: field 'id' is empty"),
        ({"id": 3.5}, "item 1: field 'id' is 3.5, expected a string"),
        ({"id": "\ud800"}, "item 1: field 'id' is not valid Unicode"),
        ({"domain": "toys"}, "item 1: no domain is named 'toys', expected 'food' or 'kitchen'"),
        ({"title": None}, "item 1: field 'title' is None, expected a string"),
        ({"title": " ", "embedding": None}, "item 1: item 'n' has neither a title nor an embedding"),
        ({"embedding": [1.0] * 6}, "its embedding has the shape (6,), this bundle expects (7,)"),
        ({"embedding": [[1.0] * 7]}, "has the shape (1, 7)"),
        ({"embedding": [1.0, [2.0]]}, "expected numbers"),
        ({"embedding": "abc"}, "expected numbers"),
        ({"embedding": [1.0] * 6 + [float("nan")]}, "a value that is not finite"),
        ({"embedding": [1.0] * 6 + [1e39]}, "a value that is not finite"),
        ({"embedding": [0.0] * 7}, "item 'n' has an embedding that says nothing"),
        ({"title": "the", "embedding": None}, "item 'n' has a title that says nothing"),
        ({"colour": "red"}, "item 1: field 'colour' is not one of id, domain, title, embedding"),
    ],
)
def test_refused(folder: Path, change: dict[str, Any], reason: str) -> None:
    encoder: Any = Encoder()
    backend = Recommender.load(folder, backend="numpy")._ranking.backend
    recommender = Recommender(read_bundle(folder), backend, encoder=encoder)
    first = NewItem("first", "food", "t", [2.0] * 7)
    with pytest.raises(DataError) as caught:
        recommender.add_items([first, {**GOOD, **change}])
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", ["id", "domain"])
def test_missing_fields(folder: Path, name: str) -> None:
    item = {key: value for key, value in GOOD.items() if key != name}
    with pytest.raises(DataError, match=f"item 0: field '{name}' is missing"):
        Recommender.load(folder).add_items([item])


@pytest.mark.parametrize(
    ("items", "error", "reason"),
    [
        ({"id": "x", "domain": "food"}, UsageError, "items is one item, expected a sequence of new items"),
        (NEW[0], UsageError, "items is one item, expected a sequence of new items"),
        ("x", UsageError, "items is one string, expected a sequence of new items"),
        (5, UsageError, "items is 5, expected a sequence of new items"),
        (None, UsageError, "items is None, expected a sequence of new items"),
        ([NEW[0], "a"], DataError, "item 1: is 'a', expected a NewItem or a mapping with its fields"),
        ([None], DataError, "item 0: is None, expected a NewItem or a mapping with its fields"),
        ([{"id": "x", "domain": "food", "source": 3}], DataError, "item 0: field 'source' is 3, expected"),
    ],
)
def test_what_is_no_item(folder: Path, items: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=f"^{reason}"):
        Recommender.load(folder, backend="numpy").add_items(items)


def test_what_is_missing_for_new_items(folder: Path, bundle_folder: Path) -> None:
    with pytest.raises(UsageError, match="item 0: item 'n' has no embedding, and there is no encoder"):
        Recommender.load(folder).add_items([{**GOOD, "embedding": None}])
    with pytest.raises(UsageError, match="export it with text embeddings"):
        Recommender.load(bundle_folder).add_items([GOOD])


def test_many_at_once(folder: Path) -> None:
    rng = np.random.default_rng(3)
    items = [
        NewItem(f"n{n}", ("food", "kitchen")[n % 2], f"title {n}", vector)
        for n, vector in enumerate(rng.normal(size=(20_000, 7)))
    ]
    grown = Recommender.load(folder).add_items(items)
    assert len(grown.items) == 20_030
    for n in (0, 1, 9_999, 19_999):
        row = grown.items.row(f"n{n}")
        expected = naive_vector(Recommender.load(folder).bundle, items[n])
        np.testing.assert_allclose(grown.bundle.item_vectors[row], expected, rtol=1e-4, atol=1e-5)
    assert len(grown.recommend(["n1", "f2"], domain="food", k=500)) == 500


def test_approximate_search_keeps_its_graph(folder: Path) -> None:
    pytest.importorskip("hnswlib")
    recommender = Recommender.load(folder, search="hnsw")
    for item in NEW:  # again and again
        recommender = recommender.add_items([item])
    assert recommender.search_name == "hnsw"
    expected = Recommender.load(folder, search="exact").add_items(NEW)
    assert_same(answers(recommender), answers(expected))
