from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.holdout import hold_out, occurrences


def by_id(data: Dataset, split: Any) -> dict[str, list[str]]:
    ids = data.catalogue.ids
    return {
        user: [ids[row - 1] for row in history.tolist()]
        for user, history in zip(split.users, split, strict=True)
    }


@pytest.mark.parametrize(
    ("share", "counts"), [(0.05, (2, 2)), (0.2, (6, 7)), (0.001, (1, 1)), (0.99, (29, 35))]
)
def test_held_out_items_are_nowhere(small_world: Any, share: float, counts: tuple[int, int]) -> None:
    data = small_world.data
    held = hold_out(data, share, seed=3)
    ids = [data.catalogue.ids[row - 1] for row in held.rows.tolist()]
    assert tuple(Counter(i[0] for i in ids)[letter] for letter in "ft") == counts
    reduced = held.reduced
    left = [i for i in data.catalogue.ids if i not in ids]
    assert list(reduced.catalogue.ids) == left
    assert [data.catalogue.ids[row - 1] for row in held.kept.tolist()] == left
    assert [d.n_items for d in reduced.catalogue.domains] == [30 - counts[0], 36 - counts[1]]
    for item in left:
        title = data.catalogue.titles[data.catalogue.row(item) - 1]
        assert reduced.catalogue.titles[reduced.catalogue.row(item) - 1] == title
    for split in ("train", "valid", "test"):
        expected = {
            user: kept
            for user, history in by_id(data, data.split(split)).items()
            if (kept := [item for item in history if item not in ids])
        }
        assert by_id(reduced, reduced.split(split)) == expected


def test_the_seed_decides(small_world: Any) -> None:
    one, same, other = (hold_out(small_world.data, 0.2, seed).rows.tolist() for seed in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_cannot_be(small_world: Any, share: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        hold_out(small_world.data, share, 0)


def test_a_domain_of_one_item() -> None:
    catalogue = Catalogue.from_sizes(["a", "b", "c"], ["", "", ""], ("x", "y"), (1, 2))
    none = Histories.from_lists([], [])
    with pytest.raises(DataError, match="domain 'x' has a single item"):
        hold_out(Dataset(catalogue, none, none, none), 0.5, 0)


def test_places_of_items() -> None:
    histories = Histories.from_lists([[3, 1, 3, 2], [5], [], [2, 5, 5]], list("abcd"))
    found = occurrences(histories, np.array([3, 5, 9]))
    pairs = [(h.tolist(), t) for h, t in zip(found.histories, found.targets.tolist(), strict=True)]
    assert pairs == [([3, 1], 3), ([2], 5), ([2, 5], 5)]  # a place without anything before it is none
    assert not len(occurrences(Histories.from_lists([], []), np.array([1])).targets)
