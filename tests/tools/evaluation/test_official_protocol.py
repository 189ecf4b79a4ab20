"""Ranks and metrics against a loop over users and items."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcdsr_lite import Recommender
from llmcdsr_lite.bundle.folder import Bundle, read_bundle
from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.errors import DataError, TrainingError, UsageError
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.backends import NumpyBackend, OnnxBackend
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.data.dataset_folder import load_dataset, save_dataset
from llmcdsr_tools.evaluation.official import (
    CUTOFFS,
    Result,
    draw_negatives,
    evaluate,
    format_results,
    open_answers,
    open_model,
    ranked_among,
    ranks,
)
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.train.training_run import TrainResult, train

N_A, N_B = 40, 60
CATALOGUE = Catalogue.from_sizes(
    [str(i) for i in range(N_A + N_B)], [""] * (N_A + N_B), ("a", "b"), (N_A, N_B)
)
Array = npt.NDArray[np.float64]


@dataclass
class MeanBackend:
    """A user is the mean of the items; nothing is cut off."""

    table: Array
    name: str = "mean"

    def represent(self, histories: Any) -> Array:
        return np.array([self.table[h].mean(axis=0) for h in histories]).reshape(-1, self.table.shape[1])


def integer_table(seed: int = 0) -> Array:
    """Small integers: many scores are equal."""
    return np.random.default_rng(seed).integers(-1, 2, (N_A + N_B + 1, 2)).astype(np.float64)


def some_histories(n: int, seed: int = 0, longest: int = 9) -> Histories:
    rng = np.random.default_rng(seed)
    lists = [rng.integers(1, N_A + N_B + 1, rng.integers(0, longest)).tolist() for _ in range(n)]
    return Histories.from_lists(lists, [f"u{i}" for i in range(n)])


def world(histories: Histories) -> Dataset:
    empty = Histories.from_lists([], [])
    return Dataset(CATALOGUE, empty, histories, histories)


def brute_rank(score: Callable[[int], float], target: int, others: list[int]) -> int:
    """How many others are not certainly below the target."""
    rank = 0
    for other in others:
        below = score(other) < score(target)
        rank += not below
    return rank


def brute_metrics(found: list[int]) -> tuple[list[float], list[float]]:
    hr = [sum(r < k for r in found) / len(found) for k in CUTOFFS]
    ndcg = [sum(1 / math.log2(r + 2) for r in found if r < k) / len(found) for k in CUTOFFS]
    return hr, ndcg


@pytest.mark.parametrize("with_nan", [False, True])
def test_results_are_those_of_a_loop(with_nan: bool) -> None:
    table = integer_table()
    if with_nan:
        table[[3, 50, 77]] = np.nan
    data = world(some_histories(600))  # more than one chunk
    results = evaluate(MeanBackend(table), table, data, n_negatives=25, seed=4)
    assert [(r.group, r.domain, r.protocol) for r in results] == [
        (group, domain, protocol)
        for group in ("all", "cold")
        for domain in ("a", "b")
        for protocol in ("sampled", "full")
    ]
    for result in results:
        domain = CATALOGUE.domain(result.domain)
        items = range(domain.start, domain.stop)
        queries = []
        for history in data.test:
            *before, target = history.tolist() or [0]
            if target not in items:
                continue
            if result.group == "cold":
                before = [row for row in before if row not in items]
            if len(before) >= (3 if result.group == "cold" else 1):
                queries.append((before, target))
        targets = np.array([t for _, t in queries])
        negatives = draw_negatives(targets, domain, 25, 4).tolist()
        found = []
        for (before, target), sampled in zip(queries, negatives, strict=True):
            user = np.mean([table[row] for row in before], axis=0)
            others = sampled if result.protocol == "sampled" else [i for i in items if i != target]
            found.append(brute_rank(lambda row, user=user: float(user @ table[row]), target, others))
        hr, ndcg = brute_metrics(found)
        assert result.n_users == len(found) > 50
        assert result.hr == pytest.approx(hr)
        assert result.ndcg == pytest.approx(ndcg)
        assert result.hr10 == result.hr[3]
        assert result.ndcg10 == result.ndcg[3]


def test_ties_and_nan_count_against_the_model() -> None:
    domain = Domain("a", 1, 5)
    queries = Queries([np.array([1])], np.array([2]))
    negatives = np.array([[1, 3]])

    def both(*scores: float) -> tuple[int, int]:
        table = np.array([[0.0], *([s] for s in scores)])
        backend = MeanBackend(np.ones_like(table))
        sampled, full = ranks(backend, table, queries, domain, negatives)
        return int(sampled[0]), int(full[0])

    assert both(1, 5, 2, 3) == (0, 0)
    assert both(9, 5, 2, 9) == (1, 2)
    assert both(5, 5, 2, 5) == (1, 2)  # two ties
    assert both(5, 5, 5, 5) == (2, 3)  # a constant model is the worst there is
    assert both(math.nan, 5, 2, 3) == (1, 1)
    assert both(1, math.nan, 2, 3) == (2, 3)


@pytest.mark.parametrize("n_items", [2, 7, 37, 99])
@pytest.mark.parametrize("n_users", [1, 3, 300])
def test_ties_are_not_broken_by_rounding(n_items: int, n_users: int) -> None:
    """A product rounds the same sum in more than one way, by where in it an item stands."""
    rng = np.random.default_rng(0)
    hidden = 64
    users = rng.normal(size=(n_users, hidden)).astype(np.float32)
    users[:, 3] = rng.choice([-1, 1], n_users)
    table = np.tile(rng.normal(size=hidden).astype(np.float32), (n_items + 1, 1))

    class Users:
        name = "users"
        n_given = 0

        def represent(self, histories: Any) -> Any:
            self.n_given += len(histories)
            return users[self.n_given - len(histories) : self.n_given]

    domain = Domain("a", 1, n_items + 1)
    targets = rng.integers(1, n_items + 1, n_users)
    targets[0] = n_items
    queries = Queries([np.array([1])] * n_users, targets)
    negatives = draw_negatives(targets, domain, 5, 0)
    sampled, full = ranks(Users(), table, queries, domain, negatives)
    assert set(sampled) == {min(5, n_items - 1)}
    assert set(full) == {n_items - 1}
    table[1:, 3] += np.arange(n_items, dtype=np.float32) / 10  # no ties any more
    _, full = ranks(Users(), table, queries, domain, negatives)
    exact = users.astype(np.float64) @ table[1:].T.astype(np.float64)
    expected = (exact >= np.take_along_axis(exact, targets[:, None] - 1, axis=1)).sum(axis=1) - 1
    assert full.tolist() == expected.tolist()


def test_a_perfect_and_a_hopeless_model() -> None:
    """The first target is ranked first of all, the second last."""
    table = np.array([[0.0], [1.0], *([-float(i)] for i in range(N_A + N_B - 1))])
    histories = Histories.from_lists([[5, 1], [5, N_A]], ["u", "v"])
    backend = MeanBackend(np.ones_like(table))
    (result,) = [
        r
        for r in evaluate(backend, table, world(histories), groups=("all",))
        if (r.protocol, r.domain) == ("full", "a")
    ]
    assert result.hr == (0.5, 0.5, 0.5, 0.5)
    assert result.ndcg == (0.5, 0.5, 0.5, 0.5)


def test_no_users_no_metrics() -> None:
    table = integer_table()
    results = evaluate(MeanBackend(table), table, world(Histories.from_lists([[1, 2], [3]], ["u", "v"])))
    by = {(r.group, r.domain, r.protocol): r for r in results}
    assert by["all", "a", "full"].n_users == 1
    assert by["all", "b", "full"].n_users == by["cold", "a", "sampled"].n_users == 0
    assert all(math.isnan(v) for v in (*by["all", "b", "full"].hr, *by["all", "b", "full"].ndcg))


def test_cold_queries_by_hand() -> None:
    a, b = [1, 2, 3, 4], [41, 42, 43, 44]
    histories = [
        [*b[:3], 1],  # three of the other domain: kept whole
        [b[0], a[1], b[1], b[2], 1],  # without a[1]
        [*b[:2], *a, 1],  # two of the other domain: left out
        [*a, b[0], a[1], 42],  # a, then a[1]
        [*a, 4],  # nothing of the other domain
    ]
    queries = Queries.from_split(Histories.from_lists(histories, list("pqrst"))).cold(CATALOGUE)
    assert [h.tolist() for h in queries.histories] == [b[:3], b[:3], [*a, a[1]]]
    assert queries.targets.tolist() == [1, 1, 42]
    into_b = queries.into(CATALOGUE.domains[1])
    assert [h.tolist() for h in into_b.histories] == [[*a, a[1]]]
    assert into_b.targets.tolist() == [42]


@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 15), st.integers(0, 5), st.data())
@settings(max_examples=60)
def test_negatives_are_distinct_others_of_the_domain(
    n_items: int, start: int, n_negatives: int, seed: int, data: st.DataObject
) -> None:
    domain = Domain("d", start, start + n_items)
    targets = data.draw(st.lists(st.integers(start, start + n_items - 1), max_size=5))
    found = draw_negatives(np.array(targets, dtype=np.int64), domain, n_negatives, seed)
    assert found.shape == (len(targets), min(n_negatives, n_items - 1))
    for target, row in zip(targets, found.tolist(), strict=True):
        assert len(set(row)) == len(row)
        assert set(row) <= set(range(domain.start, domain.stop)) - {target}
    again = draw_negatives(np.array(targets, dtype=np.int64), domain, n_negatives, seed)
    assert np.array_equal(found, again)


def test_negatives_are_uniform_and_seeded() -> None:
    domain = Domain("d", 11, 21)
    targets = np.full(9000, 14)
    found = draw_negatives(targets, domain, 3, 0)
    counts = np.bincount(found.ravel(), minlength=21)[11:]
    assert counts[3] == 0
    assert np.delete(counts, 3) == pytest.approx(3000, rel=0.08)
    assert not np.array_equal(found, draw_negatives(targets, domain, 3, 1))
    assert not np.array_equal(found[0], found[1])


def test_a_domain_below_a_thousand_items_is_ranked_as_a_whole() -> None:
    table = integer_table(3)
    results = evaluate(MeanBackend(table), table, world(some_histories(100)))
    for sampled, full in zip(results[::2], results[1::2], strict=True):
        assert (sampled.protocol, full.protocol) == ("sampled", "full")
        assert (sampled.hr, sampled.ndcg) == (full.hr, full.ndcg)
        n_items = {"a": N_A, "b": N_B}[full.domain]
        assert sampled.n_negatives == full.n_negatives == n_items - 1
        assert sampled.n_items == n_items
        assert sampled.ranked_among == f"all {n_items - 1} others"
    _, first, second, *_ = format_results(results).splitlines()
    assert first.startswith("all 39 others   all ")
    assert second.startswith("whole domain    all ")


def test_the_number_of_negatives_is_told() -> None:
    table = integer_table(3)
    results = evaluate(MeanBackend(table), table, world(some_histories(100)), n_negatives=25)
    assert [(r.n_negatives, r.ranked_among) for r in results[:2]] == [
        (25, "25 negatives"),
        (39, "whole domain"),
    ]
    assert ranked_among(999, 1001) == "999 negatives"
    assert ranked_among(999, 1000) == "all 999 others"


def test_a_large_domain_has_999_negatives() -> None:
    found = draw_negatives(np.array([1, 1500]), Domain("d", 1, 2001), 999, 0)
    assert found.shape == (2, 999)


def test_the_readable_table_has_the_numbers() -> None:
    result = Result("full", "cold", "kitchen", 7, 59, 60, (0.1, 0.2, 0.3, 0.4), (0.05, 0.06, 0.07, 0.08))
    head, line = format_results([result]).splitlines()
    assert head.split()[-8:] == [f"{m}@{k}" for m in ("HR", "NDCG") for k in CUTOFFS]
    assert line == (
        "whole domain    cold cross-domain  kitchen            7  0.1000  0.2000  0.3000  0.4000"
        "   0.0500   0.0600   0.0700   0.0800"
    )


def test_a_run_is_opened(small_world: Any, small_run: TrainResult, tmp_path: Path) -> None:
    backend, table = open_model(small_run.run, small_world.data)
    assert isinstance(backend, NumpyBackend)
    results = evaluate(backend, table, small_world.data, split="valid", groups=("all",))
    settings = replace(small_world.settings, criterion="sampled-hr", n_epochs=2)
    sampled = train(small_world.folder, tmp_path / "run", settings)
    backend, table = open_model(sampled.run, small_world.data)
    results = evaluate(backend, table, small_world.data, split="valid", groups=("all",))
    best = sampled.epochs[sampled.best_epoch - 1]
    assert [r.hr10 for r in results if r.protocol == "sampled"] == list(best.hr10)
    assert [r.ndcg10 for r in results if r.protocol == "sampled"] == list(best.ndcg10)


def test_a_bundle_is_opened(bundle_data: Bundle, bundle_folder: Path) -> None:
    histories = Histories.from_lists([[1, 2, 3], [20, 21, 4, 22]], ["u", "v"])
    data = Dataset(bundle_data.catalogue, histories, histories, histories)
    backend, table = open_model(bundle_folder, data)
    assert isinstance(backend, OnnxBackend)
    ours = evaluate(NumpyBackend(bundle_data.parameters), bundle_data.item_vectors, data)
    assert repr(evaluate(backend, table, data)) == repr(ours)  # repr: nan equals nan


@pytest.mark.parametrize(
    "weights",
    [
        ExpertWeights(inserted=1.0),
        ExpertWeights(similar=2.0),
        ExpertWeights(repeat=1.0, similar=3.0, inserted=0.5),
        ExpertWeights(recent=2.0),
    ],
)
def test_a_bundle_is_measured_as_it_answers(
    bundle_data: Bundle,
    recall_network: RecallNetwork,
    build_bundle: Callable[[Bundle, Path], Path],
    tmp_path: Path,
    weights: ExpertWeights,
) -> None:
    mix = DomainMix(warm=ExpertWeights(*weights.sparse), cold=weights)
    bundle = replace(bundle_data, recall=recall_network, mix=(mix, mix))
    folder = build_bundle(bundle, tmp_path / "bundle")
    recommender = Recommender.load(folder)
    rng = np.random.default_rng(0)
    lists = [rng.integers(1, 31, rng.integers(4, 10)).tolist() for _ in range(60)]
    histories = Histories.from_lists(lists, [f"u{i}" for i in range(60)])
    data = Dataset(bundle_data.catalogue, histories, histories, histories)
    backend, table = open_model(folder, data)
    results = evaluate(backend, table, data, answers=open_answers(folder))
    assert [r for r in results if r.scored_by == "model"] == evaluate(backend, table, data)
    ids = bundle_data.catalogue.ids
    for result in (r for r in results if (r.protocol, r.scored_by) == ("full", "bundle")):
        queries = Queries.from_split(histories)
        queries = queries.cold(data.catalogue) if result.group == "cold" else queries
        queries = queries.into(data.catalogue.domain(result.domain))
        found = []
        for history, target in zip(queries.histories, queries.targets, strict=True):
            answer = recommender.recommend(
                [ids[row - 1] for row in history],
                domain=result.domain,
                k=30,
                exclude_seen=False,
            )
            found.append([item.id for item in answer].index(ids[target - 1]))
        hr, ndcg = brute_metrics(found)
        assert result.n_users == len(found) > 10
        assert result.hr == pytest.approx(hr)
        assert result.ndcg == pytest.approx(ndcg)
    head, *lines = format_results(results).splitlines()
    assert head.split()[-10:-7] == ["scored", "by", "HR@1"]
    assert [line.split()[-9] for line in lines] == [r.scored_by for r in results]


def test_a_model_without_a_mix_is_measured_once(bundle_folder: Path, small_run: TrainResult) -> None:
    assert open_answers(bundle_folder) is None
    assert open_answers(small_run.run) is None


def test_what_is_no_model_of_the_data_set_is_refused(
    small_world: Any, small_run: TrainResult, bundle_folder: Path, tmp_path: Path
) -> None:
    data = small_world.data
    with pytest.raises(DataError, match=r"is neither a bundle \(config\.json\) nor a training run"):
        open_model(tmp_path, data)
    with pytest.raises(DataError, match="its items are not those of the data set"):
        open_model(bundle_folder, data)
    ids = [*read_bundle(bundle_folder).catalogue.ids]
    moved = Catalogue.from_sizes(ids, [""] * len(ids), ("food", "kitchen"), (1, len(ids) - 1))
    with pytest.raises(DataError, match="its items are not those of the data set"):
        open_model(bundle_folder, replace(data, catalogue=moved))
    other = replace(data, catalogue=CATALOGUE)
    with pytest.raises(DataError, match=r"best\.npz: has 66 items, the data set 100"):
        open_model(small_run.run, other)
    save_dataset(replace(data, train=data.valid), tmp_path / "other")  # as many items
    open_model(small_run.run, data, folder=small_world.folder)
    with pytest.raises(TrainingError, match="other is not the data set that the run was trained on"):
        open_model(small_run.run, load_dataset(tmp_path / "other"), folder=tmp_path / "other")
    shutil.copy(small_run.run / "best_2.npz", tmp_path / "best.npz")  # a model alone
    open_model(tmp_path, data)
    with pytest.raises(UsageError, match="no domain is named 'tools', expected one of 'mean'"):
        open_model(tmp_path, data, "tools")
