"""Queries, ranks, measures, baselines and differences against loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.errors import UsageError
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.evaluation.baselines import baselines
from llmcdsr_tools.evaluation.comparison import compare, difference, verdicts
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.measures import Measure, gains, measure, rank, standard_error
from llmcdsr_tools.evaluation.model_evaluation import BASELINES, evaluate
from llmcdsr_tools.evaluation.queries import Queries, seen_lengths
from llmcdsr_tools.evaluation.table import format_differences, format_measures, format_repeats
from llmcdsr_tools.train.training_run import TrainResult

N_A, N_B = 14, 23
CATALOGUE = Catalogue.from_sizes(
    [str(i) for i in range(N_A + N_B)], [""] * (N_A + N_B), ("a", "b"), (N_A, N_B)
)
A, B = CATALOGUE.domains


@dataclass(frozen=True)
class Table:
    """Scores that depend on the last item of the history: a table (items + 1, items + 1)."""

    table: Any
    name: str = "table"

    def scores(self, histories: Sequence[Any], domain: Domain) -> Any:
        return np.stack([self.table[h[-1]] for h in histories])[:, domain.start : domain.stop].copy()


def some_table(seed: int, *, ties: bool = False) -> Table:
    rng = np.random.default_rng(seed)
    shape = (N_A + N_B + 1,) * 2
    return Table(rng.integers(0, 4, shape).astype(float) if ties else rng.normal(size=shape), f"table {seed}")


def histories(n: int, seed: int, longest: int = 12) -> Histories:
    rng = np.random.default_rng(seed)
    lists = [rng.integers(1, N_A + N_B + 1, rng.integers(2, longest)).tolist() for _ in range(n)]
    return Histories.from_lists(lists, [f"{seed}-{i}" for i in range(n)])


def world(train: int = 40, held_out: int = 60) -> Dataset:
    return Dataset(CATALOGUE, histories(train, 1), histories(held_out, 2), histories(held_out, 3))


def brute_rank(scores: Any, target: int, candidates: list[int]) -> int:
    return sum(not scores[i] < scores[target] for i in candidates if i != target)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("positions", ["last", "every"])
def test_measures_are_those_of_a_loop(ties: bool, positions: Any) -> None:
    data, scorer = world(), some_table(5, ties=ties)
    found = measure([scorer], data, "test", positions)
    counts = np.bincount(data.train.rows, minlength=N_A + N_B + 1)
    for domain in (A, B):
        items = list(range(domain.start, domain.stop))
        queries = []
        for user, history in enumerate(h.tolist() for h in data.test):
            places = range(1, len(history)) if positions == "every" else [len(history) - 1]
            queries += [(user, history[:p], history[p]) for p in places if history[p] in items]
        ranks = [brute_rank(scorer.table[h[-1]], t, items) for _, h, t in queries]
        unseen = [
            99 if t in h else brute_rank(scorer.table[h[-1]], t, [i for i in items if i not in h])
            for _, h, t in queries
        ]
        one = found.find(scorer.name, "all", domain.name)
        assert one is not None
        assert (one.n_targets, one.n_users) == (len(queries), len({u for u, _, _ in queries}))
        n = len(queries)
        gain = [1 / math.log2(r + 2) if r < 10 else 0.0 for r in ranks]
        assert one.hr10 == pytest.approx(sum(r < 10 for r in ranks) / n)
        assert one.ndcg10 == pytest.approx(sum(gain) / n)
        assert one.mrr == pytest.approx(sum(1 / (r + 1) for r in ranks) / n)
        assert one.hr10_unseen == pytest.approx(sum(r < 10 for r in unseen) / n)
        assert one.expected_hr10_unseen == pytest.approx(one.hr10_unseen)
        assert one.repeats == pytest.approx(sum(t in h for _, h, t in queries) / n)
        assert one.expected_hr10 == pytest.approx(one.hr10)  # fewer than 999 others: all are drawn
        deviations = [(u, g - one.ndcg10) for g, (u, _, _) in zip(gain, queries, strict=True)]
        by_user = [sum(d for v, d in deviations if v == u) for u in range(60)]
        by_user = [d for u, d in enumerate(by_user) if any(q[0] == u for q in queries)]
        factor = len(by_user) / (len(by_user) - 1)
        assert one.ndcg10_error == pytest.approx(math.sqrt(factor * sum(d * d for d in by_user)) / n)
        if not ties:
            top = [sorted(items, key=lambda i, h=h: -scorer.table[h[-1]][i])[:10] for _, h, _ in queries]
            assert one.coverage == pytest.approx(len({i for row in top for i in row}) / len(items))
            order = sorted(items, key=lambda i: (counts[i], i))
            percentile = [order.index(i) / (len(items) - 1) for row in top for i in row]
            assert one.popularity == pytest.approx(sum(percentile) / len(percentile))
        parts = [m for m in found.measures if m.domain == domain.name and m.group not in ("all", "cold")]
        own = [any(i in items for i in h) for _, h, _ in queries]
        with_items = found.find(scorer.name, "with items", domain.name)
        assert with_items is not None
        assert with_items.n_targets == sum(own)
        lengths = [m for m in parts if m.group[0].isdigit()]
        assert sum(m.n_targets for m in lengths) == n


def test_cold_queries_are_those_of_the_same_positions() -> None:
    data = world()
    found = measure([some_table(1)], data, "test", "every")
    n = 0
    for history in (h.tolist() for h in data.test):
        for place in range(1, len(history)):
            target = history[place]
            n += target > N_A and sum(i <= N_A for i in history[:place]) >= 3
    cold = found.find("table 1", "cold", "b")
    assert cold is not None
    assert cold.n_targets == n > 10
    assert cold.repeats == 0


def test_what_training_has_seen_is_no_target() -> None:
    """Leave one out: histories of a later split begin with those of an earlier one."""
    full = [[1, 2, 3, 20, 5], [30, 2, 31, 4], [7, 8]]
    ids = ["u", "v", "w"]
    train = Histories.from_lists([h[:-2] for h in full[:2]], ids[:2])
    valid = Histories.from_lists([h[:-1] for h in full[:2]], ids[:2])
    test = Histories.from_lists([*full[:2], full[2]], ids)
    data = Dataset(CATALOGUE, train, valid, test)
    assert seen_lengths(data, "valid").tolist() == [3, 2]
    assert seen_lengths(data, "test").tolist() == [4, 3, 0]
    assert Queries.of_data(data, "valid", "every").targets.tolist() == [20, 31]
    assert Queries.of_data(data, "test", "every").targets.tolist() == [5, 4, 8]
    # a user of the same id with another history is another one
    other = replace(data, train=Histories.from_lists([[9, 9], [30, 2]], ids[:2]))
    assert seen_lengths(other, "valid").tolist() == [0, 2]
    assert Queries.of_data(other, "valid", "every").targets.tolist() == [2, 3, 20, 31]


def test_a_sample_has_whole_users() -> None:
    queries = Queries.of_data(world(), "test", "every")
    some = queries.sample(100, 3)
    assert 50 < len(some) <= 100
    for user in set(some.user_of.tolist()):
        assert np.count_nonzero(some.user_of == user) == np.count_nonzero(queries.user_of == user)
    assert queries.sample(10**6) is queries


def test_expected_metrics_are_hypergeometric() -> None:
    metrics = ExpectedMetrics(2500)
    for ahead in (0, 3, 10, 24, 100, 2499):
        drawn = hypergeom(2499, ahead, 999)
        places = drawn.pmf(np.arange(10))
        assert metrics.hits(np.array([ahead]))[0] == pytest.approx(places.sum(), abs=1e-9)
        expected = (places / np.log2(np.arange(10) + 2)).sum()
        assert metrics.gains(np.array([ahead]))[0] == pytest.approx(expected, abs=1e-9)
    assert metrics.hits(np.array([2500, 10**9])).tolist() == [0, 0]  # out of reach


def by_loops(data: Dataset, name: str, history: list[int], item: int) -> float:
    lists = [h.tolist() for h in data.train]
    popularity = [sum(h.count(i) for h in lists) for i in range(N_A + N_B + 1)]
    newest = history[::-1]
    if name == "popularity":
        return popularity[item]
    if name == "repeat+pop":
        return history.count(item) + popularity[item] / (max(popularity) + 1)
    total = 0.0
    for age, j in enumerate(newest[:20]):
        if name == "next5":
            n = sum(
                h[p] == j and h[q] == item
                for h in lists
                for p in range(len(h))
                for q in range(p + 1, min(p + 6, len(h)))
            )
            total += 0.8**age * n / math.sqrt(max(popularity[j], 1) * max(popularity[item], 1))
        else:
            both = sum(j in h and item in h for h in lists)
            one, other = sum(j in h for h in lists), sum(item in h for h in lists)
            total += 0.8**age * both / math.sqrt(max(one, 1) * max(other, 1))
    return total


def test_baselines_are_their_formulas() -> None:
    data = world(train=25)
    long = np.array([1, 2, 30, 4, 5, 1, 1, 2, 20] * 3)
    asked = [long, np.array([3]), np.array([31, 4, 31])]
    found = baselines(data)
    assert tuple(b.name for b in found) == BASELINES
    for baseline in found:
        for domain in (A, B):
            scores = baseline.scores(asked, domain)
            assert scores.shape == (3, domain.n_items)
            for i, history in enumerate(asked):
                expected = [
                    by_loops(data, baseline.name, history.tolist(), item)
                    for item in range(domain.start, domain.stop)
                ]
                np.testing.assert_allclose(scores[i], expected, rtol=1e-5, atol=1e-7)


def test_paired_differences() -> None:
    data = world(held_out=200)
    good, bad = some_table(1), some_table(2)
    found = measure([good, bad], data, "test", "every")
    for one in compare(found, good.name, bad.name):
        first, second = (found.ranked[name, one.group, one.domain] for name in (good.name, bad.name))
        per_target = gains(first.rank) - gains(second.rank)
        assert one.ndcg10 == pytest.approx(per_target.mean())
        assert one.ndcg10_error == pytest.approx(standard_error(per_target, first.users))
        low, high = one.interval
        assert low < one.ndcg10 < high
        assert one.is_above == (one.ndcg10 > 2 * one.ndcg10_error)
    same = difference(first, first, ("x", "x"), "all", "a")
    assert (same.ndcg10, same.ndcg10_error, same.is_above) == (0, 0, False)
    assert "surely" in format_differences(compare(found, good.name, bad.name)) or compare(
        found, good.name, bad.name
    )


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-3, 3)), min_size=1, max_size=30))
@settings(max_examples=50)
def test_standard_errors_are_clustered(values: list[tuple[int, float]]) -> None:
    users, numbers = np.array([u for u, _ in values]), np.array([x for _, x in values])
    sums = [sum(x - numbers.mean() for v, x in values if v == u) for u in sorted(set(users.tolist()))]
    found = standard_error(numbers, users)
    if len(sums) < 2:
        assert math.isinf(found)
    else:
        factor = len(sums) / (len(sums) - 1)
        expected = math.sqrt(factor * sum(s * s for s in sums)) / len(numbers)
        assert found == pytest.approx(expected, abs=1e-12)


def test_a_model_below_the_baselines_is_told_so() -> None:
    """Everything is followed by the item after it: counting sees that, a random table does not."""
    lists = [[(start + i) % 30 + 1 for i in range(8)] for start in range(30)] * 3
    ids = [str(n) for n in range(len(lists))]
    data = Dataset(CATALOGUE, *(Histories.from_lists(lists, [s + i for i in ids]) for s in "abc"))
    model = replace(some_table(0), name="model")
    found = measure([model, *baselines(data)], data, "test", "every")
    for said in verdicts(found, "model", BASELINES):
        assert "model is NOT surely above the best baseline, next5" in said
    best = replace(model, table=np.eye(N_A + N_B + 1, k=1), name="model")
    found = measure([best, *baselines(data)], data, "test", "every")
    assert all("next5" in said or "item cosine" in said for said in verdicts(found, "model", BASELINES))
    assert format_repeats(found.measures) == "targets that are in the history: a 0.0%, b 0.0%"


def test_a_table_of_measures() -> None:
    one = Measure("model", "all", "kitchen", 7, 6, *[0.1 * n for n in range(1, 12)], math.nan, 0.5)
    head, line = format_measures([one]).splitlines()
    assert head.split()[:5] == ["domain", "users", "n", "scorer", "HR@10"]
    assert line.split()[:6] == ["kitchen", "all", "7", "model", "0.1000", "0.2000"]
    assert line.split()[-2:] == ["-", "0.5000"]
    assert format_measures([replace(one, group="1-4 items")]).count("\n") == 0
    assert format_measures([replace(one, group="1-4 items")], every_group=True).count("\n") == 1


def test_ranks_and_near_ties() -> None:
    """A product may round equal sums in two ways: what is as good as equal counts against the scorer."""
    table = np.zeros((N_A + N_B + 1,) * 2)
    table[1] = 1.0
    table[1, 3] = 1.0 - 1e-7
    table[1, 4] = 0.9
    queries = Queries([np.array([1])], np.array([2]))
    found = rank(Table(table), queries, A)
    assert found.rank.tolist() == [N_A - 2]
    assert found.rank_unseen.tolist() == [N_A - 3]


def test_models_are_measured_by_name(small_world: Any, small_run: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected folders of different names"):
        evaluate([small_run.run, small_run.run], small_world.folder)
    found = evaluate([small_run.run], small_world.folder, "valid")
    assert found.positions == "every"
    assert evaluate([small_run.run], small_world.folder).positions == "last"
    kept = small_run.epochs[small_run.best_epoch - 1]
    for domain, ndcg10, hr10 in zip(("food", "tools"), kept.ndcg10, kept.hr10, strict=True):
        one = found.find("model", "all", domain)
        assert one is not None
        assert (one.ndcg10, one.hr10) == pytest.approx((ndcg10, hr10))
