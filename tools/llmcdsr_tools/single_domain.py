"""Whom names are generated for: histories in one domain, with the domain that names are wanted of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_tools.dataset import Dataset, Histories, Split

IntArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class SingleDomainHistory:
    """A user's history in one domain.

    Parameters
    ----------
    user : str
    domain : {0, 1}
        The domain that names are wanted of; the history is in the other.
    rows : int array
        Item rows, oldest first, at least one.
    hidden : int array
        Item rows of `domain` that were taken out; none for a user who never had any.
    """

    user: str
    domain: int
    rows: IntArray
    hidden: IntArray


def single_domain_histories(dataset: Dataset, split: Split) -> list[SingleDomainHistory]:
    """Histories to generate names for, in the order of the split.

    Of the train split, the single-domain users. Of a held-out split, every user with both domains, once
    with A hidden and once with B. The last item of a held-out history is the target: it is never in
    `rows`, and is in `hidden` where it is of that domain.
    """
    histories = dataset.split(split)
    start_of_b = dataset.catalogue.domains[1].start
    if split == "train":
        kinds = domains_of_users(dataset, histories)
        return [
            SingleDomainHistory(
                histories.users[user], int(kinds[user, 0]), histories[user], histories.rows[:0]
            )
            for user in np.flatnonzero(kinds.sum(axis=1) == 1).tolist()
        ]
    found = []
    for user, rows in zip(histories.users, histories, strict=True):
        for domain in (0, 1):
            in_domain = (rows >= start_of_b) == bool(domain)
            shown, hidden = rows[:-1][~in_domain[:-1]], rows[in_domain]
            if len(shown) and len(hidden):
                found.append(SingleDomainHistory(user, domain, shown, hidden))
    return found


def domains_of_users(dataset: Dataset, histories: Histories) -> npt.NDArray[np.bool_]:
    """Whether each user has items of domain A and of domain B: (users, 2)."""
    n_b = histories.count_from(dataset.catalogue.domains[1].start)
    return np.stack([n_b < histories.lengths, n_b > 0], axis=1)
