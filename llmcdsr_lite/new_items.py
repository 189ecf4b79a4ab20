"""New items without retraining: what they must be, and the bundle with them in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.files import is_utf8
from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.reference.recall_network import project, unit_rows
from llmcdsr_lite.request import listed
from llmcdsr_lite.text.encoder_object import Encoder
from llmcdsr_lite.text.title_neighbours import TitleMap

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class NewItem:
    """An item that the model was not trained with.

    Parameters
    ----------
    id : str
        An id that the catalogue does not have.
    domain : str
        Name of the domain that it is of.
    title : str
        May be empty where there is an embedding.
    embedding : sequence of E float, optional
        Its title's embedding by the encoder that the bundle was made with; without it, the title is
        encoded.
    source : str
        Where it was read (file and line), for messages.
    """

    id: str
    domain: str
    title: str = ""
    embedding: Sequence[float] | FloatArray | None = None
    source: str = field(default="", repr=False)


def add_to_bundle(
    bundle: Bundle, items: Iterable[NewItem | Mapping[str, Any]], encoder: Encoder | None
) -> Bundle:
    """The bundle with new items: the last ones of their domains, in the order that they come in.

    Parameters
    ----------
    bundle : Bundle
    items : iterable of NewItem, or of mappings with its fields
    encoder : Encoder or None
        For items without an embedding.

    Raises
    ------
    UsageError
        If the bundle cannot make vectors of new items, or a title needs an encoder.
    DataError
        If an item cannot be used; the message says which and why.
    """
    titles = bundle.new_items
    if titles is None:
        raise UsageError(
            "new items: this bundle has nothing to make their vectors with; export it with text embeddings"
        )
    if isinstance(items, Mapping | NewItem):
        raise UsageError("items is one item, expected a sequence of new items")
    new = [checked_item(item, f"item {n}") for n, item in enumerate(listed("items", items, "new items"))]
    _check(new, bundle.catalogue)
    text = _text(new, titles, encoder)  # (n, E)
    growth = _Growth(bundle.catalogue, new)
    catalogue = growth.catalogue(bundle.catalogue, new)
    vectors = [
        titles.item_vectors(text[chosen], bundle.item_vectors, domain.start, domain.stop, weighing)
        for chosen, domain, weighing in zip(
            growth.chosen, bundle.catalogue.domains, titles.weighings, strict=True
        )
    ]
    config = replace(bundle.parameters.config, n_items=len(catalogue))
    table = growth.rows(bundle.item_vectors, vectors)
    return replace(
        bundle,
        catalogue=catalogue,
        parameters=type(bundle.parameters)(config, table, bundle.parameters.dense),
        item_counts=growth.zeros(bundle.item_counts),
        folder=None,
        recall=None if bundle.recall is None else _grown_recall(bundle, bundle.recall, text, growth),
        # an added item stands for no other: nothing is made of what was made, whatever the order of additions
        new_items=replace(
            titles,
            directions=growth.zeros(titles.directions),
            added=tuple(n + len(more) for n, more in zip(titles.added, growth.chosen, strict=True)),
        ),
        next_counts=None if bundle.next_counts is None else _grown_counts(bundle.next_counts, growth),
        index=None,  # it knows neither the new items nor the rows that have moved
    )


class _Growth:
    """Puts what belongs to new items behind what belongs to the items of their domains.

    Parameters
    ----------
    catalogue : Catalogue
        Before.
    new : list of NewItem
    """

    def __init__(self, catalogue: Catalogue, new: list[NewItem]) -> None:
        self._domains = catalogue.domains
        self.chosen = [  # which of the new items are of each domain
            np.array([i for i, one in enumerate(new) if one.domain == domain.name], dtype=np.int64)
            for domain in catalogue.domains
        ]

    def catalogue(self, old: Catalogue, new: list[NewItem]) -> Catalogue:
        """The catalogue with the new items."""
        return Catalogue.from_sizes(
            self._strings(old.ids, [one.id for one in new]),
            self._strings(old.titles, [one.title for one in new]),
            [domain.name for domain in old.domains],
            [d.n_items + len(rows) for d, rows in zip(old.domains, self.chosen, strict=True)],
        )

    def _strings(self, old: Sequence[str], added: list[str]) -> list[str]:
        strings: list[str] = []
        for domain, rows in zip(self._domains, self.chosen, strict=True):
            strings += old[domain.start - 1 : domain.stop - 1]
            strings += [added[i] for i in rows.tolist()]
        return strings

    def new_rows(self, n_old: int) -> npt.NDArray[np.int64]:
        """Where each of the old rows (items + 1,) is now."""
        rows = np.arange(n_old)
        for domain, added in zip(self._domains, self.chosen, strict=True):
            rows[domain.stop :] += len(added)
        return rows

    def rows(self, old: npt.NDArray[Any], of_new: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """An array (items + 1, ...) with the rows of the new items of each domain."""
        parts = [old[:1]]
        for domain, rows in zip(self._domains, of_new, strict=True):
            parts += [old[domain.start : domain.stop], rows]
        return np.concatenate(parts).astype(old.dtype, copy=False)

    def zeros(self, old: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array (items + 1, ...) with rows of zeros for the new items."""
        return self.rows(old, [np.zeros((len(rows), *old.shape[1:]), old.dtype) for rows in self.chosen])


