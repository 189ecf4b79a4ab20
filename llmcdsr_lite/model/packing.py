"""Histories of any length in one flat array, so that no arithmetic is spent on padding.

Sequences are sorted by length; those of equal length lie side by side and form a *group* that attention
treats as one dense (count, length, H) array. Everything else works on the flat (tokens, H) array.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """Consecutive tokens ``start:stop`` that are `count` sequences of one `length`."""

    start: int
    stop: int
    count: int
    length: int


@dataclass(frozen=True)
class PackedSequences:
    """A batch of sequences without padding.

    Parameters
    ----------
    rows : int64 array (tokens,)
        Item rows, sequence after sequence, each oldest item first.
    order : int64 array (sequences,)
        ``order[i]`` is the place in the caller's batch of the i-th packed sequence.
    last : int64 array (sequences,)
        Token index of the last item of each packed sequence.
    positions : int64 array (tokens,)
        Position of every token; the last item of a sequence always has position ``max_length - 1``.
    groups : tuple of Group
        Runs of sequences of equal length, shortest first.
    """

    rows: IntArray
    order: IntArray
    last: IntArray
    positions: IntArray
    groups: tuple[Group, ...]


def token_indices(starts: IntArray, lengths: IntArray) -> IntArray:
    """Indices of the tokens of slices ``starts[i] : starts[i] + lengths[i]``, one after the other."""
    ends = np.cumsum(lengths)
    indices: IntArray = np.repeat(starts - (ends - lengths), lengths)
    indices += np.arange(len(indices))
    return indices


def pack(
    rows: npt.NDArray[np.integer], starts: IntArray, lengths: IntArray, max_length: int
) -> tuple[PackedSequences, IntArray]:
    """Pack slices of a flat array of item rows.

    Parameters
    ----------
    rows : int array (n,)
        Item rows of all histories.
    starts, lengths : int64 arrays (sequences,)
        The slices to take; ``1 <= lengths <= max_length``.
    max_length : int
        Number of positions of the model.

    Returns
    -------
    packed : PackedSequences
        The batch, sorted by length (stable).
    indices : int64 array (tokens,)
        Index into `rows` of every packed token, for arrays aligned with `rows`.
    """
    order = np.argsort(lengths, kind="stable")
    lengths = lengths[order]
    if len(lengths) and not 1 <= lengths[0] <= lengths[-1] <= max_length:
        raise ValueError(
            f"sequence lengths from {lengths[0]} to {lengths[-1]}, expected between 1 and {max_length}"
        )
    indices = token_indices(starts[order], lengths)
    ends = np.cumsum(lengths)
    positions = np.arange(len(indices)) + np.repeat(max_length - ends, lengths)
    packed = PackedSequences(
        rows=rows[indices].astype(np.int64, copy=False),
        order=order,
        last=ends - 1,
        positions=positions,
        groups=_groups(lengths),
    )
    return packed, indices


def pack_lists(histories: Sequence[npt.ArrayLike], max_length: int) -> PackedSequences:
    """Pack histories given one by one, each cut to its newest `max_length` items; none may be empty."""
    newest = [np.asarray(h, dtype=np.int64)[-max_length:] for h in histories]
    lengths = np.array([len(h) for h in newest], dtype=np.int64)
    flat = np.concatenate(newest) if newest else np.zeros(0, dtype=np.int64)
    return pack(flat, np.cumsum(lengths) - lengths, lengths, max_length)[0]


def _groups(lengths: IntArray) -> tuple[Group, ...]:
    """Runs of equal values in sorted `lengths`."""
    unique, counts = np.unique(lengths, return_counts=True)
    groups = []
    start = 0
    for length, count in zip(unique.tolist(), counts.tolist(), strict=True):
        stop = start + length * count
        groups.append(Group(start, stop, count, length))
        start = stop
    return tuple(groups)
