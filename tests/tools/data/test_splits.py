from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.dataset import Histories
from llmcdsr_tools.data.splits import (
    drop_short,
    hold_out_by_time,
    hold_out_overlapped,
    k_core,
    leave_one_out,
    near_duplicates,
    pack_histories,
    take,
)

BOUNDARY = 5  # rows 1..4 are of the first domain, 5..9 of the second
CATALOGUE = Catalogue.from_sizes([str(n) for n in range(9)], [""] * 9, "ab", (4, 5))
ONE = Catalogue.from_sizes([str(n) for n in range(9)], [""] * 9, "a", (9,))
HISTORIES = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=7), max_size=30)


def packed(histories: list[list[int]]) -> Histories:
    return Histories.from_lists(histories, [f"u{n}" for n in range(len(histories))])


def as_dict(histories: Histories) -> dict[str, list[int]]:
    assert len(set(histories.users)) == len(histories)
    return {user: history.tolist() for user, history in zip(histories.users, histories, strict=True)}


def brute_k_core(pairs: list[tuple[int, int]], k: int) -> list[int]:
    """Drop one interaction at a time, until each that is left has k of its user and of its item."""
    kept = list(range(len(pairs)))
    while True:
        users = Counter(pairs[n][0] for n in kept)
        items = Counter(pairs[n][1] for n in kept)
        bad = [n for n in kept if users[pairs[n][0]] < k or items[pairs[n][1]] < k]
        if not bad:
            return kept
        kept.remove(bad[-1])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=50), st.integers(0, 4))
def test_k_core_is_what_dropping_one_by_one_leaves(pairs: list[tuple[int, int]], k: int) -> None:
    users = np.array([user for user, _ in pairs], dtype=np.int32)
    items = np.array([item for _, item in pairs], dtype=np.int32)
    assert k_core(users, items, k).tolist() == brute_k_core(pairs, k)


def test_k_core_goes_on_until_nothing_changes() -> None:
    # user 3 has one interaction; without it item 2 has one; without that user 2 has one; and so on
    users = np.array([0, 0, 1, 1, 1, 2, 2, 3], dtype=np.int32)
    items = np.array([0, 1, 0, 1, 3, 3, 2, 2], dtype=np.int32)
    assert k_core(users, items, 2).tolist() == [0, 1, 2, 3]
    assert k_core(users, items, 3).tolist() == []
    assert k_core(users, items, 1).tolist() == list(range(8))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(-3, 3)), min_size=1))
def test_histories_are_cut_where_users_change(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    users, items, _ = (np.array(column, dtype=np.int32) for column in zip(*rows, strict=True))
    histories = pack_histories(users, items, [f"u{n}" for n in range(5)])
    for user in range(5):
        assert histories[user].tolist() == [item for owner, item, _ in rows if owner == user]
    assert histories.rows.dtype == np.int32


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(0, 3)), min_size=1))
def test_an_interaction_again_at_the_same_time_is_a_duplicate(rows: list[tuple[int, int, int]]) -> None:
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    users, items, times = (np.array(column) for column in zip(*rows, strict=True))
    seen: set[tuple[int, int, int]] = set()
    expected = []
    for row in rows:
        expected.append(row in seen)
        seen.add(row)
    found = near_duplicates(users.astype(np.int32), items.astype(np.int32), times)
    assert found.tolist() == expected


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 9)), min_size=3, max_size=30),
    st.sampled_from([0.0, 0.1, 0.3]),
    st.sampled_from([0.0, 0.2, 0.4]),
    st.booleans(),
)
def test_training_sees_nothing_after_the_moment(
    rows: list[tuple[int, int, int]], valid_share: float, test_share: float, first_alone: bool
) -> None:
    rows = sorted(rows, key=lambda row: (row[0], row[2]))
    users, items, times = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    histories = pack_histories(users.astype(np.int32), items.astype(np.int32), [f"u{n}" for n in range(4)])
    in_order = sorted(times.tolist())
    first, second = (
        in_order[min(round(len(rows) * share), len(rows) - 1)]
        for share in (1 - valid_share - test_share, 1 - test_share)
    )
    if valid_share and test_share and first == second:
        first = max((time for time in in_order if time < second), default=first)
    expected: dict[str, dict[str, list[int]]] = {"train": {}, "valid": {}, "test": {}}
    for user in range(4):
        mine = [(item, time) for owner, item, time in rows if owner == user]
        end = second if test_share else max(in_order) + 1
        seen = first if valid_share else end
        expected["train"][f"u{user}"] = [item for item, time in mine if time < seen]
        for name, start, stop, share in (
            ("valid", first, end, valid_share),
            ("test", second, max(in_order) + 1, test_share),
        ):
            targets = [n for n, (_, time) in enumerate(mine) if start <= time < stop and n >= 1]
            if targets and share:
                last = targets[0] if first_alone else targets[-1]
                expected[name][f"u{user}"] = [item for item, _ in mine[: last + 1]]
    try:
        splits = hold_out_by_time(histories, times, valid_share, test_share, first_alone=first_alone)
    except DataError:
        assert (valid_share and not expected["valid"]) or (test_share and not expected["test"])
        return
    for name in ("train", "valid", "test"):
        split = getattr(splits, name)
        assert {u: h.tolist() for u, h in zip(split.users, split, strict=True)} == expected[name]


