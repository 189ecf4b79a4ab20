"""Pseudo items as experts of the mix, on worlds in which it is known what items say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights, Source
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.model.recall_network import unit_rows
from llmcdsr_lite.pseudo import PseudoRecall
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.evaluation.measures import gains, rank
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import BundleScorer, ModelScorer
from llmcdsr_tools.mix.learning import ranks
from llmcdsr_tools.mix.positions import collect
from llmcdsr_tools.mix.pseudo_scores import PseudoScores
from llmcdsr_tools.mix.whole_mix import learn_mix

N_A, N_B, N_TOPICS, HIDDEN, MAX_LENGTH = 45, 60, 9, 6, 4
N_ROWS = 1 + N_A + N_B
CATALOGUE = Catalogue.from_sizes(
    [str(i) for i in range(N_A + N_B)], ["t"] * (N_A + N_B), ("a", "b"), (N_A, N_B)
)
TOPIC = np.concatenate([[0], np.arange(N_A) % N_TOPICS, np.arange(N_B) % N_TOPICS])
Array = npt.NDArray[np.float32]


@dataclass
class MeanBackend:
    """A user is the mean of the items."""

    table: Array
    name: str = "mean"

    def represent(self, histories: Any) -> Array:
        return np.array([self.table[h].mean(axis=0) for h in histories], dtype=np.float32)


def table(seed: int = 3) -> Array:
    return np.random.default_rng(seed).normal(size=(N_ROWS, 8)).astype(np.float32)


def users(n: int, seed: int) -> Histories:
    """Each user has one topic in both domains; some histories are too short to be cold."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(n):
        topic, target_b = rng.integers(N_TOPICS), rng.integers(2)
        a = 1 + topic + N_TOPICS * rng.integers(0, N_A // N_TOPICS, rng.integers(2, 6))
        b = 1 + N_A + topic + N_TOPICS * rng.integers(0, 6, rng.integers(2, 6))
        lists.append([*a, *b] if target_b else [*b, *a])
    return Histories.from_lists([[int(i) for i in h] for h in lists], [f"{seed}/{i}" for i in range(n)])


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset(CATALOGUE, Histories.from_lists([], []), users(300, 1), users(300, 2))


def network(informed: bool, seed: int = 2) -> RecallNetwork:
    """Titles and item vectors that point to the item's topic, or anywhere; rows 2 and 47 are untitled."""
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(N_TOPICS, HIDDEN))
    names, items = rng.normal(size=(2, N_ROWS, HIDDEN)) * 0.3
    if informed:
        names += topics[TOPIC]
        items += topics[TOPIC]
    names[[0, 2, 47]] = 0
    items[0] = 0
    poolers = rng.normal(size=(2, HIDDEN))
    arrays = (a.astype(np.float32) for a in (names[None], unit_rows(items), poolers))
    return RecallNetwork(*arrays, None, (1.0, 1.0))


def scores_of(source: Source, informed: bool, vectors: Array, seed: int = 2) -> PseudoScores:
    told = replace(network(True), names=network(informed, seed).names)
    return PseudoScores(ModelScorer(MeanBackend(vectors), vectors), CATALOGUE, told, source, MAX_LENGTH)


def bundle(vectors: Array, told: RecallNetwork, mix: DomainMix, counts: Any = None) -> BundleScorer:
    config = SASRecConfig(N_A + N_B, 8, 1, 1, MAX_LENGTH, dropout=0.0)
    parameters = SASRecParameters(
        config, vectors, SASRecParameters.initial(config, np.random.default_rng(0)).dense
    )
    counts = np.ones(N_ROWS, dtype=np.int64) if counts is None else counts
    made = Bundle(CATALOGUE, parameters, counts, recall=told, mix=(mix, mix))
    return BundleScorer(made, MeanBackend(vectors))


@pytest.mark.parametrize(
    "cold",
    [
        ExpertWeights(),
        ExpertWeights(similar=3.0),
        ExpertWeights(inserted=0.7),
        ExpertWeights(similar=1.0, inserted=1.5),
    ],
)
@pytest.mark.parametrize("source", ["titles", "companions"])
def test_ranks_from_candidates_are_those_of_a_bundle(
    data: Dataset, cold: ExpertWeights, source: Source
) -> None:
    vectors = table()
    scorer = bundle(vectors, network(True), DomainMix(cold=cold, source=source))
    for index, domain in enumerate(CATALOGUE.domains):
        queries = Queries.of_data(data, "valid", "every").cold(CATALOGUE).into(domain)
        model = ModelScorer(MeanBackend(vectors), vectors)
        pseudo = scores_of(source, True, vectors)
        positions = collect(model, queries, index, CATALOGUE.domains, None, pseudo=pseudo)
        found = ranks(positions, np.array(cold.values))
        expected = rank(scorer, queries, domain).rank
        assert np.minimum(found, 10).tolist() == np.minimum(expected, 10).tolist()


