"""Learn the whole mix of a model: weights, whether seen items are left out, offsets between domains."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.mix.settings import DomainMix
from llmcdsr_tools.dataset import Dataset
from llmcdsr_tools.evaluation.comparison import MARGIN
from llmcdsr_tools.evaluation.measures import gains, standard_error
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.evaluation.scorers import Scorer
from llmcdsr_tools.mix.learning import LEAST_USERS, Learned, learn_weights, ranks
from llmcdsr_tools.mix.offsets import learn_offsets
from llmcdsr_tools.mix.positions import Positions, collect

MOST_TARGETS = 10_000  # of a domain and kind of user


def learn_mix(
    scorer: Scorer,
    data: Dataset,
    counts: NextCounts | None,
    seed: int = 0,
) -> Mixes:
    """Learn the mix on the validation histories, at every position that training has not seen.

    Parameters
    ----------
    scorer : Scorer
        What the experts are added to: the sequence model, with the pseudo items of its bundle.
    data : Dataset
    counts : NextCounts or None
        From the training histories.
    seed : int
        Of the users drawn where there are many, of the halves of users and of sampled candidates.

    Returns
    -------
    tuple of two DomainMix
        For target domain A, target domain B.
    """
    domains = data.catalogue.domains
    everyone = Queries.of_data(data, "valid", "every")
    mixes = []
    for index, domain in enumerate(domains):
        queries = everyone.into(domain)
        has_own = [bool(((h >= domain.start) & (h < domain.stop)).any()) for h in queries.histories]
        kinds = {"warm": queries.take(np.flatnonzero(has_own)), "cold": queries.cold(data.catalogue)}
        learned: dict[str, Learned] = {}
        positions: dict[str, Positions] = {}
        for kind, some in kinds.items():
            sample = some.sample(MOST_TARGETS, seed)
            positions[kind] = collect(scorer, sample, index, domains, counts, seed)
            learned[kind] = learn_weights(positions[kind], seed)
        exclude_seen, measured = _exclude_seen(positions["warm"], learned["warm"])
        validation = {**{kind: found.summary() for kind, found in learned.items()}, "seen": measured}
        weights = learned["warm"].weights, learned["cold"].weights
        mixes.append(DomainMix(*weights, exclude_seen=exclude_seen, validation=validation))
    return learn_offsets(scorer, data, counts, (mixes[0], mixes[1]), everyone, seed)


def _exclude_seen(positions: Positions, learned: Learned) -> tuple[bool, dict[str, Any]]:
    """Whether items of the history are better left out, and what was measured; yes if nothing is sure."""
    if learned.n_users < LEAST_USERS:
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
