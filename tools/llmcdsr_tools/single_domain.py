"""Whom names are generated for: histories in one domain, with the domain that names are wanted of.

Users, or items: an item is asked for as the history of somebody who has it alone, and what is answered serves
every user who has it, those who come later, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmcdsr_tools.dataset import Dataset, Histories, Split

IntArray = npt.NDArray[np.integer[Any]]
Whom = Split | Literal["items"]
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, eq=False)
class SingleDomainHistory:
    """A user's history in one domain.

    Parameters
    ----------
    user : str
        Id of the user, or of the item.
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


def single_domain_histories(dataset: Dataset, split: Whom) -> list[SingleDomainHistory]:
    """Histories to generate names for, in the order of the split, or of the items.

    Of the train split, the single-domain users. Of a held-out split, every user with both domains, once
    with A hidden and once with B. The last item of a held-out history is the target: it is never in
    `rows`, and is in `hidden` where it is of that domain. Of items, the first of those that share a question
    (`question_of_items`).
    """
    if split == "items":
        domains = dataset.catalogue.domains
        firsts = np.unique(question_of_items(dataset)[1:])
        return [
            SingleDomainHistory(
                dataset.catalogue.ids[row - 1],
                int(row < domains[1].start),
                np.array([row], dtype=np.int32),
                np.zeros(0, dtype=np.int32),
            )
            for row in firsts.tolist()
        ]
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


def question_of_items(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Row of the item whose question every item shares (items + 1,), row 0 being 0.

    Items of a domain whose titles have the same words, digits and single letters left out, share one: sizes
    and numbers of pieces make no other customer. An item without a word has its own.
    """
    rows = np.arange(len(dataset.catalogue) + 1)
    first: dict[tuple[int, tuple[str, ...]], int] = {}
    start_of_b = dataset.catalogue.domains[1].start
    for row, title in enumerate(dataset.catalogue.titles, 1):
        words = tuple(_WORD.findall(title.casefold()))
        if words:
            rows[row] = first.setdefault((int(row >= start_of_b), words), row)
    return rows


def domains_of_users(dataset: Dataset, histories: Histories) -> npt.NDArray[np.bool_]:
    """Whether each user has items of domain A and of domain B: (users, 2)."""
    n_b = histories.count_from(dataset.catalogue.domains[1].start)
    return np.stack([n_b < histories.lengths, n_b > 0], axis=1)