@pytest.mark.slow
def test_what_tells_the_topic_is_weighed_and_holds_on_test(data: Dataset) -> None:
    vectors = table()
    pseudo = [scores_of("titles", False, vectors, 5), scores_of("companions", True, vectors)]
    model = ModelScorer(MeanBackend(vectors), vectors)
    mixes = learn_mix(model, data, None, 0, pseudo)
    for index, (domain, mix) in enumerate(zip(CATALOGUE.domains, mixes, strict=True)):
        assert mix.source == "companions"
        assert mix.cold.similar > 0
        assert not mix.warm.recalls
        learned = mix.validation["cold"]
        assert learned["gain"] > 0.2
        queries = Queries.of_data(data, "test", "every").cold(CATALOGUE).into(domain)
        both = [
            gains(rank(scorer, queries, domain).rank)
            for scorer in (bundle(vectors, network(True), mixes[index]), model)
        ]
        assert (both[0] - both[1]).mean() == pytest.approx(learned["gain"], abs=5 * learned["standard_error"])


def test_names_are_the_items_that_were_taken_out(data: Dataset) -> None:
    vectors = table()
    mixes = learn_mix(
        ModelScorer(MeanBackend(vectors), vectors), data, None, 0, [scores_of("titles", False, vectors)]
    )
    everyone = Queries.of_data(data, "valid", "every")
    for domain, mix in zip(CATALOGUE.domains, mixes, strict=True):
        histories, names, targets, owners = [], [], [], []
        queries = everyone.into(domain)
        for history, target, user in zip(queries.histories, queries.targets, queries.user_of, strict=True):
            inside = (history >= domain.start) & (history < domain.stop)
            if inside.any() and (~inside).sum() >= 3:
                histories.append(history[~inside])
                names.append([CATALOGUE.ids[row - 1] for row in history[inside]])
                targets.append(int(target))
                owners.append(user)
        learned = mix.validation["named"]
        assert (learned["n_targets"], learned["n_users"]) == (len(targets), len(set(owners)))
        assert learned["gain"] > 0.2
        assert mix.named.recalls
        recaller = PseudoRecall(
            CATALOGUE, replace(network(True), names=network(False).names), mixes, MAX_LENGTH
        )
        found = recaller.recall(histories, [domain], names)
        hits = []
        for history, (items,), target in zip(histories, found, targets, strict=True):
            before, after = MeanBackend(vectors).represent([history, items.sequence(history, MAX_LENGTH)])
            user = before + mix.named.inserted * (after - before)
            score = vectors[domain.start : domain.stop] @ user
            score += mix.named.similar * (network(True).items[domain.start : domain.stop] @ items.direction)
            hits.append(int((score >= score[target - domain.start]).sum()) - 1)
        fitted = float(gains(np.array(hits)).mean())
        assert fitted == pytest.approx(learned["ndcg10"], abs=4 * learned["standard_error"])


@pytest.mark.slow
def test_what_tells_nothing_is_mostly_left(data: Dataset) -> None:
    weighed = 0
    for seed in range(6):
        vectors = table(seed)
        pseudo = [scores_of("titles", False, vectors, seed + 10)]
        mixes = learn_mix(ModelScorer(MeanBackend(vectors), vectors), data, None, seed, pseudo)
        for mix in mixes:
            weighed += mix.cold != ExpertWeights()
            assert mix.named.recalls
    assert weighed <= 2


def test_few_cold_users_teach_nothing(data: Dataset) -> None:
    vectors = table()
    few = replace(data, valid=users(20, 4))
    pseudo = [scores_of("titles", True, vectors)]
    for mix in learn_mix(ModelScorer(MeanBackend(vectors), vectors), few, None, 0, pseudo):
        assert mix.cold == ExpertWeights()
        assert mix.named == DomainMix().named


def test_popularity_is_weighed_where_it_tells_what_comes_next() -> None:
    rng = np.random.default_rng(6)
    shares = 1.0 / np.arange(1, N_A + 1)
    shares /= shares.sum()

    def many(n: int, name: str) -> Histories:
        """Whatever somebody has of b, of a it is what most have."""
        lists = [[*(N_A + rng.integers(1, N_B + 1, 4)), int(rng.choice(N_A, p=shares)) + 1] for _ in range(n)]
        return Histories.from_lists([[int(i) for i in h] for h in lists], [f"{name}{i}" for i in range(n)])

    data = Dataset(CATALOGUE, many(400, "x"), many(200, "y"), many(200, "z"))
    vectors = table() * 0.1
    model = ModelScorer(MeanBackend(vectors), vectors)
    first, second = learn_mix(model, data, None, 0)
    assert first.cold.popular > 0.5
    assert first.validation["cold"]["gain"] > 0.2
    assert second.cold == ExpertWeights()  # nobody has b next
    counts = np.bincount(data.train.rows, minlength=N_ROWS)
    queries = Queries.of_data(data, "test", "every").cold(CATALOGUE).into(CATALOGUE.domains[0])
    both = [
        gains(rank(scorer, queries, CATALOGUE.domains[0]).rank).mean()
        for scorer in (bundle(vectors, network(False), first, counts), model)
    ]
    learned = first.validation["cold"]
    assert both[0] - both[1] == pytest.approx(learned["gain"], abs=5 * learned["standard_error"])
