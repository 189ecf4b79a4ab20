"""Requests with pseudo items, against loops over names and items in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcdsr_lite import Recommender, UsageError
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.recall import RecallNetwork

FOOD = [f"f{n}" for n in range(12)]
KITCHEN = [f"k{n}" for n in range(18)]
ALL = FOOD + KITCHEN
DOMAINS = {"food": FOOD, "kitchen": KITCHEN}
MAX_LENGTH = 6
SETTINGS = {
    "inserted": ExpertWeights(inserted=1.0),
    "partly": ExpertWeights(inserted=0.6),
    "similar": ExpertWeights(similar=1.5),
    "both": ExpertWeights(similar=2.5, inserted=0.4),
}
N_RECALLED = {"inserted": 3, "partly": 4, "similar": 2, "both": 9}  # 9 are more than the model looks back on
SIMILAR = ["similar", "both"]
Loads = Callable[..., Recommender]


@dataclass
class Naive:
    """The formulas, item by item."""

    bundle: Bundle
    network: RecallNetwork
    represent: Callable[[list[int]], Any]

    def pooled(self, names: list[Any], domain: str, weigh: float = 1.0) -> Any:
        names = [np.asarray(name, dtype=np.float64) for name in names if np.any(name)]
        if not names:
            return None
        pooler = self.network.poolers[("food", "kitchen").index(domain)].astype(float)
        weights = [np.exp(weigh * (name @ pooler)) for name in names]
        vector = sum(w * name for w, name in zip(weights, names, strict=True)) / sum(weights)
        return vector / np.sqrt(vector @ vector)

    def cosines(self, history: list[str], domain: str) -> dict[str, float] | None:
        """Of the domain's items to the titles of its newest items, if it is cold."""
        seen = history[-MAX_LENGTH:]
        if not seen or any(item in DOMAINS[domain] for item in history):
            return None
        pooled = self.pooled([self.network.names[0, ALL.index(item) + 1] for item in seen], domain)
        if pooled is None:
            return None
        return {i: float(pooled @ self.network.items[ALL.index(i) + 1]) for i in DOMAINS[domain]}

    def scores(self, history: list[str], cosines: dict[str, float] | None, setting: str) -> dict[str, float]:
        """Scores of all items."""
        weights = SETTINGS[setting]
        user = self.user(history)
        if weights.inserted and cosines is not None:
            seen = [*recalled(cosines, setting)[::-1], *history[-MAX_LENGTH:]][-MAX_LENGTH:]
            user = user + weights.inserted * (self.user(seen) - user)
        scores = {i: float(user @ self.bundle.item_vectors[row]) for row, i in enumerate(ALL, 1)}
        for item, cosine in (cosines or {}).items():
            scores[item] += weights.similar * cosine
        return scores

    def user(self, history: list[str]) -> Any:
        return self.represent([ALL.index(i) + 1 for i in history]) if history else np.zeros(8)


def recalled(cosines: dict[str, float], setting: str) -> list[str]:
    return sorted(cosines, key=lambda i: -cosines[i])[: N_RECALLED[setting]]


@pytest.fixture(scope="module")
def naive(bundle_data: Bundle, recall_network: RecallNetwork, naive_representation: Any) -> Naive:
    return Naive(bundle_data, recall_network, naive_representation)


