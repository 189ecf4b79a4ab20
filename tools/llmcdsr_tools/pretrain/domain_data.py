"""A data set cut to one domain, for pre-training.

Item rows are counted within the domain here: 0 is padding, the domain's items are 1..n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.errors import TrainingError
from llmcdsr_tools.data.dataset import Dataset, Histories
from llmcdsr_tools.evaluation.queries import Queries
from llmcdsr_tools.optimization.batches import TrainingSequences


@dataclass(frozen=True)
class DomainData:
    """What a domain's pre-training reads, rows counted within the domain.

    Parameters
    ----------
    domain : Domain
        Starts at row 1.
    sequences : TrainingSequences
        Of the domain's part of every history.
    valid : Queries
        The validation users whose target is in the domain, their history cut to the domain.
    text : float32 array (items, E)
        Text embeddings; row r of the domain is at index r - 1.
    """

    domain: Domain
    sequences: TrainingSequences
    valid: Queries
    text: npt.NDArray[np.float32]

    @classmethod
    def from_dataset(
        cls, data: Dataset, domain: Domain, text: npt.NDArray[np.float32], max_length: int
    ) -> DomainData:
        """Cut a data set and the text embeddings of all its items to one domain.

        Raises
        ------
        TrainingError
            If the domain has no sequence to train on, or no validation user.
        """
        check_domain(data, domain)
        sequences = TrainingSequences.from_histories(domain_histories(data.train, domain), max_length)
        valid = _domain_queries(data.valid, domain)
        own = Domain(domain.name, 1, domain.n_items + 1)
        return cls(own, sequences, valid, text[domain.start - 1 : domain.stop - 1])


def check_domain(data: Dataset, domain: Domain) -> None:
    """Refuse a domain that cannot be pre-trained.

    Raises
    ------
    TrainingError
        If the domain has no sequence to train on, or no validation user.
    """
    if not any(len(history) > 1 for history in domain_histories(data.train, domain)):
        raise TrainingError(f"domain {domain.name!r} has no training history of two of its items or more")
    if not len(_domain_queries(data.valid, domain).targets):
        raise TrainingError(
            f"no validation user has a target in domain {domain.name!r} and an item of it before: "
            "nothing to choose the best epoch on"
        )


def domain_histories(histories: Histories, domain: Domain) -> Histories:
    """The part of every history that is in a domain, rows counted within it; may be empty."""
    inside = (histories.rows >= domain.start) & (histories.rows < domain.stop)
    upto = np.concatenate([[0], np.cumsum(inside)])  # items of the domain before each position
    rows = (histories.rows[inside] - (domain.start - 1)).astype(np.int32)
    return Histories(rows, upto[histories.offsets].astype(np.int64), histories.users)


def _domain_queries(valid: Histories, domain: Domain) -> Queries:
    """Validation queries into a domain, their histories cut to it."""
    into = Queries.from_split(valid).into(domain)
    histories, targets = [], []
    for history, target in zip(into.histories, into.targets, strict=True):
        inside = history[(history >= domain.start) & (history < domain.stop)]
        if len(inside):
            histories.append(inside - (domain.start - 1))
            targets.append(target - (domain.start - 1))
    return Queries(histories, np.array(targets, dtype=np.int64))
