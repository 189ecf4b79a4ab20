"""Bundles of random numbers in which everything is weighed, and what they must answer, by loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.weights import DomainMix, ExpertWeights
from llmcdsr_lite.model.backends import NumpyBackend
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.text.title_neighbours import TitleMap, Weighing

SIZES = {1: (9,), 2: (8, 7), 3: (6, 9, 7), 5: (4, 6, 3, 7, 5)}
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
