"""Measures of scorers: what a user sees first, the first ten of the whole domain.

Beside it, for papers, HR@10 and NDCG@10 among 999 negatives in expectation over their draw
(`ExpectedMetrics`). Ties and scores that are not numbers count against the scorer. Standard errors are
clustered by user where a user gives several targets.

Groups: *all*; *cold*, the cold cross-domain form of the same queries (`Queries.cold`); of *all*, users
with and without items of the target's domain in the history, and by the history's length.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_tools.data.dataset import Dataset, Positions, Split
from llmcdsr_tools.evaluation.expected import ExpectedMetrics
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import FloatArray, IntArray, Scorer

TOP = 10
LENGTHS = ((1, 4), (5, 9), (10, 19), (20, 49), (50, None))
GROUPS = ("all", "cold")
_CHUNK_SCORES = 1 << 23  # at a time: 32 MB in float32
_TIE = 4e-6  # of the largest score: products round equal sums in more than one way


@dataclass(frozen=True)
class Ranked:
    """Ranks of the targets of some queries.

    Parameters
    ----------
    rank : int64 array (n,)
        Zero-based, in the whole domain, items of the history ranked, too.
    rank_unseen : int64 array (n,)
        With the items of the history left out; a target that is in the history is out of reach.
    users : int64 array (n,)
        Whose queries they are.
    repeated : bool array (n,)
        Whether the target is in the history.
    lengths, n_own : int64 arrays (n,)
        Items of the history, and those of them that are of the target's domain.
    recommended : int64 array (items,), optional
        How often each item of the domain is among the first ten.
    """

    rank: npt.NDArray[np.int64]
    rank_unseen: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64]
    repeated: npt.NDArray[np.bool_]
    lengths: npt.NDArray[np.int64]
    n_own: npt.NDArray[np.int64]
    recommended: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Measure:
    """Measures of one scorer, group of queries and target domain; nan without queries.

    Parameters
    ----------
    scorer, group, domain : str
    n_targets, n_users : int
    hr10, ndcg10, mrr : float
        In the whole domain.
    hr10_error, ndcg10_error : float
        Standard errors; nan for one user.
    expected_hr10, expected_ndcg10 : float
        Among 999 negatives, or all others where the domain has fewer.
    hr10_unseen, ndcg10_unseen, expected_hr10_unseen : float
        In the whole domain, and expected among 999 negatives, with the items of the history left out, those
        of it that are targets out of reach.
    repeats : float
        Share of targets that are in the history.
    coverage : float
        Share of the domain's items that are among anybody's first ten; nan for parts of a group.
    popularity : float
        Mean percentile, in [0, 1], of what is recommended among the domain's items by training interactions.
    """

    scorer: str
    group: str
    domain: str
    n_targets: int
    n_users: int
    hr10: float
    ndcg10: float
    mrr: float
    hr10_error: float
    ndcg10_error: float
    expected_hr10: float
    expected_ndcg10: float
    hr10_unseen: float
    ndcg10_unseen: float
    expected_hr10_unseen: float
    repeats: float
    coverage: float = math.nan
    popularity: float = math.nan


@dataclass(frozen=True)
class Measured:
    """Measures of several scorers on the same queries, and the ranks behind them.

    Parameters
    ----------
    split : str
    positions : {"last", "every"}
    measures : tuple of Measure
        By group and domain, scorers in order.
    ranked : dict
        Ranks by (scorer, group, domain), of the groups `GROUPS`.
    """

    split: Split
    positions: Positions
    measures: tuple[Measure, ...]
    ranked: dict[tuple[str, str, str], Ranked] = field(repr=False, default_factory=dict)

    def find(self, scorer: str, group: str, domain: str) -> Measure | None:
        """The measure of a scorer for a group and domain, if it is there."""
        wanted = (scorer, group, domain)
        return next((m for m in self.measures if (m.scorer, m.group, m.domain) == wanted), None)


def measure(
    scorers: Sequence[Scorer],
    data: Dataset,
    split: Split,
    positions: Positions = "last",
    *,
    groups: Sequence[str] = GROUPS,
    parts: bool = True,
    most: int | None = None,
    queries: Queries | None = None,
) -> Measured:
    """Measure scorers on the held-out histories of a split.

    Parameters
    ----------
    scorers : sequence of Scorer
    data : Dataset
    split : {"valid", "test"}
    positions : {"last", "every"}
        Targets: the last item of every history, or every item that training has not seen.
    groups : sequence of {"all", "cold"}
    parts : bool
        Measure parts of the group *all*, too, and coverage.
    most : int, optional
        At most so many targets a domain and group, of users drawn at random.
    queries : Queries, optional
        Those of the split, if they are at hand.

    Returns
    -------
    Measured
    """
    everyone = queries or Queries.of_data(data, split, positions)
    counts = np.bincount(data.train.rows, minlength=len(data.catalogue) + 1).astype(np.float64)
    measures: list[Measure] = []
    ranked: dict[tuple[str, str, str], Ranked] = {}
    for group in groups:
        of_group = everyone if group == "all" else everyone.cold(data.catalogue)
        for domain in data.catalogue.domains:
            chosen = of_group.into(domain)
            chosen = chosen if most is None else chosen.sample(most)
            for scorer in scorers:
                found = rank(scorer, chosen, domain, top=parts)
                ranked[scorer.name, group, domain.name] = found
                kinds = _parts(found) if parts and group == "all" else ()
                for name, part in ((group, slice(None)), *kinds):
                    measures.append(_measure(scorer.name, name, domain, found, part, counts))
    return Measured(split, positions, tuple(measures), ranked)


def rank(scorer: Scorer, queries: Queries, domain: Domain, *, top: bool = False) -> Ranked:
    """Rank the targets of queries, all of them in `domain`; with `top`, count what is recommended."""
    n = len(queries)
    ranks, unseen = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    own = [np.unique(h[(h >= domain.start) & (h < domain.stop)]) - domain.start for h in queries.histories]
    columns = queries.targets - domain.start
    repeated = np.array([c in rows for c, rows in zip(columns.tolist(), own, strict=True)], dtype=bool)
    recommended = np.zeros(domain.n_items, dtype=np.int64)
    for chunk in _chunks(n, domain.n_items):
        scores = scorer.scores(queries.histories[chunk], domain)  # (chunk, items)
        if top:
            placed = np.argpartition(-scores, min(TOP, domain.n_items - 1), axis=1)[:, :TOP]
            recommended += np.bincount(placed.ravel(), minlength=domain.n_items)
        target = np.take_along_axis(scores, columns[chunk, None], axis=1)
        below = scores < target - _TIE * np.abs(target)
        ranks[chunk] = domain.n_items - 1 - np.count_nonzero(below, axis=1)
        for i, rows in enumerate(own[chunk], chunk.start):
            ahead = len(rows) - np.count_nonzero(below[i - chunk.start, rows])
            unseen[i] = domain.n_items if repeated[i] else ranks[i] - ahead
    return Ranked(
        ranks,
        unseen,
        queries.user_of,
        repeated,
        np.array(list(map(len, queries.histories)), dtype=np.int64),
        np.array(list(map(len, own)), dtype=np.int64),
        recommended if top else None,
    )


def gains(rank: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Gain of NDCG@10 (n,) of zero-based ranks (n,): ``1 / log2(rank + 2)``, 0 from rank 10."""
    found: npt.NDArray[np.float64] = (rank < TOP) / np.log2(rank + 2)
    return found


