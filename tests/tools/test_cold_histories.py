from __future__ import annotations

import numpy as np

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_tools.cold_histories import cold_histories, question_of_items
from llmcdsr_tools.data.dataset import Dataset, Histories


def make_dataset(histories: list[list[int]], sizes: tuple[int, ...] = (3, 3)) -> Dataset:
    """Six items; rows 1 to 3 are of the first of two domains."""
    catalogue = Catalogue.from_sizes(
        list("abcdef"), ["Tea", "tea 2", "", "Cup", "Tea", "cup"], [f"d{n}" for n in range(len(sizes))], sizes
    )
    packed = Histories.from_lists(histories, [f"u{n}" for n in range(len(histories))])
    return Dataset(catalogue, packed, packed, packed)


HISTORIES = [[1, 3], [4], [2, 5, 1], [], [6, 4, 2], [3, 3, 6]]


def test_of_train_the_users_without_a_domain() -> None:
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


def test_of_three_domains() -> None:
    data = make_dataset([[1, 3], [4], [], [1, 3, 5], [6, 6]], (2, 2, 2))
    train = [(h.user, h.domain, h.rows.tolist()) for h in cold_histories(data, "train")]
    assert train == [
        ("u0", 2, [1, 3]),
        ("u1", 0, [4]),
        ("u1", 2, [4]),
        ("u4", 0, [6, 6]),
        ("u4", 1, [6, 6]),
    ]
    held_out = [(h.user, h.domain, h.rows.tolist(), h.hidden.tolist()) for h in cold_histories(data, "test")]
    assert held_out == [
        ("u0", 1, [1], [3]),
        ("u3", 0, [3], [1]),
        ("u3", 1, [1], [3]),
        ("u3", 2, [1, 3], [5]),
    ]
    one = make_dataset([[1, 3], [4]], (6,))
    assert cold_histories(one, "train") == cold_histories(one, "test") == cold_histories(one, "items") == []


def test_of_items_those_that_share_a_question_are_asked_once_a_domain() -> None:
    data = make_dataset([], (2, 2, 2))
    assert question_of_items(data).tolist() == [0, 1, 1, 3, 4, 5, 6]  # an item without a title has its own
    items = [(h.user, h.domain, h.rows.tolist()) for h in cold_histories(data, "items")]
    expected = [
        ("a", 1),
        ("a", 2),
        ("c", 0),
        ("c", 2),
        ("d", 0),
        ("d", 2),
        ("e", 0),
        ("e", 1),
        ("f", 0),
        ("f", 1),
    ]
    assert [(user, domain) for user, domain, _ in items] == expected
    assert all(rows == [1 + "abcdef".index(user)] for user, _, rows in items)
