"""The mix on worlds in which it is known what helps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.mix.experts import sparse_experts
from llmcdsr_lite.mix.mixture import Mixture
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.evaluation.measures import gains, measure
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import ModelScorer
from llmcdsr_tools.mix.counts import bundle_counts
from llmcdsr_tools.mix.learning import learn_weights, ranks, sure_gain
from llmcdsr_tools.mix.positions import Positions, collect
from llmcdsr_tools.mix.regression import fit_weights, log_loss
from llmcdsr_tools.mix.whole_mix import learn_mix
from llmcdsr_tools.next_item_counts import next_counts

N_A, N_B, HIDDEN = 60, 80, 6
IDS = [str(n) for n in range(N_A + N_B)]
CATALOGUE = Catalogue.from_sizes(IDS, [""] * (N_A + N_B), ("a", "b"), (N_A, N_B))


TABLE = np.random.default_rng(1).normal(size=(N_A + N_B + 1, HIDDEN)).astype(np.float32)


class Backend:
    """Representations that know a little: the vector of the item that comes next, and as much noise."""

    name = "noisy"

    def represent(self, histories: Any) -> Any:
        following = np.array([next_item(int(h[-1])) for h in histories])
        noise = np.random.default_rng(0).normal(size=TABLE.shape)[following]
        return (0.4 * TABLE[following] + 0.4 * noise).astype(np.float32)


def next_item(row: int) -> int:
    """The next one of its domain, the first after the last."""
    start, size = (1, N_A) if row <= N_A else (N_A + 1, N_B)
    return start + (row - start + 1) % size


def model() -> ModelScorer:
    return ModelScorer(Backend(), TABLE)


def chains(n: int, seed: int, *, repeats: float) -> list[list[int]]:
    """An item is followed by the next one of its domain, or, with that probability, by an earlier one."""
    rng = np.random.default_rng(seed)
    lists = []
    for _ in range(n):
        own = [int(rng.integers(1, N_A + N_B + 1))]
        while len(own) < 12:
            if rng.random() < repeats:
                own.append(own[rng.integers(len(own))])
            elif rng.random() < 0.2:
                own.append(int(rng.integers(1, N_A + N_B + 1)))
            else:
                own.append(next_item(own[-1]))
        lists.append(own)
    return lists


def world(repeats: float) -> Dataset:
    parts = [chains(n, seed, repeats=repeats) for seed, n in enumerate((300, 120, 120))]
    return Dataset(
        CATALOGUE,
        *(Histories.from_lists(p, [f"{s}{i}" for i in range(len(p))]) for s, p in enumerate(parts)),
    )


def positions_of(data: Dataset, index: int = 0) -> Positions:
    queries = Queries.of_data(data, "valid", "every").into(CATALOGUE.domains[index])
    return collect(model(), queries, index, CATALOGUE.domains, bundle_counts(data))


def test_bundle_counts_are_the_strongest_neighbours() -> None:
    data = world(0.2)
    whole = next_counts(data.train, N_A + N_B + 1).toarray()
    for n_neighbours in (3, 1000):
        found = bundle_counts(data, n_neighbours)
        assert found is not None
        for index, domain in enumerate(CATALOGUE.domains):
            for row in range(N_A + N_B + 1):
                begin, end = found.starts[index * 141 + row : index * 141 + row + 2]
                rows, weights = found.rows[begin:end], found.weights[begin:end]
                expected = whole[row, domain.start : domain.stop]
                assert len(rows) == min(n_neighbours, np.count_nonzero(expected))
                assert rows.tolist() == sorted(rows.tolist())
                np.testing.assert_allclose(weights, expected[rows - domain.start], rtol=1e-6)
                assert sorted(weights) == pytest.approx(
                    sorted(expected)[len(expected) - len(rows) :], rel=1e-6
                )


def test_counts_of_nothing() -> None:
    alone = Histories.from_lists([[1], [2]], ["u", "v"])
    assert bundle_counts(Dataset(CATALOGUE, alone, alone, alone)) is None


def test_candidates_hold_what_decides_about_the_first_ten() -> None:
    """Ranks from candidates are those of all items, as far as they are below ten."""
    data = world(0.2)
    counts = bundle_counts(data)
    for index, domain in enumerate(CATALOGUE.domains):
        queries = Queries.of_data(data, "valid", "every").into(domain)
        positions = collect(model(), queries, index, CATALOGUE.domains, counts)
        for weights in (np.zeros(6), np.array([1.0, 0.5, 0.2, 0, 0, 0])):
            for exclude_seen in (False, True):
                found = ranks(positions, weights, exclude_seen=exclude_seen)
                scores = model().scores(queries.histories, domain)
                for i, (history, target) in enumerate(zip(queries.histories, queries.targets, strict=True)):
                    rows, values = sparse_experts(history.astype(np.int64), index, CATALOGUE.domains, counts)
                    total = scores[i].copy()
                    total[rows - domain.start] += values @ weights[:3].astype(np.float32)
                    column = target - domain.start
                    ahead = total >= total[column]
                    if exclude_seen:
                        ahead[[r - domain.start for r in history if domain.start <= r < domain.stop]] = False
                        if target in history:
                            assert found[i] >= 10
                            continue
                    ahead[column] = False
                    assert min(found[i], 10) == min(ahead.sum(), 10)


def test_the_likelihood_and_its_gradient() -> None:
    positions = positions_of(world(0.2))
    features = np.concatenate([positions.scores[:, None], positions.values], axis=1).astype(np.float64)
    point = np.array([0.7, 0.4, 0.3, 0.9, 0.2, 0.1, 0.0])
    loss, gradient = log_loss(point, positions, features)
    expected = 0.0
    for i in range(len(positions)):
        part = slice(positions.starts[i], positions.starts[i + 1])
        logits = features[part] @ point
        total = sum(math.exp(x + w) for x, w in zip(logits, positions.log_weights[part], strict=True))
        expected += math.log(total) - float(logits[positions.is_target[part]][0])
    assert loss == pytest.approx(expected / len(positions) + 1e-4 / 2 * float(point @ point))
    for n in range(4):
        step = np.eye(7)[n] * 1e-5
        above, below = (log_loss(point + s, positions, features)[0] for s in (step, -step))
        numerical = (above - below) / 2e-5
        assert gradient[n] == pytest.approx(numerical, rel=1e-5, abs=1e-8)


def test_weights_are_found_again() -> None:
    """Targets drawn from a softmax with known weights."""
    positions = positions_of(world(0.2))
    rng = np.random.default_rng(0)
    truth = np.array([1.2, 0.8, 0.0, 0.0, 0.0, 0.0])
    logits = positions.scores + positions.values @ truth.astype(np.float32)
    is_target = np.zeros(len(logits), dtype=bool)
    for first, last in zip(positions.starts[:-1], positions.starts[1:], strict=True):
        p = np.exp(logits[first:last] - logits[first:last].max())
        is_target[first + rng.choice(last - first, p=p / p.sum())] = True
    drawn = replace(positions, is_target=is_target, log_weights=np.zeros_like(positions.log_weights))
    np.testing.assert_allclose(fit_weights(drawn, [0, 1]), truth[:2], atol=0.25)


def test_what_helps_is_taken_and_what_does_not_is_left() -> None:
    learned = learn_weights(positions_of(world(0.0)))
    assert learned.weights.next > 0.5
    assert learned.gain > 0.2
    assert learned.ndcg10 == pytest.approx(learned.ndcg10_model + learned.gain)
    positions = positions_of(world(0.0))
    shuffled = np.random.default_rng(0).permutation(len(positions.values))
    noise = learn_weights(replace(positions, values=positions.values[shuffled]))
    assert noise.weights == ExpertWeights()
    assert noise.gain == 0


def test_a_gain_must_be_sure_for_positions_and_for_users() -> None:
    # ten users of 100 positions each gain, 200 users of one position each lose
    users = np.concatenate([np.repeat(np.arange(10), 100), np.arange(10, 210)])
    noise = np.random.default_rng(3).normal(0, 0.01, len(users))
    differences = np.where(users < 10, 0.1, -0.1) + noise
    assert differences.mean() > 0.06
    assert sure_gain(differences, users) == pytest.approx((10 * 0.1 - 200 * 0.1) / 210, abs=0.01)
    assert sure_gain(-differences, users) < -0.06
    assert sure_gain(0.1 + noise, users) == pytest.approx(0.1, abs=0.01)


def test_few_users_teach_nothing() -> None:
    positions = positions_of(world(0.0))
    few = positions.take(np.flatnonzero(positions.users < 20))
    assert learn_weights(few).weights == ExpertWeights()


@pytest.mark.parametrize(("repeats", "left_out"), [(0.0, True), (0.6, False)])
def test_seen_items_are_left_out_where_nobody_buys_again(repeats: float, left_out: bool) -> None:
    data = world(repeats)
    counts = bundle_counts(data)
    mixes = learn_mix(model(), data, counts)
    for mix in mixes:
        assert mix.exclude_seen == left_out
        assert mix.warm != ExpertWeights()
        if repeats:
            assert mix.validation["seen"]["repeats"] > 0.3


@pytest.mark.parametrize(
    ("repeats", "n_users", "left_out"), [(0.6, 20, False), (0.6, 9, True), (0.0, 20, True)]
)
def test_few_users_tell_whether_people_buy_again(repeats: float, n_users: int, left_out: bool) -> None:
    data = world(repeats)
    few = Histories.from_lists([data.valid[u].tolist() for u in range(n_users)], data.valid.users[:n_users])
    for mix in learn_mix(model(), replace(data, valid=few), bundle_counts(data)):
        assert mix.exclude_seen == left_out
        assert mix.warm == ExpertWeights()


class Biased:
    """The scores of later domains are all higher, though next items are mostly of the last one's domain."""

    name = "biased"

    def scores(self, histories: Any, domain: Any) -> Any:
        return model().scores(histories, domain) + (5.0 if domain.start > 1 else 0.0)


