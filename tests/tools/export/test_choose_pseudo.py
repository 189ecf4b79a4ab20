"""Every trial is what `evaluate` measures with that setting; what wins is worth it.

The domains are small: all negatives are drawn, so the expectation over the draw is what `evaluate` finds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import hypergeom

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.pseudo import PseudoChoice, PseudoRecall, PseudoSetting
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.reference.recall_network import unit_rows
from llmcdsr_tools.dataset import Dataset, Histories
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.official import N_NEGATIVES, draw_negatives, evaluate, ranks
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.export.choose_pseudo import choose_pseudo
from llmcdsr_tools.export.pseudo_trials import PseudoTrials, Trial, Trials
from llmcdsr_tools.export.pseudo_trials import trial as measured_trial
from llmcdsr_tools.export.recall import SourcedNetwork

N_A, N_B, N_TOPICS, HIDDEN = 45, 60, 9, 6
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


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Each user has one topic in both domains; some histories are too short to be cold."""
    rng = np.random.default_rng(1)
    lists = []
    for _ in range(160):
        topic, target_b = rng.integers(N_TOPICS), rng.integers(2)
        a = 1 + topic + N_TOPICS * rng.integers(0, N_A // N_TOPICS, rng.integers(2, 6))
        b = 1 + N_A + topic + N_TOPICS * rng.integers(0, 6, rng.integers(2, 6))
        lists.append([*a, *b] if target_b else [*b, *a])
    histories = Histories.from_lists([[int(i) for i in h] for h in lists], [f"u{i}" for i in range(160)])
    return Dataset(CATALOGUE, Histories.from_lists([], []), histories, histories)


def network(informed: bool) -> RecallNetwork:
    """Titles and item vectors that point to the item's topic, or anywhere; rows 2 and 47 are untitled."""
    rng = np.random.default_rng(2)
    topics = rng.normal(size=(N_TOPICS, HIDDEN))
    names, items = rng.normal(size=(2, N_ROWS, HIDDEN)) * 0.3
    if informed:
        names += topics[TOPIC]
        items += topics[TOPIC]
    names[[0, 2, 47]] = 0
    items[0] = 0
    poolers = rng.normal(size=(2, HIDDEN))
    return RecallNetwork(
        names.astype(np.float32), unit_rows(items).astype(np.float32), poolers.astype(np.float32)
    )


def networks(informed: bool) -> list[SourcedNetwork]:
    """Titles that tell the topic or nothing, companions that tell nothing."""
    titles = network(informed)
    return [
        SourcedNetwork("titles", titles),
        SourcedNetwork("companions", replace(titles, names=network(False).names)),
    ]


@pytest.fixture(scope="module")
def backend() -> MeanBackend:
    return MeanBackend(np.random.default_rng(3).normal(size=(N_ROWS, 8)).astype(np.float32))


@pytest.fixture(scope="module")
def trials(data: Dataset, backend: MeanBackend) -> tuple[PseudoTrials, PseudoTrials]:
    return choose_pseudo(backend, backend.table, data, networks(True), max_length=4)


def test_every_trial_is_what_evaluate_measures(
    data: Dataset, backend: MeanBackend, trials: tuple[PseudoTrials, PseudoTrials]
) -> None:
    for index, of_domain in enumerate(both.auto for both in trials):
        assert of_domain.domain == ("a", "b")[index]
        assert len({(str(t.setting), t.source) for t in of_domain.tried}) == len(of_domain.tried) == 74
        for trial in (of_domain.off, *of_domain.tried):
            choice = PseudoChoice(trial.setting, source=trial.source)
            (used,) = (n.network for n in networks(True) if n.source == trial.source)
            recaller = PseudoRecall(CATALOGUE, used, (choice, choice), 4)
            results = evaluate(
                backend, backend.table, data, split="valid", seed=5, groups=("cold",), pseudo=recaller
            )
            off, auto = (r for r in results if (r.protocol, r.domain) == ("sampled", of_domain.domain))
            assert (off.pseudo, auto.pseudo) == ("off", "auto")
            assert (off.hr10, off.ndcg10) == pytest.approx(of_domain.off.merit)
            assert (auto.hr10, auto.ndcg10) == pytest.approx(trial.merit)
            assert trial.gain == pytest.approx(auto.hr10 - off.hr10)
            assert auto.n_users == of_domain.n_users > 40


def test_the_standard_error_is_of_the_paired_difference(
    data: Dataset, backend: MeanBackend, trials: tuple[PseudoTrials, PseudoTrials]
) -> None:
    domain = CATALOGUE.domains[1]
    queries = Queries.from_split(data.valid).cold(CATALOGUE).into(domain)
    negatives = draw_negatives(queries.targets, domain, N_NEGATIVES, 5)
    off, _ = ranks(backend, backend.table, queries, domain, negatives)
    for trial in trials[1].auto.tried[:37:5]:
        choice = PseudoChoice(trial.setting)
        recaller = PseudoRecall(CATALOGUE, network(True), (choice, choice), 4)
        rank, _ = ranks(backend, backend.table, queries, domain, negatives, recaller)
        differences = [(r < 10) - (o < 10) for r, o in zip(rank.tolist(), off.tolist(), strict=True)]
        mean = sum(differences) / len(differences)
        variance = sum((d - mean) ** 2 for d in differences) / (len(differences) - 1)
        assert trial.standard_error == pytest.approx(math.sqrt(variance / len(differences)))


def test_titles_that_tell_the_topic_win(trials: tuple[PseudoTrials, PseudoTrials]) -> None:
    for both in trials:
        winner, choice = both.auto.winner, both.choice()
        assert winner is both.auto.shown
        assert (winner.setting.mode, winner.source, choice.source) == ("fuse", "titles", "titles")
        sure = max(trial.gain - 2 * trial.standard_error for trial in both.auto.tried)
        assert winner.gain - 2 * winner.standard_error == sure > 0
        assert winner.gain > 0.2
        assert choice.auto == winner.setting
        assert choice.names == both.names.shown.setting
        assert choice.validation["gain"] == winner.gain
        assert choice.validation["hr10_off"] + winner.gain == pytest.approx(choice.validation["hr10"])
        assert choice.validation["names"] == both.names.summary()


def test_names_are_the_items_that_were_taken_out(
    data: Dataset, backend: MeanBackend, trials: tuple[PseudoTrials, PseudoTrials]
) -> None:
    for domain, both in zip(CATALOGUE.domains, trials, strict=True):
        histories, targets, names = [], [], []
        for *before, target in (h.tolist() for h in data.valid):
            inside = [i for i in before if domain.start <= i < domain.stop]
            outside = [i for i in before if i not in inside]
            if domain.start <= target < domain.stop and inside and len(outside) >= 3:
                histories.append(np.array(outside))
                targets.append(target)
                names.append([CATALOGUE.ids[i - 1] for i in inside])
        assert both.names.n_users == len(targets) > 30
        negatives = draw_negatives(np.array(targets), domain, N_NEGATIVES, 5)
        for trial in both.names.tried[::4]:
            choice = PseudoChoice(names=trial.setting)
            recaller = PseudoRecall(CATALOGUE, network(True), (choice, choice), 4)
            found = []
            for i, items in enumerate(recaller.recall(histories, domain, names, rows_always=True)):
                assert items is not None
                user = backend.represent([items.sequence(histories[i], 4)])[0]
                rows = [targets[i], *negatives[i].tolist()]
                scores = backend.table[rows] @ user
                for n, row in enumerate(rows):
                    whole_domain = trial.setting.scope == "domain"
                    if trial.setting.mode == "fuse" and (whole_domain or row in items.rows):
                        scores[n] += trial.setting.weight * (items.direction @ network(True).items[row])
                found.append(sum(scores[1:] >= scores[0]))
            assert trial.hr10 == pytest.approx(sum(rank < 10 for rank in found) / len(found))


def test_titles_that_tell_nothing_are_mostly_off(data: Dataset) -> None:
    """The best of many settings is nearly always better than off by luck; the margin stops most of it."""
    lucky, taken = 0, 0
    for seed in range(12):
        backend = MeanBackend(np.random.default_rng(seed).normal(size=(N_ROWS, 8)).astype(np.float32))
        for both in choose_pseudo(backend, backend.table, data, networks(False)[:1], max_length=4):
            choice = both.choice()
            lucky += both.auto.best.gain > 0
            taken += choice.auto != PseudoSetting()
            assert choice.auto == both.auto.winner.setting
            assert choice.names == both.names.shown.setting
            assert choice.names.mode != "off"
    assert lucky > 16
    assert taken < 6


def trial(hr10: float, ndcg10: float, gain: float, error: float, k: int = 1) -> Trial:
    return Trial(PseudoSetting("insert", k), hr10, ndcg10, gain, error)


@pytest.mark.parametrize(
    ("gain", "error", "taken"),
    [(0.1, 0.049, True), (0.1, 0.051, False), (0.0, 0.0, False), (-0.1, 0.0, False), (0.1, math.inf, False)],
)
def test_a_gain_must_be_above_the_margin(gain: float, error: float, taken: bool) -> None:
    off = replace(trial(0.5, 0.3, 0.0, 0.0), setting=PseudoSetting())
    best = trial(0.5 + gain, 0.3, gain, error, 3)
    trials = Trials("a", 50, off, (trial(0.2, 0.9, -0.3, 0.1), best), 2.0)
    assert trials.winner is (best if taken else off)
    choice = PseudoTrials(trials, trials).choice()
    assert choice.auto == (best if taken else off).setting
    assert choice.names == best.setting
    assert choice.validation["setting"] == str(best.setting)


def test_the_surest_gain_wins_over_the_largest() -> None:
    off = replace(trial(0.5, 0.3, 0.0, 0.0), setting=PseudoSetting())
    tried = (trial(0.6, 0.3, 0.1, 0.04, 1), trial(0.58, 0.3, 0.08, 0.01, 3), trial(0.51, 0.3, 0.01, 0.0, 5))
    trials = Trials("a", 50, off, tried, 2.0)
    assert (trials.best.setting.k, trials.winner.setting.k, trials.shown.setting.k) == (1, 3, 3)
    assert trials.summary()["gain"] == 0.08
    assert Trials("a", 50, off, tried, 0.0).winner is tried[0]


@pytest.mark.parametrize("n_items", [2, 60, 1000, 1001, 1500, 30_000])
def test_expected_metrics_are_hypergeometric(n_items: int) -> None:
    rank = np.unique(np.linspace(0, n_items - 1, 50).astype(int))
    found = [
        measured_trial(ExpectedMetrics(n_items), PseudoSetting(), np.array([r]), np.array([0])) for r in rank
    ]
    for r, one in zip(rank.tolist(), found, strict=True):
        ahead = hypergeom(n_items - 1, r, min(999, n_items - 1))
        assert one.hr10 == pytest.approx(sum(ahead.pmf(j) for j in range(10)), abs=1e-9)
        gains = (ahead.pmf(j) / math.log2(j + 2) for j in range(10))
        assert one.ndcg10 == pytest.approx(sum(gains), abs=1e-9)


def test_expected_metrics_are_the_mean_over_draws() -> None:
    domain = Domain("d", 1, 2501)
    for rank in (3, 20, 40):
        hits = []
        for seed in range(400):
            negatives = draw_negatives(np.array([rank + 1]), domain, 999, seed)
            hits.append(int((negatives < rank + 1).sum()) < 10)  # the items ahead are rows 1..rank
        expected = measured_trial(
            ExpectedMetrics(2500), PseudoSetting(), np.array([rank]), np.array([rank])
        ).hr10
        assert np.mean(hits) == pytest.approx(expected, abs=4 * 0.5 / 20)


def test_ndcg_decides_between_equals_and_the_first_among_full_equals() -> None:
    off = replace(trial(0.5, 0.3, 0.0, 0.0), setting=PseudoSetting())
    tried = (trial(0.6, 0.3, 0.1, 0.0, 1), trial(0.6, 0.4, 0.1, 0.0, 3), trial(0.6, 0.4, 0.1, 0.0, 5))
    assert Trials("a", 50, off, tried).best.setting.k == 3


def test_without_cold_users_nothing_is_tried(data: Dataset, backend: MeanBackend) -> None:
    nobody = replace(data, valid=Histories.from_lists([[1, 2, 50]], ["u"]))
    for both in choose_pseudo(backend, backend.table, nobody, networks(True), max_length=4):
        for trials in (both.auto, both.names):
            assert (trials.n_users, trials.tried, trials.winner) == (0, (), trials.off)
        assert both.choice() == PseudoChoice(validation={"n_users": 0})