def checked_item(item: NewItem | Mapping[str, Any], source: str) -> NewItem:
    """Return an item whose fields have the right types, from `source` if it does not say where from.

    Raises
    ------
    DataError
        If a field is missing, unknown or of another type.
    """
    if isinstance(item, Mapping):
        unknown = sorted(map(str, item.keys() - {f.name for f in fields(NewItem)}))
        if unknown:
            raise DataError(f"{source}: field {unknown[0]!r} is not one of id, domain, title, embedding")
        missing = [name for name in ("id", "domain") if name not in item]
        if missing:
            raise DataError(f"{source}: field {missing[0]!r} is missing")
        item = NewItem(**item)
    elif not isinstance(item, NewItem):
        raise DataError(f"{source}: is {item!r:.60}, expected a NewItem or a mapping with its fields")
    if not isinstance(item.source, str):
        raise DataError(f"{source}: field 'source' is {item.source!r:.60}, expected a string")
    source = item.source or source
    for name in ("id", "domain", "title"):
        value = getattr(item, name)
        if not isinstance(value, str):
            raise DataError(f"{source}: field {name!r} is {value!r:.60}, expected a string")
        if not is_utf8(value):
            raise DataError(f"{source}: field {name!r} is not valid Unicode")
    if not item.id:
        raise DataError(f"{source}: field 'id' is empty")
    return replace(item, source=source)


def _check(items: list[NewItem], catalogue: Catalogue) -> None:
    """Refuse ids that are taken, and domains that there are not."""
    names = [domain.name for domain in catalogue.domains]
    seen: dict[str, NewItem] = {}
    for item in items:
        if item.id in catalogue.row_of_id:
            raise DataError(f"{item.source}: item {item.id!r} is in the catalogue already")
        if item.id in seen:
            raise DataError(f"{item.source}: item {item.id!r} came before, as {seen[item.id].source}")
        if item.domain not in names:
            raise DataError(
                f"{item.source}: no domain is named {item.domain!r}, expected {' or '.join(map(repr, names))}"
            )
        seen[item.id] = item


def _text(items: list[NewItem], titles: TitleMap, encoder: Encoder | None) -> npt.NDArray[np.float32]:
    """Text embeddings (n, E), those that are given and those of titles."""
    text = np.zeros((len(items), titles.dimension), dtype=np.float32)
    to_encode = []
    for i, item in enumerate(items):
        if item.embedding is not None:
            text[i] = _embedding(item, titles.dimension)
        elif not item.title.strip():
            raise DataError(f"{item.source}: item {item.id!r} has neither a title nor an embedding")
        else:
            to_encode.append(i)
    if to_encode:
        if encoder is None:
            item = items[to_encode[0]]
            raise UsageError(
                f"{item.source}: item {item.id!r} has no embedding, and there is no encoder for its title: "
                "load the bundle with encoder=FOLDER, in a command --encoder FOLDER"
            )
        # one at a time: a quantised model gives a text another vector in other company
        text[to_encode] = encoder.encode([items[i].title for i in to_encode], batch_size=1)
    for i in np.flatnonzero(~titles.directions_of(text).any(axis=1)).tolist():
        what = "a title" if items[i].embedding is None else "an embedding"
        raise DataError(f"{items[i].source}: item {items[i].id!r} has {what} that says nothing")
    return text


def _embedding(item: NewItem, dimension: int) -> npt.NDArray[np.float32]:
    try:
        vector = np.asarray(item.embedding, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(
            f"{item.source}: item {item.id!r}: its embedding is {item.embedding!r:.60}, expected numbers"
        ) from None
    if vector.shape != (dimension,):
        raise DataError(
            f"{item.source}: item {item.id!r}: its embedding has the shape {vector.shape}, this bundle "
            f"expects ({dimension},): embed titles with the encoder that it was made with"
        )
    with np.errstate(over="ignore"):  # refused here
        single = vector.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(f"{item.source}: item {item.id!r}: its embedding has a value that is not finite")
    return single


def _grown_counts(counts: NextCounts, growth: _Growth) -> NextCounts:
    """Next-item counts with sparse rows of nothing for new items, whose rows of the others have moved."""
    lengths = np.diff(counts.starts).reshape(len(growth.chosen), -1)  # (domains, items + 1)
    n_old = lengths.shape[1]
    grown = np.concatenate([growth.zeros(of_domain) for of_domain in lengths])
    moved = growth.new_rows(n_old)[counts.rows].astype(np.int32)
    return NextCounts(np.concatenate([[0], np.cumsum(grown)]), moved, np.asarray(counts.weights))


def _grown_recall(bundle: Bundle, recall: RecallNetwork, text: FloatArray, growth: _Growth) -> RecallNetwork:
    """The recall network with what new items say in other domains, and their vectors in their own.

    A new item says its title, or nothing where items say their companions for a target domain: it has none.
    """
    projections = recall.projections
    if projections is None or projections.shape[2] != text.shape[1]:
        names = np.stack([growth.zeros(said) for said in recall.names])
        return replace(recall, names=names, items=growth.zeros(recall.items))
    grown = []
    for place, said in enumerate(recall.names):
        of_new = []
        for domain, rows in enumerate(growth.chosen):
            target = place + (place >= domain)
            by_title = project(text[rows], projections[target])
            of_new.append(by_title if bundle.mix[target].source == "titles" else np.zeros_like(by_title))
        grown.append(growth.rows(said, of_new))
    of_new = [unit_rows(project(text[rows], projections[d])) for d, rows in enumerate(growth.chosen)]
    return replace(recall, names=np.stack(grown), items=growth.rows(recall.items, of_new))
