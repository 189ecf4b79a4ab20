from __future__ import annotations

import numpy as np

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.dataset import Dataset, Histories
from llmcdsr_tools.cold_histories import domains_of_users, cold_histories


def make_dataset(histories: list[list[int]]) -> Dataset:
    """Rows 1 to 3 are domain A, 4 to 6 domain B."""
    catalogue = Catalogue.from_sizes(list("abcdef"), list("abcdef"), ("food", "kitchen"), (3, 3))
    packed = Histories.from_lists(histories, [f"u{n}" for n in range(len(histories))])
    return Dataset(catalogue, packed, packed, packed)


HISTORIES = [[1, 3], [4], [2, 5, 1], [], [6, 4, 2], [3, 3, 6]]


def test_domains_of_users() -> None:
    data = make_dataset(HISTORIES)
    expected = [[any(r < 4 for r in h), any(r > 3 for r in h)] for h in HISTORIES]
    assert domains_of_users(data, data.train).tolist() == expected
    empty = make_dataset([])
    assert domains_of_users(empty, empty.train).shape == (0, 2)


def test_of_train_the_users_of_one_domain() -> None:
    found = cold_histories(make_dataset(HISTORIES), "train")
    assert [(h.user, h.domain, h.rows.tolist()) for h in found] == [("u0", 1, [1, 3]), ("u1", 0, [4])]
    assert all(len(h.hidden) == 0 for h in found)


def test_of_held_out_users_each_domain_is_hidden_in_turn() -> None:
    found = cold_histories(make_dataset(HISTORIES), "test")
    described = [(h.user, h.domain, h.rows.tolist(), h.hidden.tolist()) for h in found]
    assert described == [
        ("u2", 0, [5], [2, 1]),  # the target, 1, is hidden with its domain
        ("u2", 1, [2], [5]),  # and never shown
        ("u4", 0, [6, 4], [2]),  # with B hidden, nothing but the target would be left
        ("u5", 1, [3, 3], [6]),
    ]
    assert {np.asarray(h.rows).dtype for h in found} == {np.dtype(np.int32)}