@given(st.data(), HISTORIES)
def test_take_is_a_slice_of_each(data: st.DataObject, histories: list[list[int]]) -> None:
    users = data.draw(
        st.lists(st.sampled_from(range(len(histories))), unique=True) if histories else st.just([])
    )
    drop = [data.draw(st.integers(0, len(histories[user]))) for user in users]
    taken = take(packed(histories), np.array(users, dtype=np.int64), np.array(drop, dtype=np.int64))
    expected = [histories[u][: len(histories[u]) - d] for u, d in zip(users, drop, strict=True)]
    assert [h.tolist() for h in taken] == expected
    assert list(taken.users) == [f"u{user}" for user in users]


def test_short_training_histories_are_dropped() -> None:
    assert as_dict(drop_short(packed([[1], [2, 3], [4], [5, 6, 7]]))) == {"u1": [2, 3], "u3": [5, 6, 7]}


@given(HISTORIES, st.floats(0, 0.5), st.floats(0, 0.5), st.integers(0, 2**32))
def test_hold_out_takes_whole_overlapped_users(
    histories: list[list[int]], valid_share: float, test_share: float, seed: int
) -> None:
    both = {f"u{n}" for n, h in enumerate(histories) if min(h) < BOUNDARY <= max(h)}
    n_valid = max(1, round(valid_share * len(both))) if valid_share else 0
    n_test = max(1, round(test_share * len(both))) if test_share else 0
    if n_valid + n_test > len(both):
        with pytest.raises(DataError, match="hold-out split"):
            hold_out_overlapped(packed(histories), CATALOGUE, valid_share, test_share, seed)
        return
    splits = hold_out_overlapped(packed(histories), CATALOGUE, valid_share, test_share, seed)
    train, valid, test = map(as_dict, splits)
    assert (len(valid), len(test)) == (n_valid, n_test)
    assert valid.keys() | test.keys() <= both
    # nobody in two splits, nobody lost, every history whole, so its last item by time is the target
    assert len(train) + len(valid) + len(test) == len(histories)
    assert train | valid | test == {f"u{n}": h for n, h in enumerate(histories)}
    again = hold_out_overlapped(packed(histories), CATALOGUE, valid_share, test_share, seed)
    assert [as_dict(split) for split in again] == [train, valid, test]


def test_the_seed_chooses_the_users() -> None:
    histories = packed([[1, 5]] * 100)
    chosen = {
        tuple(hold_out_overlapped(histories, CATALOGUE, 0.1, 0.1, seed).test.users) for seed in range(5)
    }
    assert len(chosen) == 5
    assert {len(users) for users in chosen} == {10}


def test_hold_out_says_how_many_overlapped_users_there_are() -> None:
    with pytest.raises(DataError, match="0 users have items in several domains, 2 are needed"):
        hold_out_overlapped(packed([[1, 2], [5, 6]]), CATALOGUE, 0.1, 0.1, 0)
    assert len(hold_out_overlapped(packed([[1, 2], [5, 6]]), CATALOGUE, 0, 0, 0).train) == 2


def test_where_there_is_one_domain_any_user_may_be_held_out() -> None:
    histories = packed([[1, 5], [2], [], [3, 4, 1], [7, 8]])
    splits = hold_out_overlapped(histories, ONE, 0.3, 0.6, 0)
    train, valid, test = map(as_dict, splits)
    assert (len(valid), len(test)) == (1, 2)
    assert set(train) == {"u1", "u2"}  # with nothing to see before a target
    assert set(valid) | set(test) == {"u0", "u3", "u4"}
    with pytest.raises(DataError, match="1 users have items in the domain, 2 are needed"):
        hold_out_overlapped(packed([[1, 5], [2]]), ONE, 0.1, 0.1, 0)


def test_leave_one_out_by_hand() -> None:
    splits = leave_one_out(packed([[1, 2, 3, 4], [5, 6, 7], [8], [1, 5, 2, 6, 3]]))
    assert as_dict(splits.train) == {"u0": [1, 2], "u1": [5, 6, 7], "u2": [8], "u3": [1, 5, 2]}
    assert as_dict(splits.valid) == {"u0": [1, 2, 3], "u3": [1, 5, 2, 6]}
    assert as_dict(splits.test) == {"u0": [1, 2, 3, 4], "u3": [1, 5, 2, 6, 3]}


@given(HISTORIES.filter(lambda histories: any(len(h) >= 4 for h in histories)))
def test_leave_one_out_never_trains_on_a_target(histories: list[list[int]]) -> None:
    # distinct numbers, so that a target is told from another interaction with the same item
    numbered = [[100 * n + position for position in range(len(h))] for n, h in enumerate(histories)]
    train, valid, test = map(as_dict, leave_one_out(packed(numbered)))
    trained = {number for history in train.values() for number in history}
    assert not trained & {history[-1] for history in (*valid.values(), *test.values())}
    for user, history in test.items():
        assert history == numbered[int(user[1:])]
        assert valid[user] == history[:-1]
        assert train[user] == history[:-2]
    assert len(train) == len(histories)


def test_leave_one_out_needs_one_history_long_enough() -> None:
    with pytest.raises(DataError, match="no history has 4 items; the longest has 3"):
        leave_one_out(packed([[1, 2, 3], [4]]))
