"""What the mix is learned from: at each position, the model's scores and the experts' values that matter.

Of the items that no expert touches, a sample stands for all of them in the likelihood, and the ten with the
highest scores decide about the first ten places. Dense experts touch all items of the domain: where they take
part, the `N_TOP` that the model or one of them puts first count as touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.mix.experts import NextCounts, sparse_experts
from llmcdsr_lite.mix.weights import EXPERTS, N_SPARSE
from llmcdsr_lite.model.packing import token_indices
from llmcdsr_lite.request import Asked
from llmcdsr_tools.evaluation.measures import TOP
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import FloatArray, Scorer
from llmcdsr_tools.mix.pseudo_scores import PseudoScores

N_SAMPLED = 128
N_TOP = 100
_CHUNK = 256

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Positions:
    """Candidates of n positions in one domain, those of a position one after another.

    Parameters
    ----------
    users : int64 array (n,)
    starts : int64 array (n + 1,)
        Where the candidates of each position start.
    scores : float32 array (candidates,)
        Of the model.
    values : float32 array (candidates, experts)
        Of the experts; the sparse ones are zero for sampled candidates.
    log_weights : float32 array (candidates,)
        Logarithm of how many items a candidate stands for.
    is_target, is_seen, is_sampled : bool arrays (candidates,)
        Whether a candidate is what came next, is in the history, stands for items that no expert touches.
    top_untouched : float32 array (n, 10)
        Highest scores of items that no expert touches, the target left out; ``-inf`` where there are fewer.
    """

    users: Ints
    starts: Ints
    scores: npt.NDArray[np.float32]
    values: npt.NDArray[np.float32]
    log_weights: npt.NDArray[np.float32]
    is_target: npt.NDArray[np.bool_]
    is_seen: npt.NDArray[np.bool_]
    is_sampled: npt.NDArray[np.bool_]
    top_untouched: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.users)

    @property
    def owner(self) -> Ints:
        """Position of every candidate."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def take(self, chosen: Ints) -> Positions:
        """Some of the positions."""
        lengths = np.diff(self.starts)[chosen]
        ends = np.cumsum(lengths)
        index = token_indices(self.starts[chosen], lengths)
        return Positions(
            self.users[chosen],
            np.concatenate([[0], ends]),
            self.scores[index],
            self.values[index],
            self.log_weights[index],
            self.is_target[index],
            self.is_seen[index],
            self.is_sampled[index],
            self.top_untouched[chosen],
        )


def collect(
    scorer: Scorer,
    queries: Queries,
    index: int,
    domains: tuple[Domain, ...],
    counts: NextCounts | None,
    seed: int = 0,
    pseudo: PseudoScores | None = None,
    asked: Sequence[Asked] | None = None,
    popular: FloatArray | None = None,
) -> Positions:
    """Candidates of the queries in domain `index`; where the target is of another domain, none is it.

    With `popular`, the popularity of every item row, that expert takes part; with `pseudo`, those of pseudo
    items, recalled as `asked` has it for each query ("auto").
    """
    domain = domains[index]
    rng = np.random.default_rng([seed, 11, index])
    parts: list[tuple[npt.NDArray[Any], ...]] = []
    top = np.full((len(queries), TOP), -np.inf, dtype=np.float32)
    for chunk in _chunks(len(queries)):
        histories = queries.histories[chunk]
        scores = np.array(scorer.scores(histories, domain), dtype=np.float32)  # (chunk, items)
        dense: dict[str, npt.NDArray[np.float32]] = {}  # (chunk, items) by expert
        if popular is not None:
            dense["popular"] = np.broadcast_to(popular[domain.start : domain.stop], scores.shape)
        if pseudo is not None:
            of_each = pseudo.values(histories, domain, None if asked is None else asked[chunk])
            dense |= zip(("similar", "inserted"), of_each, strict=True)
        first = _first(scores, list(dense.values()))
        for i, history in enumerate(histories):
            rows, sparse = sparse_experts(history, index, domains, counts)
            target = int(queries.targets[chunk.start + i])
            more = [target] if domain.start <= target < domain.stop else []
            touched = np.union1d(rows, np.concatenate([first[i] + domain.start, more]).astype(np.int64))
            values = np.zeros((len(touched), N_SPARSE), dtype=np.float32)
            values[np.searchsorted(touched, rows)] = sparse
            parts.append(
                _candidates(
                    scores[i],
                    {n: v[i] for n, v in dense.items()},
                    touched,
                    values,
                    history,
                    target,
                    domain,
                    rng,
                )
            )
            if not dense:
                untouched = scores[i]
                untouched[touched - domain.start] = -np.inf
                best = np.partition(untouched, max(0, len(untouched) - TOP))[-TOP:]
                top[chunk.start + i, : len(best)] = best
    lengths = [len(part[0]) for part in parts]
    joined = (
        [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        if parts
        else [*(np.zeros((0, *shape), t) for shape, t in _EMPTY)]
    )
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    scores, values, log_weights, is_target, is_seen, is_sampled = joined
    return Positions(
        queries.user_of, starts, scores, values, log_weights, is_target, is_seen, is_sampled, top
    )


def _first(scores: npt.NDArray[np.float32], dense: Sequence[npt.NDArray[np.float32]]) -> Ints:
    """Columns that the model, or one of the dense experts (n, items), alone or beside it, puts first."""
    n = min(N_TOP, scores.shape[1])
    found = [np.zeros((len(scores), 0), dtype=np.int64)]
    if dense:
        spread = scores.std()
        beside = [scores + expert * (spread / max(float(expert.std()), 1e-6)) for expert in dense]
        found += [np.argpartition(-values, n - 1, axis=1)[:, :n] for values in (scores, *dense, *beside)]
    return np.concatenate(found, axis=1)


_EMPTY: tuple[tuple[tuple[int, ...], Any], ...] = (
    ((), np.float32),
    ((len(EXPERTS),), np.float32),
    ((), np.float32),
    ((), bool),
    ((), bool),
    ((), bool),
)


def _candidates(
    scores: npt.NDArray[np.float32],
    dense: Mapping[str, npt.NDArray[np.float32]],
    rows: Ints,
    values: npt.NDArray[np.float32],
    history: npt.NDArray[np.integer[Any]],
    target: int,
    domain: Domain,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[Any], ...]:
    """Scores, values, logarithms of weights and the three flags of the candidates of one position."""
    columns = rows - domain.start
    n_untouched = len(scores) - len(rows)
    is_drawn = np.zeros(len(scores), dtype=bool)  # set operations cost several times as much
    is_drawn[rng.integers(0, len(scores), min(N_SAMPLED, n_untouched))] = True
    is_drawn[columns] = False
    sampled = is_drawn.nonzero()[0]
    is_seen = np.zeros(len(scores), dtype=bool)
    is_seen[history[(history >= domain.start) & (history < domain.stop)] - domain.start] = True
    n, m = len(rows), len(sampled)
    log_weights = np.zeros(n + m, dtype=np.float32)
    if m:
        log_weights[n:] = np.log(n_untouched / m)
    flags = np.zeros((3, n + m), dtype=bool)
    flags[0, :n] = rows == target
    flags[1, :n] = is_seen[columns]
    flags[2, n:] = True
    chosen = np.concatenate([columns, sampled])
    all_values = np.zeros((n + m, len(EXPERTS)), dtype=np.float32)
    all_values[:n, :N_SPARSE] = values
    for name, of_items in dense.items():
        all_values[:, EXPERTS.index(name)] = of_items[chosen]
    return (
        scores[chosen],
        all_values,
        log_weights,
        *flags,
    )


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK))
