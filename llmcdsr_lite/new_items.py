"""New items without retraining: they are checked, and the bundle grows by them."""

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
from llmcdsr_lite.model.recall_network import project, unit_rows
from llmcdsr_lite.recall import RecallNetwork, slot
from llmcdsr_lite.request import listed
from llmcdsr_lite.search.protocol import Rows
from llmcdsr_lite.text.encoder_object import Encoder
from llmcdsr_lite.text.title_neighbours import TitleMap

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class NewItem:
    """An item that the model was not trained with.

    Parameters
    ----------
    id : str or int
        An id that the catalogue does not have; a whole number stands for the string that it is written as.
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

    id: Any
    domain: str
    title: str = ""
    embedding: Sequence[float] | FloatArray | None = None
    source: str = field(default="", repr=False)


def add_to_bundle(
    bundle: Bundle, items: Iterable[NewItem | Mapping[str, Any]], encoder: Encoder | None
) -> Bundle:
    """Return the bundle with new items: the last ones of their domains, in the order that they come in.

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
    stops = np.array([bundle.catalogue.domain(item.domain).stop for item in new], dtype=np.int64)  # (n,)
    catalogue = _grown_catalogue(bundle.catalogue, new, stops)
    vectors = np.zeros((len(new), bundle.item_vectors.shape[1]), dtype=np.float32)
    for domain, weighing in zip(bundle.catalogue.domains, titles.weighings, strict=True):
        chosen = stops == domain.stop
        vectors[chosen] = titles.item_vectors(
            text[chosen], bundle.item_vectors, domain.start, domain.stop, weighing
        )
    config = replace(bundle.parameters.config, n_items=len(catalogue))
    table = np.insert(bundle.item_vectors, stops, vectors, axis=0)
    recall, counts = bundle.recall, bundle.next_counts
    old_sizes = [domain.n_items for domain in bundle.catalogue.domains]
    new_sizes = [domain.n_items for domain in catalogue.domains]
    return replace(
        bundle,
        catalogue=catalogue,
        parameters=type(bundle.parameters)(config, table, bundle.parameters.dense),
        item_counts=np.insert(bundle.item_counts, stops, 0),
        folder=None,
        recall=recall and _grown_recall(recall, bundle, text, stops),
        # an added item stands for no other: nothing is made of what was made, whatever the order of additions
        new_items=replace(
            titles,
            directions=np.insert(titles.directions, stops, 0, axis=0),
            added=tuple(n + b - a for n, a, b in zip(titles.added, old_sizes, new_sizes, strict=True)),
        ),
        next_counts=counts and _grown_counts(counts, stops, len(catalogue.domains)),
        index=None,  # it knows neither the new items nor the rows that have moved
    )


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
    if isinstance(item.id, int | np.integer) and not isinstance(item.id, bool):
        item = replace(item, id=str(item.id))
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


# Every new item is inserted before the row `stops` (n,), the one behind the last old row of its domain.


def _grown_catalogue(old: Catalogue, new: list[NewItem], stops: Rows) -> Catalogue:
    """Catalogue with the new items, the last ones of their domains."""
    ids, titles = (
        np.insert(np.array(before, dtype=object), stops - 1, added).tolist()
        for before, added in (
            (old.ids, [item.id for item in new]),
            (old.titles, [item.title for item in new]),
        )
    )
    sizes = [domain.n_items + int((stops == domain.stop).sum()) for domain in old.domains]
    return Catalogue.from_sizes(ids, titles, [domain.name for domain in old.domains], sizes)


def _grown_counts(counts: NextCounts, stops: Rows, n_domains: int) -> NextCounts:
    """Next-item counts with empty sparse rows for new items, and the rows where the others are now."""
    lengths = np.diff(counts.starts).reshape(n_domains, -1)  # (domains, items + 1)
    starts = np.concatenate([[0], np.cumsum(np.insert(lengths, stops, 0, axis=1))])
    rows = counts.rows + np.searchsorted(np.sort(stops), counts.rows, side="right")
    return NextCounts(starts, rows.astype(np.int32), np.asarray(counts.weights))


def _grown_recall(recall: RecallNetwork, bundle: Bundle, text: FloatArray, stops: Rows) -> RecallNetwork:
    """Recall network with the names of new items in other domains, and their vectors in their own.

    The name of a new item is its title; none for a target domain where names are made of companions: it has
    no users.
    """
    domains, projections = bundle.catalogue.domains, recall.projections
    names = np.zeros((len(recall.names), len(stops), recall.hidden), dtype=np.float32)
    items = np.zeros((len(stops), recall.hidden), dtype=np.float32)
    if projections is not None and projections.shape[2] == text.shape[1]:
        for index, domain in enumerate(domains):
            chosen = stops == domain.stop
            items[chosen] = unit_rows(project(text[chosen], projections[index]))
            for target, mix in enumerate(bundle.mix):
                if target != index and mix.source == "titles":
                    names[slot(index, target), chosen] = project(text[chosen], projections[target])
    return replace(
        recall,
        names=np.insert(recall.names, stops, names, axis=1),
        items=np.insert(recall.items, stops, items, axis=0),
    )