@pytest.fixture(scope="module")
def load(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Loads:
    """Load a bundle with a setting of both domains; each bundle and recommender is made once."""
    made: dict[Any, Any] = {}
    folder = tmp_path_factory.mktemp("pseudo")

    def build(auto: str, names: str) -> Path:
        key = (auto, names)
        if key not in made:
            mix = DomainMix(cold=SETTINGS.get(auto, ExpertWeights()), named=SETTINGS[names])
            mix = replace(mix, n_recalled=N_RECALLED[names if auto == "off" else auto])
            bundle = replace(bundle_data, recall=recall_network, mix=(mix, mix))
            made[key] = build_bundle(bundle, folder / str(len(made)))
        return made[key]  # type: ignore[no-any-return]

    def load(
        auto: str = "off", names: str = "inserted", backend: Any = "numpy", **options: Any
    ) -> Recommender:
        key = (auto, names, backend, *options.items())
        if key not in made:
            made[key] = Recommender.load(build(auto, names), backend=backend, **options)
        return made[key]  # type: ignore[no-any-return]

    return load


def ids(answer: Any) -> list[str]:
    return [item.id for item in answer]


def ranked(scores: dict[str, float], candidates: list[str], k: int) -> list[str]:
    return sorted(candidates, key=lambda item: -scores[item])[:k]


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
@pytest.mark.parametrize("setting", SETTINGS)
@given(
    history=st.lists(st.sampled_from(FOOD), min_size=1, max_size=9)
    | st.lists(st.sampled_from(KITCHEN), min_size=1, max_size=9)
    | st.lists(st.sampled_from(ALL), min_size=1, max_size=9),
    k=st.integers(1, 30),
    domain=st.sampled_from(["food", "kitchen"]),
    exclude_seen=st.booleans(),
    allow=st.none() | st.sets(st.sampled_from(ALL), max_size=15),
    exclude=st.none() | st.sets(st.sampled_from(ALL), max_size=5),
)
@settings(max_examples=40)
def test_auto_is_brute_force_over_names_and_items(
    load: Loads,
    naive: Naive,
    backend: str,
    setting: str,
    history: list[str],
    k: int,
    domain: str,
    exclude_seen: bool,
    allow: set[str] | None,
    exclude: set[str] | None,
) -> None:
    scores = naive.scores(history, naive.cosines(history, domain), setting)
    candidates = [
        i
        for i in DOMAINS[domain]
        if not (exclude_seen and i in history) and (allow is None or i in allow) and i not in (exclude or ())
    ]
    answer = load(setting, backend=backend).recommend(
        history, domain=domain, k=k, exclude_seen=exclude_seen, allow=allow, exclude=exclude
    )
    assert ids(answer) == ranked(scores, candidates, k)
    np.testing.assert_allclose([a.score for a in answer], [scores[a.id] for a in answer], atol=1e-4)
    assert (answer.fallback, answer.explanation) == (False, None)


@pytest.mark.parametrize("setting", SETTINGS)
def test_pseudo_items_change_cold_answers_and_no_others(load: Loads, setting: str) -> None:
    recommender = load(setting)
    off = {"pseudo": "off"}
    for history in (["k3", "k5"], ["f0"], ["f3", "k2"], []):  # warm; without a title; of both; nothing
        for domain in ["food", "kitchen"] if len(history) != 2 or "f3" in history else ["kitchen"]:
            answer = recommender.recommend(history, domain=domain, k=30)
            assert answer == recommender.recommend(history, domain=domain, k=30, **off)
    cold = recommender.recommend(["k3", "k5"], domain="food", k=30)
    assert len(cold) == 12  # pseudo items are recommended, too
    plain = load("off").recommend(["k3", "k5"], domain="food", k=30)
    assert cold.items != plain.items
    assert recommender.recommend(["k3", "k5"], domain="food", k=30, **off).items == plain.items


def test_items_that_the_model_does_not_look_back_on_warm_a_history_too(load: Loads, naive: Naive) -> None:
    history = ["f1", *KITCHEN[3:9]]
    answer = load("similar").recommend(history, domain="food", k=3)
    assert naive.cosines(history, "food") is None
    assert ids(answer) == ranked(naive.scores(history, None, "similar"), [i for i in FOOD if i != "f1"], 3)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("history", [["k3", "k5"], ["f2"], ["f2", "k3"], []])
def test_without_a_domain_similarity_touches_the_other_domain_alone(
    load: Loads, naive: Naive, setting: str, history: list[str]
) -> None:
    recommender = load(setting)
    answer = recommender.recommend(history, k=30)
    plain = recommender.recommend(history, k=30, pseudo="off")
    missing = [d for d, items in DOMAINS.items() if history and not set(items) & set(history)]
    if len(missing) != 1 or setting not in SIMILAR:
        assert answer == plain
        return
    scores = naive.scores(history, None, setting)  # nothing is inserted
    for item, cosine in (naive.cosines(history, missing[0]) or {}).items():
        scores[item] += SETTINGS[setting].similar * cosine
    assert ids(answer) == ranked(scores, [i for i in ALL if i not in history], 30)
    before = {a.id: a.score for a in plain}
    for item in answer:
        if item.domain != missing[0]:
            assert item.score == pytest.approx(before[item.id], abs=1e-5)


HISTORIES = [["k1", "f2"], [], ["k3"], ["x"], ["k5"] * 9, ["f1", "x", "f3"], ["k0"], KITCHEN, ["k17"]]


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
@pytest.mark.parametrize("domain", [None, "food", "kitchen"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_batch_is_the_same_as_one_by_one(
    load: Loads, setting: str, domain: str | None, backend: str
) -> None:
    recommender = load(setting, backend=backend)
    asked: list[Any] = ["auto"] * len(HISTORIES)
    if domain is not None:
        asked[1], asked[2], asked[5], asked[6] = ["f4", "k7"], "off", ["k2"], []
    options: dict[str, Any] = {"domain": domain, "exclude": ["f6"], "k": 9, "explain": True}
    batch = recommender.recommend_batch(HISTORIES, pseudo=asked, **options)
    assert batch.explanations is not None
    for i, history in enumerate(HISTORIES):
        answer = recommender.recommend(history, pseudo=asked[i], **options)
        n = len(answer)
        assert batch.ids[i].tolist() == ids(answer) + [None] * (9 - n)
        np.testing.assert_allclose(batch.scores[i, :n], [a.score for a in answer], atol=1e-5)
        assert batch.fallback[i] == answer.fallback
        assert answer.explanation is not None
        assert batch.explanations[i].setting == answer.explanation.setting
        assert [p.id for p in batch.explanations[i].pseudo] == [p.id for p in answer.explanation.pseudo]
    auto = recommender.recommend_batch(HISTORIES, domain=domain, k=9)
    for i, history in enumerate(HISTORIES):
        assert [x for x in auto.ids[i] if x] == ids(recommender.recommend(history, domain=domain, k=9))
    assert auto.explanations is None


@pytest.mark.parametrize("setting", SETTINGS)
def test_names_that_are_items_stand_for_title_or_vector(load: Loads, naive: Naive, setting: str) -> None:
    """f5 by id, k4 by its title, f0 has no title: it counts for nothing. All are 1.5 long."""
    network = naive.network
    k4 = network.names[0, 17].astype(float)
    names = [network.items[6] * 1.5, k4 / np.sqrt(k4 @ k4) * 1.5]
    for history in (["k3", "k9"], ["f3", "k9"], []):
        pooled = naive.pooled(names, "food")
        cosines = {i: float(pooled @ network.items[ALL.index(i) + 1]) for i in FOOD}
        scores = naive.scores(history, cosines, setting)
        answer = load("off", names=setting).recommend(
            history, domain="food", k=30, pseudo=["f5", 'Pan, "size 4"'], exclude_seen=False
        )
        assert ids(answer) == ranked(scores, FOOD, 30)
        assert not answer.fallback


def test_only_text_is_weighed_by_the_pooler(load: Loads, naive: Naive) -> None:
    mix = DomainMix(cold=SETTINGS["similar"], named=SETTINGS["similar"], source="companions")
    bundle = replace(naive.bundle, recall=naive.network, mix=(mix, mix))
    recommender = Recommender(bundle, load()._ranking.backend)
    history = ["k3", "k9", "k5"]
    said = [naive.network.names[0, ALL.index(i) + 1] for i in history]
    lengths = [np.sqrt(v @ v) / 1.5 for v in said]
    given = [vector / length for vector, length in zip(said, lengths, strict=True)]
    for asked, names, weigh in (("auto", said, 0.0), (history, given, 1.0)):
        pooled = naive.pooled(names, "food", weigh)
        cosines = {i: float(pooled @ naive.network.items[ALL.index(i) + 1]) for i in FOOD}
        scores = naive.scores(history, cosines, "similar")
        answer = recommender.recommend(history, domain="food", k=12, pseudo=asked)
        assert ids(answer) == ranked(scores, FOOD, 12)
        np.testing.assert_allclose([a.score for a in answer], [scores[a.id] for a in answer], atol=1e-4)


class Encoder:
    """Stands for a text encoder; its vectors say how long a text is."""

    dimension = 7

    def encode(self, texts: list[str], batch_size: int = 16) -> Any:
        return np.array([np.arange(7) * len(t) if t.strip() else np.zeros(7) for t in texts], np.float32)


def test_free_text_is_encoded_and_projected(
    load: Loads, naive: Naive, bundle_data: Bundle, recall_network: RecallNetwork
) -> None:
    mix = DomainMix(named=SETTINGS["similar"])
    bundle = replace(bundle_data, recall=recall_network, mix=(mix, mix))
    backend = load()._ranking.backend
    encoder: Any = Encoder()
    recommender = Recommender(bundle, backend, encoder=encoder)
    assert recall_network.projections is not None
    text = [sum(recall_network.projections[0][:, e] * e * n for e in range(7)) for n in (6, 4)]
    k4 = recall_network.names[0, 17].astype(float)
    pooled = naive.pooled([*text, k4 / np.sqrt(k4 @ k4) * 1.5], "food")
    cosines = {i: float(pooled @ recall_network.items[ALL.index(i) + 1]) for i in FOOD}
    scores = naive.scores(["k3"], cosines, "similar")
    answer = recommender.recommend(["k3"], domain="food", k=12, pseudo=["coffee", " ", "k4", "beer"])
    assert ids(answer) == ranked(scores, FOOD, 12)
    assert recommender.recommend(["k3"], domain="food", pseudo=[" "]) == recommender.recommend(
        ["k3"], domain="food", pseudo="off"
    )


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    "history", [["k3", "k5", "k3"], ["f2", "k4"], ["k7"], [*KITCHEN[:9]], ["k0", "k6"], ["k0", "f3"]]
)
def test_an_explanation_is_every_item_left_out(
    load: Loads, naive: Naive, setting: str, history: list[str], backend: str
) -> None:
    weights = SETTINGS[setting]
    answer = load(setting, backend=backend).recommend(history, domain="food", explain=True)
    explanation = answer.explanation
    assert explanation is not None
    cosines = naive.cosines(history, "food")
    if cosines is None:
        assert (explanation.setting, explanation.pseudo) == ("off", ())
    else:
        expected = recalled(cosines, setting)
        assert [p.id for p in explanation.pseudo] == expected
        np.testing.assert_allclose(
            [p.similarity for p in explanation.pseudo], [cosines[i] for i in expected], atol=1e-5
        )
        assert ("insert" in explanation.setting, "cosine" in explanation.setting) == (
            bool(weights.inserted),
            bool(weights.similar),
        )
        n_seen = max(0, MAX_LENGTH - len(history)) if weights.inserted else 0
        assert [p.inserted for p in explanation.pseudo] == [n < n_seen for n in range(len(expected))]
    assert sum(explanation.shares.values()) == pytest.approx(answer[0].score, abs=1e-4)
    assert [i.id for i in explanation.history] == history
    top = answer[0].id
    whole = naive.scores(history, cosines, setting)[top]
    for n, influence in enumerate(explanation.history):
        rest = history[:n] + history[n + 1 :]
        if not rest:
            assert influence.change is None
            continue
        score = naive.scores(rest, naive.cosines(rest, "food"), setting)[top]
        assert influence.change == pytest.approx(whole - score, abs=1e-4)


def test_explanations_where_there_is_little_to_explain(load: Loads, bundle_folder: Path) -> None:
    recommender = load("similar")
    popular = recommender.recommend([], explain=True).explanation
    nothing = recommender.recommend(["f3"], allow=[], explain=True).explanation
    assert popular is not None
    assert nothing is not None
    assert (popular.setting, popular.pseudo, popular.history) == ("off", (), ())
    assert nothing.history == ()
    plain = Recommender.load(bundle_folder, backend="numpy").recommend(["f3", "f4"], explain=True)
    assert plain.explanation is not None
    assert (plain.explanation.setting, len(plain.explanation.history)) == ("off", 2)


def test_graph_search_is_exact_where_something_is_added(load: Loads) -> None:
    pytest.importorskip("hnswlib", reason="hnswlib is not installed (it needs a compiler)")
    for setting in SETTINGS:
        exact, graph = load(setting), load(setting, search="hnsw")
        assert graph.search_name == "hnsw"
        for domain in ("food", "kitchen", None):
            a = exact.recommend_batch(HISTORIES, domain=domain, k=8)
            b = graph.recommend_batch(HISTORIES, domain=domain, k=8)
            assert np.array_equal(a.rows, b.rows)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.recommend(["f1"], pseudo="on"), "pseudo is 'on', expected 'auto', 'off' or a list"),
        (
            lambda r: r.recommend(["f1"], pseudo=["k1", 3], domain="food"),
            "pseudo holds something that",
        ),
        (lambda r: r.recommend(["f1"], pseudo=["k1"]), "names need the one domain that is asked for"),
        (
            lambda r: r.recommend(["f1"], pseudo=["tea"], domain="food"),
            "'tea' is neither the id nor",
        ),
        (lambda r: r.recommend_batch([["f1"]], pseudo=["tea"]), "pseudo of history 0 is 'tea', expected"),
        (lambda r: r.recommend_batch([["f1"]], pseudo=[]), "pseudo is for 0 histories, found 1"),
    ],
)
def test_pseudo_that_cannot_be_meant(load: Loads, call: Callable[[Recommender], Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(load("inserted"))


def test_a_bundle_without_a_recall_network(bundle_folder: Path) -> None:
    recommender = Recommender.load(bundle_folder, backend="numpy")
    assert recommender.recommend(["f1"], domain="kitchen") == recommender.recommend(
        ["f1"], domain="kitchen", pseudo="off"
    )
    with pytest.raises(UsageError, match="this bundle has no recall network"):
        recommender.recommend(["f1"], domain="kitchen", pseudo=["k1"])


def test_an_encoder_that_does_not_fit(
    load: Loads, bundle_data: Bundle, recall_network: RecallNetwork
) -> None:
    encoder: Any = Encoder()
    backend = load()._ranking.backend
    with pytest.raises(UsageError, match="no recall network, so there is nothing to encode for"):
        Recommender(bundle_data, backend, encoder=encoder)
    without = replace(bundle_data, recall=replace(recall_network, projections=None))
    with pytest.raises(UsageError, match="no projections"):
        Recommender(without, backend, encoder=encoder)
    encoder.dimension = 9
    with pytest.raises(UsageError, match="gives 9 values a text, this bundle expects 7"):
        Recommender(replace(bundle_data, recall=recall_network), backend, encoder=encoder)
