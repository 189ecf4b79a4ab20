from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.model.packing import Group, PackedSequences, pack, pack_lists, token_indices

MAX_LENGTH = 6
HISTORIES = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=10), max_size=12)


def check_packed(packed: PackedSequences, histories: list[list[int]]) -> None:
    """Every promise of `PackedSequences`, against the histories it holds (none above MAX_LENGTH)."""
    by_length = sorted(range(len(histories)), key=lambda i: len(histories[i]))  # stable
    assert packed.order.tolist() == by_length
    in_order = [histories[i] for i in by_length]
    assert packed.rows.tolist() == [row for h in in_order for row in h]
    assert packed.rows.dtype == np.int64
    assert packed.positions.tolist() == [p for h in in_order for p in range(MAX_LENGTH)[-len(h) :]]
    assert packed.last.tolist() == [sum(map(len, in_order[: i + 1])) - 1 for i in range(len(in_order))]
    place = 0
    for group in packed.groups:
        assert group.start == place
        members = [h for h in in_order if len(h) == group.length]
        assert group.count == len(members)
        assert packed.rows[group.start : group.stop].tolist() == [row for h in members for row in h]
        place = group.stop
    assert place == len(packed.rows)
    lengths = [g.length for g in packed.groups]
    assert lengths == sorted(set(lengths))


@given(HISTORIES)
def test_pack_lists_keeps_the_newest_items(histories: list[list[int]]) -> None:
    check_packed(pack_lists(histories, MAX_LENGTH), [h[-MAX_LENGTH:] for h in histories])


@given(st.data())
def test_pack_takes_any_slices(data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(1, 99), min_size=1, max_size=30)), dtype=np.int32)
    slices = data.draw(
        st.lists(
            st.integers(0, len(rows) - 1).flatmap(
                lambda start: st.tuples(st.just(start), st.integers(1, min(MAX_LENGTH, len(rows) - start)))
            ),
            max_size=8,
        )
    )  # they may overlap, and come in any order
    starts = np.array([s for s, _ in slices], dtype=np.int64)
    lengths = np.array([n for _, n in slices], dtype=np.int64)
    packed, indices = pack(rows, starts, lengths, MAX_LENGTH)
    check_packed(packed, [rows[s : s + n].tolist() for s, n in slices])
    by_length = sorted(slices, key=lambda s: s[1])
    assert indices.tolist() == [i for s, n in by_length for i in range(s, s + n)]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 7)), max_size=12))
def test_token_indices_are_the_slices(slices: list[tuple[int, int]]) -> None:
    starts = np.array([s for s, _ in slices], dtype=np.int64)
    lengths = np.array([n for _, n in slices], dtype=np.int64)
    expected = [i for s, n in slices for i in range(s, s + n)]
    assert token_indices(starts, lengths).tolist() == expected


def test_a_small_batch_by_hand() -> None:
    packed = pack_lists([[7, 8, 9], [5], [1, 2, 3]], 4)
    assert packed.rows.tolist() == [5, 7, 8, 9, 1, 2, 3]
    assert packed.order.tolist() == [1, 0, 2]
    assert packed.last.tolist() == [0, 3, 6]
    assert packed.positions.tolist() == [3, 1, 2, 3, 1, 2, 3]
    assert packed.groups == (Group(0, 1, 1, 1), Group(1, 7, 2, 3))


def test_an_empty_batch() -> None:
    packed = pack_lists([], 4)
    assert (len(packed.rows), len(packed.order), len(packed.last), packed.groups) == (0, 0, 0, ())


@pytest.mark.parametrize("lengths", [[0, 2], [2, 5], [5, 5]])
def test_lengths_out_of_range_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"sequence lengths from \d to \d, expected between 1 and 4"):
        pack(np.arange(1, 11), np.array([0, 5]), np.array(lengths), 4)


def test_an_empty_history_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        pack_lists([[1], []], 4)