def test_offsets_make_domains_comparable() -> None:
    data = world(0.0)
    first, second = learn_mix(Biased(), data, bundle_counts(data))
    assert second.offset + second.offset_last < first.offset_last + 5
    measured = first.validation["several_domains"]
    assert measured["ndcg10_after"] > measured["ndcg10_before"] + 3 * measured["standard_error"]
    assert DomainMix().offset == 0


def test_the_mix_of_three_domains_is_what_it_says() -> None:
    """What is measured with offsets from candidates is what ranking all items gives."""
    catalogue = Catalogue.from_sizes(IDS, [""] * len(IDS), "abc", (N_A, 30, N_B - 30))
    data = replace(world(0.1), catalogue=catalogue)
    counts = bundle_counts(data)
    mixes = learn_mix(Biased(), data, counts)
    assert len(mixes) == 3
    assert all(mix.warm.next > 0 for mix in mixes)
    assert mixes[0].offset == 0
    mixture = Mixture(catalogue, mixes, counts)
    queries = Queries.of_data(data, "valid", "every")
    popular = np.log1p(np.bincount(data.train.rows, minlength=N_A + N_B + 1))
    ranked = []
    for history, target in zip(queries.histories, queries.targets, strict=True):
        scores = np.concatenate([Biased().scores([history], d)[0] for d in catalogue.domains])
        bonus = mixture.bonus(history, 1, N_A + N_B + 1)
        assert bonus is not None
        bonus.add(scores, 1, N_A + N_B + 1)
        for domain, weight in mixture.popular(history, 1, N_A + N_B + 1).items():
            scores[domain.start - 1 : domain.stop - 1] += weight * popular[domain.start : domain.stop]
        ranked.append(int((scores >= scores[target - 1]).sum()) - 1)
    measured = mixes[1].validation["several_domains"]
    assert gains(np.array(ranked)).mean() == pytest.approx(measured["ndcg10_after"], abs=1e-6)
    assert measured["ndcg10_after"] > measured["ndcg10_before"] + 3 * measured["standard_error"]


def test_the_gain_holds_on_test() -> None:
    """What is claimed on validation is met by users that nothing was chosen on."""
    data = world(0.1)
    counts = bundle_counts(data)
    positions = positions_of(data)
    learned = learn_weights(positions)
    domain = CATALOGUE.domains[0]
    queries = Queries.of_data(data, "test", "every").into(domain)
    test = collect(model(), queries, 0, CATALOGUE.domains, counts)
    gain = gains(ranks(test, np.array(learned.weights.values))) - gains(ranks(test, np.zeros(6)))
    assert gain.mean() == pytest.approx(learned.gain, abs=5 * learned.standard_error)
    alone = measure([model()], data, "test", "every").find("model", "all", "a")
    assert alone is not None
    assert gains(ranks(test, np.zeros(6))).mean() == pytest.approx(alone.ndcg10)
