from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcdsr_lite import Recommendation, Recommender, UnknownItemError, UsageError
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.model.backends import NumpyBackend

FOOD = [f"f{n}" for n in range(12)]
KITCHEN = [f"k{n}" for n in range(18)]
ALL = FOOD + KITCHEN
MAX_LENGTH = 6


@pytest.fixture(scope="module", params=["onnx", "numpy"])
def recommender(bundle_folder: Path, request: pytest.FixtureRequest) -> Recommender:
    return Recommender.load(bundle_folder, backend=request.param)


@pytest.fixture(scope="module")
def one(bundle_folder: Path) -> Recommender:
    return Recommender.load(bundle_folder, backend="numpy")


@pytest.fixture(scope="module")
def scores_of(
    bundle_data: Bundle, naive_representation: Callable[[list[int]], Any]
) -> Callable[[list[str]], dict[str, float]]:
    """Score of every item after a history, from the formulas."""

    def scores(history: list[str]) -> dict[str, float]:
        user = naive_representation([ALL.index(item) + 1 for item in history])
        return {item: float(user @ bundle_data.item_vectors[row]) for row, item in enumerate(ALL, 1)}

    return scores


def ids(answer: Any) -> list[str]:
    return [item.id for item in answer]


def ranked(scores: dict[str, float], candidates: list[str], k: int) -> list[str]:
    return sorted(candidates, key=lambda item: -scores[item])[:k]


