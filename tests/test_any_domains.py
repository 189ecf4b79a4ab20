"""Bundles of one, three and five domains: every answer against loops over all items and domains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weighed_bundle import HIDDEN, NAMES, TEXT, Naive, make_bundle

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.recall import RecallNetwork


@pytest.fixture(scope="module", params=[1, 3, pytest.param(5, marks=pytest.mark.slow)])
def naive(request: pytest.FixtureRequest) -> Naive:
    return Naive(make_bundle(request.param))


@pytest.fixture(scope="module")
def folder(
    naive: Naive, build_bundle: Callable[[Bundle, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return build_bundle(naive.bundle, tmp_path_factory.mktemp("any") / "bundle")


def histories(naive: Naive) -> list[list[int]]:
    """Of each domain alone, of two, of all; some longer than the model looks back on, some with repeats."""
    rng = np.random.default_rng(8)
    last = naive.domains[-1].stop
    found = [rng.integers(d.start, d.stop, n).tolist() for d in naive.domains for n in (1, 8)]
    found += [rng.integers(1, last, n).tolist() for n in (2, 4, 9)]
    return found


def every_request(n_domains: int) -> list[tuple[int, ...]]:
    every = range(n_domains)
    return [chosen for n in range(1, n_domains + 1) for chosen in combinations(every, n)]


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
def test_every_choice_of_domains_is_answered_as_by_loops(folder: Path, naive: Naive, backend: Any) -> None:
    recommender = Recommender.load(folder, backend=backend)
    catalogue = naive.bundle.catalogue
    assert recommender.domains == NAMES[: len(naive.domains)]
    for asked in every_request(len(naive.domains)):
        names = [NAMES[d] for d in asked]
        domain = names[0] if len(names) == 1 else names[::-1]  # in any order
        for history in histories(naive):
            answer = recommender.recommend([catalogue.ids[r - 1] for r in history], domain=domain, k=12)
            scores = naive.scores(history, asked)
            left_out = [r for r in history if naive.bundle.mix[naive.domain_of(r)].exclude_seen]
            expected = sorted((r for r in scores if r not in left_out), key=lambda r: -scores[r])[:12]
            assert [item.id for item in answer] == [catalogue.ids[r - 1] for r in expected]
            np.testing.assert_allclose([i.score for i in answer], [scores[r] for r in expected], atol=1e-4)
            assert [item.domain for item in answer] == [NAMES[naive.domain_of(r)] for r in expected]
    read = Recommender.load(folder, backend=backend, mmap=False).recommend(["food0"], k=5)
    every = recommender.recommend(["food0"], k=5)
    assert every == read
    assert every == recommender.recommend(["food0"], domain=recommender.domains, k=5)


def test_explanations_add_up(folder: Path, naive: Naive) -> None:
    recommender = Recommender.load(folder)
    for asked in every_request(len(naive.domains)):
        names = [NAMES[d] for d in asked]
        for history in histories(naive):
            ids = [naive.bundle.catalogue.ids[r - 1] for r in history]
            answer = recommender.recommend(ids, domain=names, k=1, explain=True)
            if not len(answer):
                continue
            assert answer.explanation is not None
            assert sum(answer.explanation.shares.values()) == pytest.approx(answer[0].score, abs=1e-4)
            lacks = [d for d in asked if all(naive.domain_of(r) != d for r in history)]
            if naive.bundle.recall is not None:
                assert len(answer.explanation.pseudo) == 2 * len(lacks)


def test_a_users_answer_does_not_depend_on_the_others(folder: Path, naive: Naive) -> None:
    recommender = Recommender.load(folder)
    ids = [[naive.bundle.catalogue.ids[r - 1] for r in history] for history in histories(naive)]
    batch = recommender.recommend_batch(ids, k=4, explain=True)
    assert batch.explanations is not None
    for history, rows, explanation in zip(ids, batch.rows.tolist(), batch.explanations, strict=True):
        alone = recommender.recommend_batch([history], k=4, explain=True)
        assert alone.rows.tolist() == [rows]
        assert alone.explanations is not None
        assert alone.explanations[0].setting == explanation.setting
        assert [p.id for p in alone.explanations[0].pseudo] == [p.id for p in explanation.pseudo]


def test_fallback_filters_and_arguments(folder: Path, naive: Naive) -> None:
    recommender = Recommender.load(folder)
    counts, n = naive.bundle.item_counts, len(naive.domains)
    asked = [NAMES[0], NAMES[n - 1]]
    rows = {r for d in {0, n - 1} for r in naive.rows(d)}
    popular = recommender.recommend([], domain=asked, k=8)
    expected = sorted(rows, key=lambda r: (-counts[r], r))[:8]
    assert popular.fallback
    assert [item.id for item in popular] == [naive.bundle.catalogue.ids[r - 1] for r in expected]
    assert popular[0].score == pytest.approx(counts[expected[0]] / sum(counts[r] for r in rows))
    allowed = ["food0", "food1", f"{NAMES[n - 1]}2"]
    some = recommender.recommend(["food3"], domain=asked, allow=allowed, exclude=["food1"])
    assert {item.id for item in some} == {"food0", f"{NAMES[n - 1]}2"}
    refused: list[tuple[Any, str]] = [
        ([], "names no domain"),
        (["food", "fod"], "did you mean 'food'"),
        (3, "expected a sequence"),
    ]
    for domain, message in refused:
        with pytest.raises(UsageError, match=message):
            recommender.recommend(["food0"], domain=domain)
    if n > 1:
        with pytest.raises(UsageError, match="the one domain"):
            recommender.recommend(["food0"], domain=asked, pseudo=["kitchen1"])


def test_new_items_go_to_the_ends_of_their_domains(folder: Path, naive: Naive, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    new = [
        NewItem(f"new-{name}-{n}", name, embedding=rng.normal(size=TEXT))
        for n in range(2)
        for name in reversed(NAMES[: len(naive.domains)])
    ]
    before = Recommender.load(folder, backend="numpy")
    grown = before.add_items(new)
    assert [d.n_items for d in grown.items.domains] == [d.n_items + 2 for d in naive.domains]
    for domain in grown.items.domains:
        ends = grown.items.ids[domain.stop - 3 : domain.stop - 1]
        assert list(ends) == [f"new-{domain.name}-0", f"new-{domain.name}-1"]
    old_rows, _ = grown.items.rows(naive.bundle.catalogue.ids)
    np.testing.assert_array_equal(grown.bundle.item_vectors[old_rows], naive.bundle.item_vectors[1:])
    if naive.bundle.recall is not None:
        recall = grown.bundle.recall
        assert recall is not None
        np.testing.assert_array_equal(recall.names[:, old_rows], naive.bundle.recall.names[:, 1:])
    grown.save(tmp_path / "grown")
    again = Recommender.load(tmp_path / "grown")
    history = ["food1", f"new-{NAMES[len(naive.domains) - 1]}-1"]
    for domain in (None, *grown.domains):
        answer = grown.recommend(history, domain=domain, k=20)
        assert [i.id for i in again.recommend(history, domain=domain, k=20)] == [i.id for i in answer]
    old = [naive.bundle.catalogue.ids[r - 1] for r in range(1, naive.domains[-1].stop)]
    assert [i.id for i in grown.recommend(["food1"], k=99, allow=old)] == [
        i.id for i in before.recommend(["food1"], k=99)
    ]


def test_a_recall_network_needs_two_domains(
    build_bundle: Callable[[Bundle, Path], Path], tmp_path: Path
) -> None:
    bundle = make_bundle(1)
    items = np.eye(10, HIDDEN, -1, dtype=np.float32)
    names, poolers = np.zeros((0, 10, HIDDEN), np.float32), np.zeros((1, HIDDEN), np.float32)
    recall = RecallNetwork(names, items, poolers, None, (1.0,))
    with pytest.raises(BundleError, match="one domain alone: there is nothing to recall for"):
        build_bundle(replace(bundle, recall=recall), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
