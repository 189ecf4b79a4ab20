"""Yield and examples against counts and scalar loops on a small data set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.embed_names import EmbeddedNames
from llmcdsr_tools.names import GeneratedNames
from llmcdsr_tools.pipeline.recall_examples import generation_yield, recall_examples
from llmcdsr_tools.pretrain.pretraining import Pretrained

TITLES = ["rice", "beans", "tea", "pot", "pan", "cup", "lid", "fork", "jar"]
NAMES = [
    GeneratedNames("u0", "kitchen", ("pot", "a wok", "cup"), "model"),
    GeneratedNames("u1", "food", ("tea", "milk"), "neighbours"),
    GeneratedNames("u3", "kitchen", ("cup",), "neighbours"),
]


@pytest.fixture
def data() -> Dataset:
    catalogue = Catalogue.from_sizes([t[:3] for t in TITLES], TITLES, ("food", "kitchen"), (3, 6))
    train = Histories.from_lists([[1, 2], [5, 4], [1, 5], [3, 1], [2, 2]], [f"u{n}" for n in range(5)])
    empty = Histories.from_lists([], [])
    return Dataset(catalogue, train, empty, empty)


def test_the_yield_is_counted_by_domain(data: Dataset) -> None:
    food, kitchen = generation_yield(data, NAMES)
    assert (food.domain, food.generators) == ("food", ("neighbours",))
    assert (food.n_users, food.n_with_names, food.n_names, food.n_distinct, food.n_titles) == (1, 1, 2, 2, 1)
    assert kitchen.generators == ("model", "neighbours")
    assert (kitchen.n_users, kitchen.n_with_names) == (3, 2)  # u0, u3 and u4 have food alone
    assert (kitchen.n_names, kitchen.n_distinct, kitchen.n_titles) == (4, 3, 2)
    none = generation_yield(data, [])
    assert [(y.generators, y.n_with_names, y.n_distinct) for y in none] == [((), 0, 0)] * 2


@pytest.fixture
def arrays() -> Any:
    rng = np.random.default_rng(1)
    texts = ["a wok", "cup", "milk", "pot", "tea"]
    order = [texts.index(name) for record in NAMES for name in record.names]
    embedded = EmbeddedNames(
        rng.normal(size=(5, 4)).astype(np.float32),
        np.array([0, 3, 5, 6]),
        np.array(order),
        np.array([0, 1, 3]),
        np.array([1, 0, 1]),
    )
    shapes = ((3, 4), (3, 4), (3, 3), (6, 3))
    made = [rng.normal(size=s).astype(np.float32) for s in shapes]
    pretrained = Pretrained(tuple(made[:2]), tuple(made[2:]), {})
    return texts, embedded, pretrained, rng.normal(size=(2, 3)).astype(np.float32)


def test_examples_are_those_of_the_formulas(data: Dataset, arrays: Any) -> None:
    texts, embedded, pretrained, poolers = arrays
    found = recall_examples(data, NAMES, embedded, pretrained, poolers)
    assert [(e.user, e.domain) for e in found] == [("u1", "food"), ("u0", "kitchen"), ("u3", "kitchen")]
    assert found[1].history == ("rice", "beans")
    for example, record in zip(found, (NAMES[1], NAMES[0], NAMES[2]), strict=True):
        domain = ("food", "kitchen").index(record.domain)
        projection, items = (
            pretrained.projections[domain].astype(float),
            pretrained.items[domain].astype(float),
        )
        z = [projection @ embedded.text[texts.index(name)].astype(float) for name in record.names]
        exps = [math.exp(v @ poolers[domain].astype(float)) for v in z]
        weights = [e / sum(exps) for e in exps]
        pooled = sum(w * v for w, v in zip(weights, z, strict=True))
        cosines = [float(pooled @ i / np.linalg.norm(pooled) / np.linalg.norm(i)) for i in items]
        titles = TITLES[:3] if domain == 0 else TITLES[3:]
        best = sorted(range(len(items)), key=lambda n: -cosines[n])[:5]
        assert [name for name, _ in example.names] == list(record.names)
        assert [w for _, w in example.names] == pytest.approx(weights, abs=1e-5)
        assert [t for t, _ in example.recalled] == [titles[n] for n in best]
        assert [c for _, c in example.recalled] == pytest.approx([cosines[n] for n in best], abs=1e-5)


def test_so_many_users_a_domain_and_the_seed_draws_them(data: Dataset, arrays: Any) -> None:
    _, embedded, pretrained, poolers = arrays
    drawn = {
        recall_examples(data, NAMES, embedded, pretrained, poolers, n_each=1, seed=seed)[1].user
        for seed in range(8)
    }
    assert drawn == {"u0", "u3"}
    assert len(recall_examples(data, NAMES, embedded, pretrained, poolers, n_each=1)) == 2
