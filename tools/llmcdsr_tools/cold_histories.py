"""Whom names are generated for: histories without an item of a domain, the one that names are wanted of.

Users, or items: an item is asked for as the history of somebody who has it alone, and what is answered serves
every user who has it, those who come later, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from llmcdsr_tools.data.dataset import Dataset, Split

IntArray = npt.NDArray[np.integer[Any]]
Whom = Split | Literal["items"]
_WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(frozen=True, eq=False)
class ColdHistory:
    """A user's history in other domains than the one that names are wanted of.

    Parameters
    ----------
    user : str
        Id of the user, or of the item.
    domain : int
        Index of the domain that names are wanted of.
    rows : int array
        Item rows, oldest first, at least one.
    hidden : int array
        Item rows of `domain` that were taken out; none for a user who never had any.
    """

    user: str
    domain: int
    rows: IntArray
    hidden: IntArray


def cold_histories(dataset: Dataset, split: Whom) -> list[ColdHistory]:
    """Histories to generate names for, in the order of the split, or of the items.

    Of the train split, every user once for each domain that the history has no item of. Of a held-out split,
    every user with several domains, once with each of them hidden. The last item of a held-out history is
    the target: it is never in `rows`, and is in `hidden` where it is of that domain. Of items, the first of
    those that share a question (`question_of_items`).
    """
    catalogue = dataset.catalogue
    every_domain = range(len(catalogue.domains))
    if split == "items":
        firsts = np.unique(question_of_items(dataset)[1:])
        nothing = np.zeros(0, dtype=np.int32)
        return [
            ColdHistory(catalogue.ids[row - 1], domain, np.array([row], dtype=np.int32), nothing)
            for row, own in zip(firsts.tolist(), catalogue.domain_indices(firsts).tolist(), strict=True)
            for domain in every_domain
            if domain != own
        ]
    histories = dataset.split(split)
    if split == "train":
        lacks = ~histories.has_domains(catalogue)
        lacks[histories.lengths == 0] = False
        return [
            ColdHistory(histories.users[user], domain, histories[user], histories.rows[:0])
            for user, domain in np.argwhere(lacks).tolist()
        ]
    found = []
    for user, rows in zip(histories.users, histories, strict=True):
        domains = catalogue.domain_indices(rows)
        for domain in every_domain:
            in_domain = domains == domain
            shown, hidden = rows[:-1][~in_domain[:-1]], rows[in_domain]
            if len(shown) and len(hidden):
                found.append(ColdHistory(user, domain, shown, hidden))
    return found


def question_of_items(dataset: Dataset) -> npt.NDArray[np.int64]:
    """Row of the item whose question every item shares (items + 1,), row 0 being 0.

    Items of a domain whose titles have the same words, digits and single letters left out, share one: sizes
    and numbers of pieces make no other customer. An item without a word has its own.
    """
    rows = np.arange(len(dataset.catalogue) + 1)
    first: dict[tuple[int, tuple[str, ...]], int] = {}
    for number, domain in enumerate(dataset.catalogue.domains):
        for row in range(domain.start, domain.stop):
            words = tuple(_WORD.findall(dataset.catalogue.titles[row - 1].casefold()))
            if words:
                rows[row] = first.setdefault((number, words), row)
    return rows
