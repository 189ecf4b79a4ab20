"""Answers of a recommender."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import overload

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.search.protocol import Rows, Scores


@dataclass(frozen=True)
class Recommendation:
    """One recommended item; a higher score is better."""

    id: str
    title: str
    domain: str
    score: float


@dataclass(frozen=True)
class PseudoItem:
    """An item that was recalled for a history.

    Parameters
    ----------
    id, title : str
    similarity : float
        Its cosine to the pooled names.
    inserted : bool
        Whether the recommender saw it; a long history leaves no room for any.
    """

    id: str
    title: str
    similarity: float
    inserted: bool


@dataclass(frozen=True)
class Influence:
    """Influence of one item of the history on the first recommendation.

    Parameters
    ----------
    id, title : str
    change : float or None
        Score of the first recommendation, minus its score had this one item not been in the history; all
        else is done anew, pseudo items included. 0 for items older than the model looks back. None where
        nothing would have been left to go by.
    """

    id: str
    title: str
    change: float | None


@dataclass(frozen=True)
class Explanation:
    """Why the items of an answer were recommended.

    Parameters
    ----------
    setting : str
        What was done with pseudo items, in words; "off" where nothing was.
    pseudo : tuple of PseudoItem
        Most similar first.
    history : tuple of Influence
        The known items of the history, oldest first; empty without a recommendation, or where it is the
        most popular items.
    shares : mapping
        What the score of the first recommendation is made of, by name: ``model``, the experts of the mix
        (`mix.weights`) and ``offset``; those that gave nothing are left out.
    """

    setting: str
    pseudo: tuple[PseudoItem, ...]
    history: tuple[Influence, ...]
    shares: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recommendations(Sequence[Recommendation]):
    """Ranked items for one user, best first.

    Parameters
    ----------
    items : tuple of Recommendation
    unknown_items : tuple of str
        Ids of the history that are not in the catalogue and were skipped.
    fallback : bool
        True if no item of the history was known: the items are the most popular ones, and their score
        is their share of the training interactions of the domains asked for.
    explanation : Explanation or None
        Where it was asked for.
    unknown_filter_items : tuple of str
        Ids of `allow` and `exclude` that are not in the catalogue and were skipped.
    """

    items: tuple[Recommendation, ...]
    unknown_items: tuple[str, ...] = ()
    fallback: bool = False
    explanation: Explanation | None = None
    unknown_filter_items: tuple[str, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Recommendation, ...]: ...
    def __getitem__(self, index: int | slice) -> Recommendation | tuple[Recommendation, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Recommendation]:
        return iter(self.items)

    def to_dicts(self) -> list[dict[str, str | float]]:
        """The items as plain data, best first: ``id``, ``title``, ``domain`` and ``score``."""
        return [asdict(item) for item in self.items]

    def _repr_html_(self) -> str:
        """A table in a notebook."""
        head = "".join(f"<th>{name}</th>" for name in ("id", "title", "domain", "score"))
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in ((i.id, i.title, i.domain, f"{i.score:.3f}") for i in self.items)
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


@dataclass(frozen=True)
class BatchRecommendations:
    """Ranked items for n users as aligned arrays, best first; k is what was asked for, or all items.

    Parameters
    ----------
    ids : object array (n, k)
        Item ids; None where a user has fewer than k items.
    scores : float32 array (n, k)
        ``-inf`` where there is no item.
    rows : int64 array (n, k)
        Item rows; 0 where there is no item.
    unknown_items : tuple of n tuples of str
        Ids of each history that are not in the catalogue and were skipped.
    fallback : bool array (n,)
        True where the history had no known item (see `Recommendations`).
    explanations : tuple of n Explanation or None
        Where they were asked for.
    unknown_filter_items : tuple of str
        As in `Recommendations`.
    """

    ids: npt.NDArray[np.object_]
    scores: Scores
    rows: Rows
    unknown_items: tuple[tuple[str, ...], ...]
    fallback: npt.NDArray[np.bool_]
    explanations: tuple[Explanation, ...] | None = None
    unknown_filter_items: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def to_dicts(self) -> list[list[dict[str, str | float]]]:
        """Each user's items as plain data, best first: ``id`` and ``score``; empty places are left out."""
        return [
            [{"id": i, "score": s} for i, s in zip(ids, scores, strict=True) if i is not None]
            for ids, scores in zip(self.ids.tolist(), self.scores.tolist(), strict=True)
        ]


def described(catalogue: Catalogue, rows: Rows, scores: Scores) -> tuple[Recommendation, ...]:
    """Items and scores (k,) in words; rows of 0 are left out."""
    ids, titles = catalogue.ids, catalogue.titles
    domain_of = catalogue.domain_of_row
    return tuple(
        Recommendation(ids[row - 1], titles[row - 1], domain_of(row).name, score)
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
        if row
    )
