"""The recall network in training against loops over users."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import TrainingError
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.embed_names import EmbeddedNames
from llmcdsr_tools.optimization.batches import TrainingSequences
from llmcdsr_tools.pretrain.pretraining import Pretrained
from llmcdsr_tools.train.pseudo_items import RecallNetwork

N_A, N_B, HIDDEN, DIMENSION = 7, 9, 4, 5
CATALOGUE = Catalogue.from_sizes([str(i) for i in range(16)], [""] * 16, ("a", "b"), (N_A, N_B))
#            A only    B only   both          A only  none  B only
HISTORIES = [[1, 2, 7], [8, 16], [3, 9, 4, 10], [5], [], [12, 13]]


def dataset() -> Dataset:
    train = Histories.from_lists(HISTORIES, [f"u{n}" for n in range(len(HISTORIES))])
    empty = Histories.from_lists([], [])
    return Dataset(CATALOGUE, train, empty, empty)


def embedded() -> EmbeddedNames:
    """Names for everybody but user 3; one user of A also has names of A, the overlapped one of B."""
    text = np.random.default_rng(0).normal(size=(6, DIMENSION)).astype(np.float32)
    lists = [[0], [3, 1, 3], [2, 5], [4], [0, 1], [5, 1, 0, 2]]
    users, domains = [0, 0, 1, 2, 4, 5], [0, 1, 0, 1, 1, 0]
    offsets = np.cumsum([0, *map(len, lists)])
    return EmbeddedNames(text, offsets, np.concatenate(lists), np.array(users), np.array(domains))


def pretrained() -> Pretrained:
    rng = np.random.default_rng(1)
    shapes = [(HIDDEN, DIMENSION), (HIDDEN, DIMENSION), (N_A, HIDDEN), (N_B, HIDDEN)]
    a, b, *items = (rng.normal(size=s).astype(np.float32) for s in shapes)
    return Pretrained((a, b), tuple(items), {})


def names_by_hand(user: int) -> npt.NDArray[np.float64]:
    text, found = embedded().text.astype(float), pretrained()
    chosen, projection = {
        0: ([3, 1, 3], found.projections[1]),
        1: ([2, 5], found.projections[0]),
        5: ([5, 1, 0, 2], found.projections[0]),
    }[user]
    return np.stack([projection @ text[i] for i in chosen])


def pooled_by_hand(user: int, poolers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    names = names_by_hand(user)
    weights = np.exp(names @ poolers[1 if user == 0 else 0])
    return weights @ names / weights.sum()


def test_users_of_one_domain_with_names_of_the_other_are_kept() -> None:
    network = RecallNetwork.build(dataset(), embedded(), pretrained())
    assert network.users.tolist() == [0, 1, 5]
    assert network.domains.tolist() == [1, 0, 0]
    assert len(network) == 3
    assert network.hidden == HIDDEN
    assert [len(names) for names in network.names] == [4, 2]  # distinct ones of each domain


@pytest.mark.parametrize("seed", range(3))
def test_recall_is_a_loop_over_users(seed: int) -> None:
    network = RecallNetwork.build(dataset(), embedded(), pretrained())
    poolers = np.random.default_rng(seed).normal(size=(2, HIDDEN)).astype(np.float32)
    entries = np.array([2, 0, 1])
    recalled = network.recall(entries, poolers, 3)
    for user, rows in zip([5, 0, 1], recalled.rows.tolist(), strict=True):
        pooled = pooled_by_hand(user, poolers.astype(float))
        items, start = (pretrained().items[1], 1 + N_A) if user == 0 else (pretrained().items[0], 1)
        cosines = [float(pooled @ i / np.linalg.norm(i)) for i in items]
        assert rows == [start + place for place in np.argsort(cosines)[::-1][:3]]


def test_backward_is_the_gradient_of_the_poolers() -> None:
    network = RecallNetwork.build(dataset(), embedded(), pretrained())
    rng = np.random.default_rng(0)
    poolers, d_pooled = rng.normal(size=(2, HIDDEN)), rng.normal(size=(3, HIDDEN))
    users = [1, 0, 5]

    def objective(poolers: npt.NDArray[np.float64]) -> float:
        return sum(float(pooled_by_hand(u, poolers) @ d) for u, d in zip(users, d_pooled, strict=True))

    recalled = network.recall(np.array([1, 0, 2]), poolers.astype(np.float32), 3)
    found = network.backward(d_pooled.astype(np.float32), recalled)
    for index in np.ndindex(poolers.shape):
        step = np.zeros_like(poolers)
        step[index] = 1e-5
        expected = (objective(poolers + step) - objective(poolers - step)) / 2e-5
        assert found[index] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_one_domain_alone_leaves_the_other_pooler_as_it_is() -> None:
    network = RecallNetwork.build(dataset(), embedded(), pretrained())
    recalled = network.recall(np.array([1, 2]), np.ones((2, HIDDEN), dtype=np.float32), 2)
    found = network.backward(np.ones((2, HIDDEN), dtype=np.float32), recalled)
    assert found[0].any()
    assert not found[1].any()


def test_what_does_not_fit_is_refused() -> None:
    other = replace(pretrained(), projections=(np.zeros((HIDDEN, 3), dtype=np.float32),) * 2)
    with pytest.raises(TrainingError, match="embeddings of 5 values, pre-training was done with 3"):
        RecallNetwork.build(dataset(), embedded(), other)
    nobody = replace(embedded(), domains=1 - embedded().domains)
    nobody = replace(nobody, users=np.array([1, 0, 0, 2, 4, 2]), domains=np.array([1, 0, 0, 1, 1, 1]))
    with pytest.raises(TrainingError, match="no user has names of a domain that the history has no item of"):
        RecallNetwork.build(dataset(), nobody, pretrained())


def test_a_user_who_lacks_two_of_three_domains_may_have_names_of_both() -> None:
    catalogue = Catalogue.from_sizes([str(i) for i in range(16)], [""] * 16, "abc", (N_A, 4, 5))
    data = replace(dataset(), catalogue=catalogue)  # users: a; b and c; a and b; a; none; c
    names = replace(
        embedded(), users=np.array([0, 0, 1, 2, 4, 5]), domains=np.array([1, 2, 0, 1, 1, 2], dtype=np.int64)
    )
    rng = np.random.default_rng(5)
    items = tuple(rng.normal(size=(n, HIDDEN)).astype(np.float32) for n in (N_A, 4, 5))
    projections = tuple(rng.normal(size=(HIDDEN, DIMENSION)).astype(np.float32) for _ in range(3))
    network = RecallNetwork.build(data, names, Pretrained(projections, items, {}))
    assert network.users.tolist() == [0, 0, 1]  # b is what user 2 has, c what user 5 has, user 4 has nothing
    assert network.domains.tolist() == [1, 2, 0]
    poolers = rng.normal(size=(3, HIDDEN)).astype(np.float32)
    recalled = network.recall(np.array([1, 0, 2]), poolers, 2)
    lists = {0: [0], 1: [3, 1, 3], 2: [2, 5]}
    for entry, rows in zip((1, 0, 2), recalled.rows.tolist(), strict=True):
        domain = int(network.domains[entry])
        texts = names.text[lists[entry]].astype(float) @ projections[domain].T.astype(float)
        weights = np.exp(texts @ poolers[domain])
        pooled = weights @ texts / weights.sum()
        cosines = [float(pooled @ i / np.linalg.norm(i)) for i in items[domain]]
        start = catalogue.domains[domain].start
        assert rows == [start + place for place in np.argsort(cosines)[::-1][:2]]


def test_overlapped_users() -> None:
    overlapped = TrainingSequences.overlapped(dataset().train, CATALOGUE, 2)
    batch = overlapped.batch(np.arange(len(overlapped)))
    assert batch.inputs.rows.tolist() == [9, 4]
    assert batch.targets.tolist() == [4, 10]
