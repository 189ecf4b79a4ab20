"""Bundles of one, three and five domains: every answer against loops over all items and domains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite import NewItem, Recommender
from llmcdsr_lite.backend import NumpyBackend
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.settings import DomainMix, ExpertWeights
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.reference.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.text.title_neighbours import TitleMap, Weighing

SIZES = {1: (9,), 3: (6, 9, 7), 5: (4, 6, 3, 7, 5)}
NAMES = ("food", "kitchen", "books", "films", "garden")
HIDDEN, TEXT = 5, 4


def make_bundle(n_domains: int) -> Bundle:
    """A model of random numbers in which everything is weighed."""
    rng = np.random.default_rng(n_domains)
    sizes = SIZES[n_domains]
    n_rows = sum(sizes) + 1
    config = SASRecConfig(sum(sizes), hidden=8, n_blocks=2, n_heads=2, max_length=6, dropout=0.0)
    parameters = SASRecParameters.initial(config, rng)
    parameters.item_embedding[1:] = rng.normal(size=(n_rows - 1, 8))
    parameters.item_embedding[0] = 0
    ids = [f"{NAMES[d]}{n}" for d, size in enumerate(sizes) for n in range(size)]
    catalogue = Catalogue.from_sizes(ids, [f"Title of {one}" for one in ids], NAMES[:n_domains], sizes)
    names = rng.normal(size=(n_domains - 1, n_rows, HIDDEN)).astype(np.float32)
    items = rng.normal(size=(n_rows, HIDDEN)).astype(np.float32)
    names[:, 0] = items[0] = 0
    items[1:] /= np.linalg.norm(items[1:], axis=1, keepdims=True)
    poolers = rng.normal(size=(n_domains, HIDDEN)).astype(np.float32)
    projections = rng.normal(size=(n_domains, HIDDEN, TEXT)).astype(np.float32)
    lengths = tuple(rng.uniform(0.5, 2.0, n_domains).tolist())
    directions = rng.integers(-127, 128, (n_rows, 3)).astype(np.int8)
    directions[0] = 0
    weighings = tuple(Weighing(2.0 + d, 0.5 + d, {}) for d in range(n_domains))
    components = rng.normal(size=(TEXT + 1, 3)).astype(np.float32)
    return Bundle(
        catalogue,
        parameters,
        np.concatenate([[0], rng.integers(0, 30, n_rows - 1)]),
        {"settings": {}},
        recall=RecallNetwork(names, items, poolers, projections, lengths) if n_domains > 1 else None,
        new_items=TitleMap(components, directions, weighings, 3),
        mix=tuple(_mix(rng, d, recalls=n_domains > 1) for d in range(n_domains)),
        next_counts=_counts(rng, n_domains, n_rows, catalogue),
    )


def _mix(rng: np.random.Generator, domain: int, *, recalls: bool) -> DomainMix:
    weights = [float(w) for w in rng.uniform(0.1, 1.0, 9)]
    pseudo = weights[4:6] if recalls else [0.0, 0.0]
    return DomainMix(
        ExpertWeights(*weights[:3]),
        ExpertWeights(*weights[1:4], weights[0], *pseudo),
        ExpertWeights(similar=weights[6]),
        source=("titles", "companions", "both")[domain % 3],  # type: ignore[arg-type]
        n_recalled=2,
        offset=weights[7] - 0.5,
        offset_last=weights[8],
        exclude_seen=domain % 2 == 0,
    )


def _counts(rng: np.random.Generator, n_domains: int, n_rows: int, catalogue: Catalogue) -> NextCounts:
    lists = []
    for domain in catalogue.domains:
        for row in range(n_rows):
            near = rng.permutation(np.arange(domain.start, domain.stop))[: 2 if row else 0]
            lists.append(np.sort(near))
    rows = np.concatenate(lists).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    return NextCounts(starts, rows, rng.uniform(0.1, 1.0, len(rows)).astype(np.float32))


class Naive:
    """What a bundle must answer, item by item."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.domains = bundle.catalogue.domains

    def represent(self, rows: Sequence[int]) -> Any:
        return NumpyBackend(self.bundle.parameters).represent([np.array(rows)])[0].astype(np.float64)

    def pooled(self, history: Sequence[int], target: int) -> Any:
        """Direction of the pooled names for a target domain that the history lacks."""
        network = self.bundle.recall
        assert network is not None
        vectors = []
        for row in history[-6:]:
            said_of = [d for d in range(len(self.domains)) if d != self.domain_of(row)]
            vectors.append(network.names[said_of.index(target), row].astype(np.float64))
        logits = [float(v @ network.poolers[target].astype(np.float64)) for v in vectors]
        if self.bundle.mix[target].source != "titles":
            logits = [0.0] * len(logits)
        weights = [math.exp(x - max(logits)) for x in logits]
        mean = sum(w * v for w, v in zip(weights, vectors, strict=True)) / sum(weights)
        return mean / np.linalg.norm(mean)

    def domain_of(self, row: int) -> int:
        return next(d for d, one in enumerate(self.domains) if one.start <= row < one.stop)

    def scores(self, history: Sequence[int], asked: Sequence[int]) -> dict[int, float]:
        bundle = self.bundle
        user = self.represent(history)
        found = {}
        first = self.offset(history, asked[0])
        for target in asked:
            mix = bundle.mix[target]
            warm = any(self.domain_of(row) == target for row in history)
            weights = mix.warm if warm else mix.cold
            moved, direction = user, None
            if not warm and bundle.recall is not None:
                direction = self.pooled(history, target)
                if len(asked) == 1:
                    cosines = {r: float(direction @ bundle.recall.items[r]) for r in self.rows(target)}
                    best = sorted(cosines, key=lambda r: -cosines[r])[: mix.n_recalled]
                    with_them = self.represent([*best[::-1], *history[-6:]][-6:])
                    moved = user + weights.inserted * (with_them - user)
            for row in self.rows(target):
                score = float(moved @ bundle.item_vectors[row].astype(np.float64))
                score += self.sparse(history, row, target, weights)
                score += weights.popular * math.log1p(bundle.item_counts[row])
                if direction is not None:
                    assert bundle.recall is not None
                    score += weights.similar * float(direction @ bundle.recall.items[row])
                found[row] = score + self.offset(history, target) - first
        return found

    def rows(self, target: int) -> range:
        return range(self.domains[target].start, self.domains[target].stop)

    def offset(self, history: Sequence[int], target: int) -> float:
        mix = self.bundle.mix[target]
        return mix.offset + mix.offset_last * (self.domain_of(history[-1]) == target)

    def sparse(self, history: Sequence[int], row: int, target: int, weights: ExpertWeights) -> float:
        counts = self.bundle.next_counts
        assert counts is not None
        near = 0.0
        for age, seen in enumerate(history[::-1]):
            place = target * len(self.bundle.item_counts) + seen
            for at in range(counts.starts[place], counts.starts[place + 1]):
                near += 0.8**age * float(counts.weights[at]) * (counts.rows[at] == row)
        ages = [age for age, seen in enumerate(history[::-1]) if seen == row]
        recent = 0.9 ** ages[0] if ages else 0.0
        return (
            weights.next * math.log1p(20 * near)
            + weights.repeat * math.log1p(len(ages))
            + weights.recent * recent
        )


@pytest.fixture(scope="module", params=list(SIZES))
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