def standard_error(values: npt.NDArray[np.float64], users: npt.NDArray[np.int64]) -> float:
    """Standard error of the mean of values (n,), those of a user being one observation; inf for one user.

    The cluster-robust estimate: ``sqrt(U / (U - 1) sum_u (sum of the deviations of u) ** 2) / n``.
    """
    _, place = np.unique(users, return_inverse=True)
    sums = np.bincount(place, values - values.mean()) if len(values) else np.zeros(0)
    if len(sums) < 2:
        return math.inf
    return math.sqrt(len(sums) / (len(sums) - 1) * float(sums @ sums)) / len(values)


def _measure(
    scorer: str, group: str, domain: Domain, found: Ranked, part: IntArray | slice, counts: FloatArray
) -> Measure:
    rank, unseen, users = found.rank[part], found.rank_unseen[part], found.users[part]
    n = len(rank)
    if not n:
        return Measure(scorer, group, domain.name, 0, 0, *[math.nan] * 11)
    hits, gain = (rank < TOP).astype(np.float64), gains(rank)
    hr10_error, ndcg10_error = (
        error if math.isfinite(error := standard_error(values, users)) else math.nan
        for values in (hits, gain)
    )
    expected = ExpectedMetrics(domain.n_items)
    coverage = popularity = math.nan
    if found.recommended is not None and isinstance(part, slice):
        coverage = float(np.count_nonzero(found.recommended) / domain.n_items)
        order = np.argsort(np.argsort(counts[domain.start : domain.stop], kind="stable"))
        weights = found.recommended / found.recommended.sum()
        popularity = float(weights @ order / max(1, domain.n_items - 1))
    return Measure(
        scorer,
        group,
        domain.name,
        n,
        len(np.unique(users)),
        float(hits.mean()),
        float(gain.mean()),
        float((1 / (rank + 1)).mean()),
        hr10_error,
        ndcg10_error,
        float(expected.hits(rank).mean()),
        float(expected.gains(rank).mean()),
        float((unseen < TOP).mean()),
        float(gains(unseen).mean()),
        float(expected.hits(unseen).mean()),
        float(found.repeated[part].mean()),
        coverage,
        popularity,
    )


def _parts(found: Ranked) -> Iterator[tuple[str, IntArray]]:
    """Parts of a group by name: with and without items of the domain, and by length, those with queries."""
    yield "with items", np.flatnonzero(found.n_own > 0)
    yield "without items", np.flatnonzero(found.n_own == 0)
    for least, longest in LENGTHS:
        name = f"{least}+ items" if longest is None else f"{least}-{longest} items"
        chosen = np.flatnonzero((found.lengths >= least) & (found.lengths <= (longest or math.inf)))
        if len(chosen):
            yield name, chosen


def _chunks(n: int, n_items: int) -> Iterator[slice]:
    size = max(1, _CHUNK_SCORES // n_items)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
