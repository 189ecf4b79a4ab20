"""Training batches: which sequences, which next items, which negatives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.reference.packing import PackedSequences, pack
from llmcdsr_tools.dataset import Histories

RowArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingSequences:
    """Histories cut to what training uses: inputs and, one place further on, their next items.

    Parameters
    ----------
    rows : int64 array (interactions,)
        Item rows of all histories.
    starts, lengths : int64 arrays (sequences,)
        Inputs of a sequence are ``rows[start : start + length]``, its next items one place further.
    max_length : int
    """

    rows: RowArray
    starts: RowArray
    lengths: RowArray
    max_length: int

    @classmethod
    def from_histories(cls, histories: Histories, max_length: int) -> TrainingSequences:
        """Take the newest ``max_length + 1`` items of every history with two items or more."""
        inputs = np.minimum(histories.lengths - 1, max_length)
        starts = histories.offsets[1:] - 1 - inputs
        usable = inputs >= 1
        return cls(histories.rows.astype(np.int64), starts[usable], inputs[usable], max_length)

    @classmethod
    def overlapped(cls, histories: Histories, catalogue: Catalogue, max_length: int) -> TrainingSequences:
        """Those of users with items of both domains."""
        users = np.flatnonzero(user_domains(histories, catalogue) == 2)
        inputs = np.minimum(histories.lengths[users] - 1, max_length)
        return cls(
            histories.rows.astype(np.int64), histories.offsets[users + 1] - 1 - inputs, inputs, max_length
        )

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, chosen: RowArray) -> TrainingBatch:
        """Pack the chosen sequences."""
        packed, indices = pack(self.rows, self.starts[chosen], self.lengths[chosen], self.max_length)
        return TrainingBatch(packed, self.rows[indices + 1])


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
    first, second = catalogue.domains
    in_second = targets >= second.start
    sizes = np.where(in_second, second.n_items, first.n_items)
    starts = np.where(in_second, second.start, first.start)
    return starts + (rng.random(len(targets)) * sizes).astype(np.int64)


def shared_negatives(catalogue: Catalogue, n: int, rng: np.random.Generator) -> tuple[RowArray, RowArray]:
    """Draw `n` distinct items of each domain, all of them where it has no more: two arrays (<= n,)."""
    first, second = (
        d.start + rng.choice(d.n_items, min(n, d.n_items), replace=False, shuffle=False)
        for d in catalogue.domains
    )
    return first, second


def user_domains(histories: Histories, catalogue: Catalogue) -> RowArray:
    """For every user (users,): 0 or 1 for the one domain of all items, 2 for both, -1 without items."""
    in_second = histories.rows >= catalogue.domains[1].start
    upto = np.concatenate([[0], np.cumsum(in_second)])
    n_second = upto[histories.offsets[1:]] - upto[histories.offsets[:-1]]
    n = histories.lengths
    return np.select([n == 0, n_second == 0, n_second == n], [-1, 0, 1], 2)
