"""Offsets that make the scores of two domains comparable where both are asked for.

Softmax regression over the candidates of both domains at once: the score of the mix, the domain, and whether
the last item of the history is of it. They are kept where NDCG@10 in the whole catalogue is surely better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.settings import MAX_WEIGHT
from llmcdsr_tools.dataset import Dataset
from llmcdsr_tools.evaluation.comparison import MARGIN
from llmcdsr_tools.evaluation.measures import TOP, gains, standard_error
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import FloatArray, Scorer
from llmcdsr_tools.mix.learning import LEAST_USERS
from llmcdsr_tools.mix.positions import Positions, collect
from llmcdsr_tools.mix.pseudo_scores import PseudoScores
from llmcdsr_tools.mix.regression import log_loss

MOST_TARGETS = 4000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Both:
    """Positions with candidates of both domains.

    Parameters
    ----------
    positions : Positions
        Their scores are those of the mix.
    in_second : bool array (candidates,)
    last_in_second : bool array (n,)
    top_in_second : bool array (20,)
        Of the columns of ``positions.top_untouched``.
    """

    positions: Positions
    in_second: npt.NDArray[np.bool_]
    last_in_second: npt.NDArray[np.bool_]
    top_in_second: npt.NDArray[np.bool_]

    def features(self) -> Floats:
        """Features (candidates, 4): score, of the second domain, last item in it, too, both in the first."""
        last = self.last_in_second[self.positions.owner]
        same = (last & self.in_second, ~last & ~self.in_second)
        columns = (self.positions.scores, self.in_second, *same)
        return np.stack(columns, axis=1).astype(np.float64)

    def ranks(self, offset: float, last_first: float, last_second: float) -> npt.NDArray[np.int64]:
        """Zero-based rank of every target, as long as it is below ten."""
        p = self.positions
        to_second = offset + last_second * self.last_in_second
        to_first = last_first * ~self.last_in_second
        totals = p.scores + np.where(self.in_second, to_second[p.owner], to_first[p.owner])
        of_target = totals[p.is_target]
        ahead = ~p.is_sampled & ~p.is_target & (totals >= of_target[p.owner])
        untouched = p.top_untouched + np.where(self.top_in_second, to_second[:, None], to_first[:, None])
        rank: npt.NDArray[np.int64] = np.bincount(p.owner[ahead], minlength=len(p))
        rank += (untouched >= of_target[:, None]).sum(axis=1)
        return rank


def learn_offsets(
    scorer: Scorer,
    data: Dataset,
    counts: NextCounts | None,
    mixes: Mixes,
    queries: Queries,
    seed: int,
    pseudo: Sequence[PseudoScores],
    popular: FloatArray,
) -> Mixes:
    """The mixes with offsets, where they make the first ten of the whole catalogue surely better."""
    sample = queries.sample(MOST_TARGETS, seed)
    if len(np.unique(sample.user_of)) < LEAST_USERS:
        return mixes
    both = _both(scorer, data, counts, mixes, sample, seed, pseudo, popular)
    start = np.array([1.0, 0.0, 0.0, 0.0])
    bounds = [(1e-2, None), *[(None, None)] * 3]
    args = (both.positions, both.features())
    found = minimize(log_loss, start, args, method="L-BFGS-B", jac=True, bounds=bounds)
    offset, last_second, last_first = np.clip(found.x[1:] / found.x[0], -MAX_WEIGHT, MAX_WEIGHT).tolist()
    before, after = gains(both.ranks(0.0, 0.0, 0.0)), gains(both.ranks(offset, last_first, last_second))
    error = standard_error(after - before, both.positions.users)
    measured = {
        "ndcg10_before": float(before.mean()),
        "ndcg10_after": float(after.mean()),
        "standard_error": error,
    }
    first, second = (replace(mix, validation={**mix.validation, "both_domains": measured}) for mix in mixes)
    if not float((after - before).mean()) > MARGIN * error:
        return first, second
    return (
        replace(first, offset_last=last_first),
        replace(second, offset=offset, offset_last=last_second),
    )


def _both(
    scorer: Scorer,
    data: Dataset,
    counts: NextCounts | None,
    mixes: Mixes,
    queries: Queries,
    seed: int,
    pseudo: Sequence[PseudoScores],
    popular: FloatArray,
) -> _Both:
    domains = data.catalogue.domains
    parts = []
    for index, (domain, mix) in enumerate(zip(domains, mixes, strict=True)):
        recalled = next((p for p in pseudo if mix.cold.similar and p.source == mix.source), None)
        weighed = popular if mix.cold.popular else None
        found = collect(scorer, queries, index, domains, counts, seed, recalled, popular=weighed)
        warm = np.array([((h >= domain.start) & (h < domain.stop)).any() for h in queries.histories])
        cold = replace(mix.cold, inserted=0.0)  # it would change the scores of the other domain, too
        of_kind = np.array([cold.values, mix.warm.values], dtype=np.float32)  # (2, experts)
        added = np.einsum("ce,ce->c", found.values, of_kind[warm.astype(int)[found.owner]])
        parts.append(replace(found, scores=found.scores + added))
    first, second = parts
    owner = np.concatenate([first.owner, second.owner])
    order = np.argsort(owner, kind="stable")
    names = ("scores", "values", "log_weights", "is_target", "is_seen", "is_sampled")
    joined = {n: np.concatenate([getattr(first, n), getattr(second, n)])[order] for n in names}
    top = np.concatenate([first.top_untouched, second.top_untouched], axis=1)
    positions = Positions(first.users, first.starts + second.starts, **joined, top_untouched=top)
    in_second = np.repeat([False, True], [len(first.scores), len(second.scores)])[order]
    last = np.array([h[-1] >= domains[1].start for h in queries.histories])
    return _Both(positions, in_second, last, np.repeat([False, True], TOP))
