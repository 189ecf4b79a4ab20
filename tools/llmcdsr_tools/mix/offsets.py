"""Offsets that make the scores of domains comparable where several are asked for.

Softmax regression over the candidates of all domains at once: the score of the mix, the domain, and whether
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
from llmcdsr_lite.mix.weights import MAX_WEIGHT
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.evaluation.comparison import MARGIN
from llmcdsr_tools.evaluation.measures import gains, standard_error
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import FloatArray, Scorer
from llmcdsr_tools.mix.learning import LEAST_USERS
from llmcdsr_tools.mix.positions import Positions, collect
from llmcdsr_tools.mix.pseudo_scores import PseudoScores
from llmcdsr_tools.mix.regression import log_loss

MOST_TARGETS = 4000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Several:
    """Positions with candidates of all domains.

    Parameters
    ----------
    positions : Positions
        Their scores are those of the mix.
    domains : int array (candidates,)
        Domain of each candidate.
    last : int array (n,)
        Domain of the last item of each history.
    top_domains : int array (TOP * domains,)
        Of the columns of ``positions.top_untouched``.
    """

    positions: Positions
    domains: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]
    top_domains: npt.NDArray[np.int64]

    def features(self) -> Floats:
        """Features (candidates, 2 domains): score, of each domain but the first, last item in it, too."""
        every = np.arange(self.top_domains[-1] + 1)
        of_domain = self.domains[:, None] == every
        same = of_domain & (self.last[self.positions.owner, None] == every)
        columns = (self.positions.scores[:, None], of_domain[:, 1:], same)
        return np.concatenate(columns, axis=1).astype(np.float64)

    def ranks(self, offsets: Floats, offsets_last: Floats) -> npt.NDArray[np.int64]:
        """Zero-based rank of every target with the offsets (domains,), as long as it is below ten."""
        p, last = self.positions, self.last
        every = np.arange(len(offsets))
        added = offsets + offsets_last * (last[:, None] == every)  # (n, domains)
        totals = p.scores + added[p.owner, self.domains]
        of_target = totals[p.is_target]
        ahead = ~p.is_sampled & ~p.is_target & (totals >= of_target[p.owner])
        untouched = p.top_untouched + added[:, self.top_domains]
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
    if len(mixes) < 2 or len(np.unique(sample.user_of)) < LEAST_USERS:
        return mixes
    several = _several(scorer, data, counts, mixes, sample, seed, pseudo, popular)
    n_domains = len(mixes)
    start = np.zeros(2 * n_domains)
    start[0] = 1.0
    bounds = [(1e-2, None), *[(None, None)] * (2 * n_domains - 1)]
    args = (several.positions, several.features())
    found = minimize(log_loss, start, args, method="L-BFGS-B", jac=True, bounds=bounds)
    scaled = np.clip(found.x[1:] / found.x[0], -MAX_WEIGHT, MAX_WEIGHT)
    offsets, offsets_last = np.append(0.0, scaled[: n_domains - 1]), scaled[n_domains - 1 :]
    nothing = np.zeros(n_domains)
    before, after = gains(several.ranks(nothing, nothing)), gains(several.ranks(offsets, offsets_last))
    error = standard_error(after - before, several.positions.users)
    measured = {
        "ndcg10_before": float(before.mean()),
        "ndcg10_after": float(after.mean()),
        "standard_error": error,
    }
    mixes = tuple(replace(mix, validation={**mix.validation, "several_domains": measured}) for mix in mixes)
    if not float((after - before).mean()) > MARGIN * error:
        return mixes
    return tuple(
        replace(mix, offset=offset, offset_last=last)
        for mix, offset, last in zip(mixes, offsets.tolist(), offsets_last.tolist(), strict=True)
    )


def _several(
    scorer: Scorer,
    data: Dataset,
    counts: NextCounts | None,
    mixes: Mixes,
    queries: Queries,
    seed: int,
    pseudo: Sequence[PseudoScores],
    popular: FloatArray,
) -> _Several:
    domains = data.catalogue.domains
    parts = []
    for index, (domain, mix) in enumerate(zip(domains, mixes, strict=True)):
        recalled = next((p for p in pseudo if mix.cold.similar and p.source == mix.source), None)
        weighed = popular if mix.cold.popular else None
        found = collect(scorer, queries, index, domains, counts, seed, recalled, popular=weighed)
        warm = np.array([((h >= domain.start) & (h < domain.stop)).any() for h in queries.histories])
        cold = replace(mix.cold, inserted=0.0)  # it would change the scores of other domains, too
        of_kind = np.array([cold.values, mix.warm.values], dtype=np.float32)  # (2, experts)
        added = np.einsum("ce,ce->c", found.values, of_kind[warm.astype(int)[found.owner]])
        parts.append(replace(found, scores=found.scores + added))
    owner = np.concatenate([part.owner for part in parts])
    order = np.argsort(owner, kind="stable")
    names = ("scores", "values", "log_weights", "is_target", "is_seen", "is_sampled")
    joined = {n: np.concatenate([getattr(part, n) for part in parts])[order] for n in names}
    top = np.concatenate([part.top_untouched for part in parts], axis=1)
    starts = np.sum([part.starts for part in parts], axis=0)
    every = np.arange(len(parts))
    return _Several(
        Positions(parts[0].users, starts, **joined, top_untouched=top),
        np.repeat(every, [len(part.scores) for part in parts])[order],
        data.catalogue.domain_indices(np.array([h[-1] for h in queries.histories])),
        np.repeat(every, [part.top_untouched.shape[1] for part in parts]),
    )
