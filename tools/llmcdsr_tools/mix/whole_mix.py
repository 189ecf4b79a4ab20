"""Learn the whole mix of a model: weights, whether seen items are left out, offsets between domains.

For users without items of the target domain, pseudo items take part: for each source of what the items of a
history say, the mix is learned, and the source with the surest gain is kept. Names that a caller gives are
always used; their weights are learned with the items that were taken out of a history for names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from llmcdsr_lite.catalogue import Catalogue, Domain
from llmcdsr_lite.mix.dense import popularity
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.weights import DomainMix
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.evaluation.comparison import MARGIN
from llmcdsr_tools.evaluation.measures import gains, standard_error
from llmcdsr_tools.evaluation.queries import COLD_MIN_HISTORY, Queries
from llmcdsr_tools.evaluation.scorers import FloatArray, Scorer
from llmcdsr_tools.mix.learning import (
    POPULAR,
    RECALLED,
    SPARSE,
    Learned,
    fit_experts,
    learn_weights,
    ranks,
)
from llmcdsr_tools.mix.offsets import learn_offsets
from llmcdsr_tools.mix.positions import Positions, collect
from llmcdsr_tools.mix.pseudo_scores import PseudoScores

MOST_TARGETS = 10_000  # of a domain and kind of user
FEWEST_USERS = 10  # that tell whether people buy again: nothing is fitted for that


def learn_mix(
    scorer: Scorer,
    data: Dataset,
    counts: NextCounts | None,
    seed: int = 0,
    pseudo: Sequence[PseudoScores] = (),
) -> Mixes:
    """Learn the mix on the validation histories, at every position that training has not seen.

    Parameters
    ----------
    scorer : Scorer
        What the experts are added to: the sequence model alone.
    data : Dataset
    counts : NextCounts or None
        From the training histories.
    seed : int
        Of the users drawn where there are many, of the halves of users and of sampled candidates.
    pseudo : sequence of PseudoScores
        One for everything that the items of a history can say; for given names, the first.

    Returns
    -------
    tuple of DomainMix
        Of each target domain.
    """
    domains = data.catalogue.domains
    popular = popularity(np.bincount(data.train.rows, minlength=len(data.catalogue) + 1))
    everyone = Queries.of_data(data, "valid", "every")
    mixes = []
    for index, domain in enumerate(domains):
        queries = everyone.into(domain)
        has_own = [bool(((h >= domain.start) & (h < domain.stop)).any()) for h in queries.histories]
        warm = queries.take(np.flatnonzero(has_own)).sample(MOST_TARGETS, seed)
        positions = collect(scorer, warm, index, domains, counts, seed)
        learned = learn_weights(positions, seed)
        exclude_seen, measured = _exclude_seen(positions, learned)
        cold = queries.cold(data.catalogue).sample(MOST_TARGETS, seed)
        surest, found = _learn_cold(scorer, cold, index, domains, counts, seed, popular, pseudo)
        mix = DomainMix(
            learned.weights,
            found.weights,
            exclude_seen=exclude_seen,
            validation={"warm": learned.summary(), "cold": found.summary(), "seen": measured},
        )
        if surest is not None:
            mix = replace(mix, source=surest.source)
            some = queries.sample(MOST_TARGETS, seed)
            named = _learn_named(scorer, some, index, data.catalogue, seed, pseudo[0])
            mix = replace(mix, validation={**mix.validation, "named": named.summary()})
            if named.weights.recalls:
                mix = replace(mix, named=named.weights)
        mixes.append(mix)
    return learn_offsets(scorer, data, counts, tuple(mixes), everyone, seed, pseudo, popular)


def _learn_cold(
    scorer: Scorer,
    queries: Queries,
    index: int,
    domains: tuple[Domain, ...],
    counts: NextCounts | None,
    seed: int,
    popular: FloatArray,
    pseudo: Sequence[PseudoScores],
) -> tuple[PseudoScores | None, Learned]:
    """The source with the surest gain, and what was learned with it."""
    learned: list[tuple[PseudoScores | None, Learned]] = []
    sources: Sequence[PseudoScores | None] = pseudo or [None]
    for scores in sources:
        positions = collect(scorer, queries, index, domains, counts, seed, scores, popular=popular)
        experts = (*SPARSE, POPULAR, *(RECALLED if scores else ()))
        learned.append((scores, learn_weights(positions, seed, experts)))
    return max(learned, key=lambda found: found[1].sure)


def _learn_named(
    scorer: Scorer, queries: Queries, index: int, catalogue: Catalogue, seed: int, pseudo: PseudoScores
) -> Learned:
    """Weights where the names are the items of the domain that were taken out of a history."""
    domain = catalogue.domains[index]
    inside = [(h >= domain.start) & (h < domain.stop) for h in queries.histories]
    kept = [i for i, own in enumerate(inside) if own.any() and (~own).sum() >= COLD_MIN_HISTORY]
    cold = replace(
        queries.take(np.array(kept, dtype=np.int64)),
        histories=[queries.histories[i][~inside[i]] for i in kept],
    )
    names = [[catalogue.ids[row - 1] for row in queries.histories[i][inside[i]].tolist()] for i in kept]
    positions = collect(scorer, cold, index, catalogue.domains, None, seed, pseudo, names)
    return fit_experts(positions, seed)


def _exclude_seen(positions: Positions, learned: Learned) -> tuple[bool, dict[str, Any]]:
    """Whether items of the history are better left out, and what was measured; yes if nothing is sure."""
    if learned.n_users < FEWEST_USERS:
        return True, {"n_users": learned.n_users}
    weights = np.array(learned.weights.values)
    with_seen = gains(ranks(positions, weights))
    without = gains(ranks(positions, weights, exclude_seen=True))
    error = standard_error(with_seen - without, positions.users)
    gain = float((with_seen - without).mean())
    share = float(positions.is_seen[positions.is_target].mean())
    measured = {
        "repeats": share,
        "ndcg10_ranked": float(with_seen.mean()),
        "ndcg10_left_out": float(without.mean()),
    }
    return not gain > MARGIN * error, measured
