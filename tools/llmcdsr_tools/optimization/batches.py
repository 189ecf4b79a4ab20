"""Training batches: which sequences, which next items, which negatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.model.packing import PackedSequences, pack, token_indices
from llmcdsr_tools.data.dataset import Histories

RowArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingSequences:
    """Histories cut to what training uses: inputs and, for each of them, what comes next.

    Parameters
    ----------
    rows, targets : int64 arrays (interactions,)
        Item rows of all histories, and the next item of each.
    starts, lengths : int64 arrays (sequences,)
        Inputs of a sequence are ``rows[start : start + length]``, its next items those of `targets`.
    max_length : int
    """

    rows: RowArray
    targets: RowArray
    starts: RowArray
    lengths: RowArray
    max_length: int

    @classmethod
    def from_histories(
        cls, histories: Histories, max_length: int, *, windows: bool = False
    ) -> TrainingSequences:
        """Take the newest ``max_length + 1`` items of every history with two items or more.

        With `windows`, older items of a long history, too: windows of `max_length` inputs from its end back,
        the oldest as long as what is left. So every item but the first of a history is a target once.
        """
        inputs = np.maximum(histories.lengths - 1, 0)
        n_windows = -(-inputs // max_length)
        if not windows:
            n_windows = np.minimum(n_windows, 1)
        users = np.repeat(np.arange(len(histories)), n_windows)
        age = token_indices(np.zeros_like(n_windows), n_windows)  # of a window, 0 for the newest
        ends = histories.offsets[users + 1] - 1 - age * max_length
        lengths = np.minimum(inputs[users] - age * max_length, max_length)
        return cls(*_with_next(histories), ends - lengths, lengths, max_length)

    @classmethod
    def overlapped(cls, histories: Histories, catalogue: Catalogue, max_length: int) -> TrainingSequences:
        """Those of users with items of several domains."""
        users = histories.overlapped(catalogue)
        inputs = np.minimum(histories.lengths[users] - 1, max_length)
        return cls(*_with_next(histories), histories.offsets[users + 1] - 1 - inputs, inputs, max_length)

    @classmethod
    def cold(cls, histories: Histories, catalogue: Catalogue, max_length: int) -> TrainingSequences:
        """The cold cross-domain form of overlapped users: one domain hidden, its items to be predicted.

        A user gives a sequence for each hidden domain: the items of the others, and for each of them the next
        item of the hidden one, up to the last that has any.
        """
        rows = histories.rows.astype(np.int64)
        user = np.repeat(np.arange(len(histories)), histories.lengths)  # of every interaction
        domains = catalogue.domain_indices(rows)
        parts = []
        for hidden in range(len(catalogue.domains)):
            shown = np.flatnonzero(domains != hidden)
            places = np.append(np.flatnonzero(domains == hidden), len(rows))
            following = places[np.searchsorted(places, shown)]  # len(rows): nothing follows
            kept = np.append(user, -1)[following] == user[shown]
            inputs, targets = rows[shown[kept]], rows[following[kept]]
            lengths = np.bincount(user[shown[kept]], minlength=len(histories))
            ends, cut = np.cumsum(lengths), np.minimum(lengths, max_length)
            parts.append(cls(inputs, targets, (ends - cut)[cut > 0], cut[cut > 0], max_length))
        return reduce(cls.joined, parts)

    def joined(self, others: TrainingSequences) -> TrainingSequences:
        """These sequences, then the others."""
        return TrainingSequences(
            np.concatenate([self.rows, others.rows]),
            np.concatenate([self.targets, others.targets]),
            np.concatenate([self.starts, others.starts + len(self.rows)]),
            np.concatenate([self.lengths, others.lengths]),
            self.max_length,
        )

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, chosen: RowArray) -> TrainingBatch:
        """Pack the chosen sequences."""
        packed, indices = pack(self.rows, self.starts[chosen], self.lengths[chosen], self.max_length)
        return TrainingBatch(packed, self.targets[indices])


@dataclass(frozen=True)
class TrainingBatch:
    """Packed inputs and what comes next.

    Parameters
    ----------
    inputs : PackedSequences
    targets : int64 array (scored,)
        The next item of every token that the loss counts.
    scored : int64 array (scored,), optional
        Those tokens; None where they are all.
    frozen : int64 array (frozen,), optional
        Tokens that take in an embedding as a constant: its row gets no gradient from them. None where
        there are none.
    """

    inputs: PackedSequences
    targets: RowArray
    scored: RowArray | None = None
    frozen: RowArray | None = None


def epoch_batches(
    sequences: TrainingSequences, batch_size: int, rng: np.random.Generator
) -> Iterator[TrainingBatch]:
    """All sequences once, in random order, `batch_size` at a time; the last batch may be smaller."""
    order = rng.permutation(len(sequences))
    for start in range(0, len(order), batch_size):
        yield sequences.batch(order[start : start + batch_size])


def same_domain_negatives(targets: RowArray, catalogue: Catalogue, rng: np.random.Generator) -> RowArray:
    """One item of the same domain for every target, uniform over the domain: (tokens,)."""
    domains = catalogue.domain_indices(targets)
    starts = np.array([domain.start for domain in catalogue.domains])[domains]
    sizes = np.array([domain.n_items for domain in catalogue.domains])[domains]
    found: RowArray = starts + (rng.random(len(targets)) * sizes).astype(np.int64)
    return found


def shared_negatives(catalogue: Catalogue, n: int, rng: np.random.Generator) -> list[RowArray]:
    """Draw `n` distinct items of each domain, all of them where it has no more: arrays (<= n,)."""
    return [
        d.start + rng.choice(d.n_items, min(n, d.n_items), replace=False, shuffle=False)
        for d in catalogue.domains
    ]


def _with_next(histories: Histories) -> tuple[RowArray, RowArray]:
    """Item rows of all histories, and the row after each (of no meaning at the end of a history)."""
    rows = histories.rows.astype(np.int64)
    return rows, np.append(rows[1:], 0)