@given(
    history=st.lists(st.sampled_from(ALL), min_size=1, max_size=10),
    k=st.integers(1, 35),
    domain=st.sampled_from([None, "food", "kitchen"]),
    exclude_seen=st.booleans(),
    allow=st.none() | st.sets(st.sampled_from(ALL), max_size=12),
    exclude=st.none() | st.sets(st.sampled_from(ALL), max_size=12),
)
@settings(max_examples=3 * settings().max_examples // 2)
def test_ranking_is_brute_force_over_the_scores(
    recommender: Recommender,
    scores_of: Callable[[list[str]], dict[str, float]],
    history: list[str],
    k: int,
    domain: str | None,
    exclude_seen: bool,
    allow: set[str] | None,
    exclude: set[str] | None,
) -> None:
    scores = scores_of(history)
    candidates = {None: ALL, "food": FOOD, "kitchen": KITCHEN}[domain]
    candidates = [
        item
        for item in candidates
        if not (exclude_seen and item in history)
        and (allow is None or item in allow)
        and item not in (exclude or ())
    ]
    answer = recommender.recommend(
        history, k=k, domain=domain, exclude_seen=exclude_seen, allow=allow, exclude=exclude
    )
    assert ids(answer) == ranked(scores, candidates, k)
    np.testing.assert_allclose([a.score for a in answer], [scores[a.id] for a in answer], atol=1e-4)
    assert (answer.unknown_items, answer.fallback) == ((), False)


def test_an_answer_is_a_sequence_of_items_with_titles_and_domains(recommender: Recommender) -> None:
    answer = recommender.recommend(["f1", "k2"], k=4, allow=["f3", "k17"])
    by_id = {item.id: item for item in answer}
    assert by_id["f3"] == Recommendation("f3", "Café beans No. 3", "food", by_id["f3"].score)
    assert by_id["k17"] == Recommendation("k17", 'Pan, "size 17"', "kitchen", by_id["k17"].score)
    assert len(answer) == 2
    assert answer[0] is answer.items[0]
    assert answer[:1] == answer.items[:1]
    assert isinstance(answer[0].score, float)


def test_default_k_is_ten_and_seen_items_are_left_out(recommender: Recommender) -> None:
    answer = recommender.recommend(["f1", "k2"])
    assert len(answer) == 10
    assert not {"f1", "k2"} & set(ids(answer))


def test_a_long_history_is_cut_but_all_of_it_is_seen(
    recommender: Recommender, scores_of: Callable[[list[str]], dict[str, float]]
) -> None:
    history = ["k3", "k1", "k3", "f2", "f0", "f5", "f7", "f9", "f9"]
    answer = recommender.recommend(history, k=30)
    scores = scores_of(history[-MAX_LENGTH:])
    assert ids(answer) == ranked(scores, [item for item in ALL if item not in history], 30)
    again = recommender.recommend(history[-MAX_LENGTH:], k=30)
    assert {"k1", "k3"} <= set(ids(again))
    assert [i for i in ids(again) if i not in history] == ids(answer)


def test_repeated_items_count_as_often_as_they_occur(
    recommender: Recommender, scores_of: Callable[[list[str]], dict[str, float]]
) -> None:
    answer = recommender.recommend(["f1", "f1", "f1"], k=1, exclude_seen=False)
    scores = scores_of(["f1", "f1", "f1"])
    assert answer[0].id == max(scores, key=scores.__getitem__)
    assert answer[0].score != pytest.approx(scores_of(["f1"])[answer[0].id], abs=1e-4)


def test_nothing_left(recommender: Recommender) -> None:
    assert ids(recommender.recommend(FOOD, domain="food")) == []
    assert ids(recommender.recommend(["f1"], allow=[])) == []
    assert ids(recommender.recommend(["f1"], allow=["f1"])) == []
    assert ids(recommender.recommend([], allow=["f1"], exclude=["f1"])) == []
    batch = recommender.recommend_batch([FOOD, ["f1"]], domain="food", k=3)
    assert batch.rows[0].tolist() == [0, 0, 0]
    assert batch.ids[0].tolist() == [None, None, None]
    assert np.isneginf(batch.scores[0]).all()
    assert (batch.rows[1] > 0).all()


def test_a_k_beyond_all_reason(recommender: Recommender) -> None:
    assert len(recommender.recommend(["f1"], k=10**12)) == 29
    assert len(recommender.recommend([], k=10**12)) == 30
    assert len(recommender.similar("f1", k=10**12)) == 29
    for k in (31, 10**9, 10**30):
        batch = recommender.recommend_batch([["f1"], []], k=k)
        assert batch.ids.shape == batch.rows.shape == batch.scores.shape == (2, 30)
        assert (batch.rows > 0).sum(axis=1).tolist() == [29, 30]


def test_unknown_items_are_skipped_and_listed(recommender: Recommender) -> None:
    answer = recommender.recommend(["x", "f1", "y", "x", "k2"], k=5, allow=["z", *ALL], exclude=["w"])
    assert answer.unknown_filter_items == ("z", "w")
    batch = recommender.recommend_batch([["f1"]], k=5, allow=["z", *ALL], exclude=["w"])
    assert batch.unknown_filter_items == ("z", "w")
    assert answer.unknown_items == ("x", "y", "x")
    assert answer.items == recommender.recommend(["f1", "k2"], k=5).items
    batch = recommender.recommend_batch([["x", "f1"], ["f1"], ["x", "y"], []])
    assert [len(ids) for ids in batch.unknown_items] == [1, 0, 2, 0]
    assert batch.fallback.tolist() == [False, False, True, True]


@pytest.mark.parametrize("history", [[], ["x", "y"]])
@pytest.mark.parametrize("domain", [None, "food", "kitchen"])
def test_no_known_item_gives_the_most_popular(
    recommender: Recommender, bundle_data: Bundle, history: list[str], domain: str | None
) -> None:
    candidates = {None: ALL, "food": FOOD, "kitchen": KITCHEN}[domain]
    counts = dict(zip(ALL, bundle_data.item_counts[1:].tolist(), strict=True))
    total = sum(counts[item] for item in candidates)
    answer = recommender.recommend(history, domain=domain, k=30)
    assert answer.fallback
    assert answer.unknown_items == tuple(history)
    assert ids(answer) == sorted(candidates, key=lambda i: (-counts[i], ALL.index(i)))
    np.testing.assert_allclose([a.score for a in answer], [counts[a.id] / total for a in answer], rtol=1e-6)


def test_popularity_obeys_the_filters(recommender: Recommender, bundle_data: Bundle) -> None:
    counts = dict(zip(ALL, bundle_data.item_counts[1:].tolist(), strict=True))
    allow, exclude = [*FOOD[3:], *KITCHEN[:9]], ["f4", "k0", "k1"]
    answer = recommender.recommend([], domain="kitchen", allow=allow, exclude=exclude, k=4)
    expected = sorted(KITCHEN[2:9], key=lambda i: (-counts[i], ALL.index(i)))
    assert ids(answer) == expected[:4]


HISTORIES = [["f1", "k2"], [], ["x"], ["k5"] * 9, ["f1", "x", "f2", "f3"], [], ALL[:20], ["k17"]]


@pytest.mark.parametrize("domain", [None, "food"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_a_batch_is_the_same_as_one_by_one(
    recommender: Recommender, domain: str | None, exclude_seen: bool
) -> None:
    options: dict[str, Any] = {"domain": domain, "exclude_seen": exclude_seen, "exclude": ["f6"], "k": 11}
    batch = recommender.recommend_batch(HISTORIES, **options)
    assert len(batch) == len(HISTORIES)
    assert batch.ids.shape == batch.rows.shape == batch.scores.shape == (len(HISTORIES), 11)
    for i, history in enumerate(HISTORIES):
        answer = recommender.recommend(history, **options)
        n = len(answer)
        assert batch.ids[i].tolist() == ids(answer) + [None] * (11 - n)
        assert [ALL.index(a.id) + 1 for a in answer] + [0] * (11 - n) == batch.rows[i].tolist()
        np.testing.assert_allclose(batch.scores[i, :n], [a.score for a in answer], atol=1e-5)
        assert np.isneginf(batch.scores[i, n:]).all()
        assert (batch.fallback[i], batch.unknown_items[i]) == (answer.fallback, answer.unknown_items)


def test_empty_batches(recommender: Recommender) -> None:
    batch = recommender.recommend_batch([], k=3)
    assert batch.ids.shape == batch.rows.shape == batch.scores.shape == (0, 3)
    assert recommender.recommend_batch([[], []], k=3).fallback.tolist() == [True, True]


@pytest.mark.parametrize("domain", [None, "food", "kitchen"])
def test_similar_is_the_cosine(recommender: Recommender, bundle_data: Bundle, domain: str | None) -> None:
    vectors = {item: bundle_data.item_vectors[row].astype(float) for row, item in enumerate(ALL, 1)}
    of = vectors["f3"]
    cosines = {i: float(v @ of / (np.sqrt(v @ v) * np.sqrt(of @ of))) for i, v in vectors.items()}
    candidates = [i for i in {None: ALL, "food": FOOD, "kitchen": KITCHEN}[domain] if i != "f3"]
    answer = recommender.similar("f3", k=13, domain=domain)
    assert ids(answer) == ranked(cosines, candidates, 13)
    np.testing.assert_allclose([a.score for a in answer], [cosines[a.id] for a in answer], atol=1e-5)


def test_threads_get_the_same_answers(recommender: Recommender) -> None:
    rng = np.random.default_rng(3)
    histories = [rng.choice(ALL, rng.integers(0, 9)).tolist() for _ in range(120)]

    def ask(history: list[str]) -> Any:
        return recommender.recommend(history, k=7), recommender.similar("k3", 5), history

    alone = [ask(history) for history in histories]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, histories)) == alone


def test_what_it_tells_about_itself(one: Recommender, bundle_folder: Path) -> None:
    assert one.domains == ("food", "kitchen")
    assert list(one.items.ids) == ALL
    assert (one.backend_name, one.search_name) == ("numpy", "exact")
    assert one.bundle.folder == bundle_folder
    assert Recommender.load(str(bundle_folder)).backend_name == "onnx"


def test_hnsw_gives_the_same_in_a_small_catalogue(bundle_folder: Path, one: Recommender) -> None:
    pytest.importorskip("hnswlib", reason="hnswlib is not installed (it needs a compiler)")
    approximate = Recommender.load(bundle_folder, backend="numpy", search="hnsw")
    assert approximate.search_name == "hnsw"
    for history in HISTORIES:
        assert ids(approximate.recommend(history, domain="kitchen")) == ids(
            one.recommend(history, domain="kitchen")
        )


@pytest.mark.parametrize("explain", [False, True])
def test_who_is_under_way_when_the_recommender_closes_is_answered(bundle_folder: Path, explain: bool) -> None:
    bundle = read_bundle(bundle_folder)

    class ClosesMeanwhile(NumpyBackend):
        def represent(self, histories: Any) -> Any:
            closing.close()
            return super().represent(histories)

    answering = Recommender(bundle, NumpyBackend(bundle.parameters))
    closing = Recommender(bundle, ClosesMeanwhile(bundle.parameters))
    expected = answering.recommend(["f1", "k2"], k=3, explain=explain)
    assert closing.recommend(["f1", "k2"], k=3, explain=explain) == expected
    closing = Recommender(bundle, ClosesMeanwhile(bundle.parameters))
    batch = closing.recommend_batch([["f1", "k2"]], k=3, explain=explain)
    assert batch.ids.tolist() == [ids(expected)]
    with pytest.raises(UsageError, match="closed"):
        closing.recommend_batch([["f1"]])


def test_answers_as_plain_data(one: Recommender) -> None:
    answer = one.recommend(["f1", "k2"], k=3)
    assert json.loads(json.dumps(answer.to_dicts())) == [vars(item) for item in answer]
    batch = one.recommend_batch([["f1", "k2"], ["f1"], []], k=3, allow=["f3", "k4"])
    found = json.loads(json.dumps(batch.to_dicts()))
    for user, history in enumerate([["f1", "k2"], ["f1"], []]):
        expected = one.recommend(history, k=3, allow=["f3", "k4"])
        assert [item["id"] for item in found[user]] == ids(expected)
        assert [item["score"] for item in found[user]] == pytest.approx([i.score for i in expected], abs=1e-5)


def test_what_a_person_sees(one: Recommender, bundle_folder: Path) -> None:
    domains = "'food' (12 items), 'kitchen' (18 items)"
    assert repr(one) == f"<Recommender of {domains}: {one.backend_name} backend, exact search>"
    closed = Recommender.load(bundle_folder)
    closed.close()
    assert repr(closed) == "<Recommender, closed>"
    assert repr(one.items) == f"<Catalogue of {domains}>"
    table = one.recommend(["f1"], domain="kitchen", k=1)._repr_html_()
    assert table.startswith("<table><thead><tr><th>id</th><th>title</th>")
    assert "Pan, &quot;size" in table


def test_users_and_items_as_vectors(one: Recommender, naive_representation: Any) -> None:
    """Their products are the sequence model's scores: of this bundle, all there is."""
    histories = [["f1", "k2"], [], ["x", "f3"]]
    users = one.represent(histories)
    assert (users.dtype, users.shape) == (np.float32, (3, 8))
    np.testing.assert_allclose(users[0], naive_representation([2, 15]), atol=1e-5)
    assert not users[1].any()
    items = one.item_vectors()
    np.testing.assert_array_equal(items[[1, 14]], one.item_vectors(["f1", "k2"]))
    scores = items @ users[0]
    for item in one.recommend(histories[0], k=5):
        assert item.score == pytest.approx(float(scores[one.items.row(item.id) - 1]), abs=1e-5)
    with pytest.raises(UnknownItemError, match="items: item 'x' is not in the catalogue"):
        one.item_vectors(["x"])
    with pytest.raises(UnknownItemError, match="history 2: item 'x' is not"):
        one.represent(histories, unknown="error")
    assert one.represent([]).shape == (0, users.shape[1])


def test_items_similar_to_several(one: Recommender) -> None:
    vectors = one.item_vectors().astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = list(one.items)
    mean = vectors[[1, 14, 15]].mean(axis=0)
    cosines = vectors @ mean / np.linalg.norm(mean)
    order = [ids[i] for i in np.argsort(-cosines) if ids[i] not in ("f1", "k2", "k3", "k5")]
    found = one.similar(["f1", "k2", "k3"], 6, exclude=["k5", "nothing"])
    assert [item.id for item in found] == order[:6]
    assert found.unknown_filter_items == ("nothing",)
    assert found[0].score == pytest.approx(cosines[ids.index(found[0].id)], abs=1e-5)
    some = one.similar("f1", 3, domain=["kitchen"], allow=one.filter(["k1", "k2", "f4"]))
    assert {item.id for item in some} == {"k1", "k2"}
    with pytest.raises(UsageError, match="item names no item"):
        one.similar([])
    with pytest.raises(UnknownItemError, match="item 'x' is not in the catalogue"):
        one.similar(["f1", "x"])
