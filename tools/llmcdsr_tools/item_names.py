"""Names for items: what a language model wrote for each item, as one vector that the item says.

A file ``.npz`` (no pickle): ``vectors`` float32 (domains - 1, items + 1, E), the mean of the embeddings of an
item's names of each other domain, in their order, zero for items without any and in row 0; ``description``,
JSON with the format and the hash of the item ids that the rows are of.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.recall import slot
from llmcdsr_tools.cold_histories import question_of_items
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.embed_names import embed_texts
from llmcdsr_tools.names import read_names

FORMAT = "llmcdsr-item-names"
FORMAT_VERSION = 1


def embed_item_names(
    names: str | Path,
    dataset: str | Path | Dataset,
    output: str | Path,
    *,
    encoder: str | Path | Any | None = None,
    titles: str | Path | None = None,
    threads: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, int]:
    """Embed the names that ``generate --for items`` wrote.

    Parameters
    ----------
    names, dataset, output, encoder, titles, threads, overwrite, progress
        As for `embed_names`; the names file has an item's id for the user.

    Returns
    -------
    n_items, n_names : int
        Items that have names, those that share a question included, and distinct names.

    Raises
    ------
    DataError, UsageError
        As `embed_names`.
    """
    names = Path(names)
    dataset = dataset if isinstance(dataset, Dataset) else Path(dataset)
    output = Path(output)
    titles = None if titles is None else Path(titles)
    if output.exists() and not overwrite:
        raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")
    data = load_dataset(dataset) if isinstance(dataset, Path) else dataset
    catalogue = data.catalogue
    domain_names = [domain.name for domain in catalogue.domains]
    places, entries = [], []
    for record in read_names(names):
        row = catalogue.row_of_id.get(record.user)
        if row is None:
            raise DataError(f"{names}: {record.user!r} is no item of the data set")
        own = catalogue.domain_of_row(row).name
        if record.domain not in domain_names or record.domain == own:
            expected = " or ".join(repr(name) for name in domain_names if name != own)
            raise DataError(f"{names}: item {record.user!r}: names of {record.domain!r}, expected {expected}")
        places.append((slot(domain_names.index(own), domain_names.index(record.domain)), row))
        entries.append(record.names)
    distinct = sorted({name for found in entries for name in found})
    text, _ = embed_texts(distinct, data, encoder=encoder, titles=titles, threads=threads, progress=progress)
    place = {name: i for i, name in enumerate(distinct)}
    shape = (len(domain_names) - 1, len(catalogue) + 1, text.shape[1])
    of_question = np.zeros(shape, dtype=np.float32)
    for where, found in zip(places, entries, strict=True):
        of_question[where] = text[[place[name] for name in found]].mean(axis=0)
    vectors = of_question[:, question_of_items(data)]
    description = {"format": FORMAT, "format_version": FORMAT_VERSION, "items": _hash_items(data)}
    described = np.frombuffer(json.dumps(description, sort_keys=True).encode(), dtype=np.uint8)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, vectors=vectors, description=described)
    return int(np.count_nonzero(vectors.any(axis=(0, 2)))), len(distinct)


def load_item_names(path: str | Path, data: Dataset) -> npt.NDArray[np.float32]:
    """Vectors (domains - 1, items + 1, E) that `embed_item_names` wrote.

    Raises
    ------
    DataError
        If the file cannot be read, or is of other items.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            vectors: npt.NDArray[Any] = archive["vectors"]
            description = json.loads(archive["description"].tobytes())
        if (description["format"], description["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise ValueError(f"not a {FORMAT} file of version {FORMAT_VERSION}")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a file of names of items: {error}") from None
    if description.get("items") != _hash_items(data):
        raise DataError(f"{path}: made for other items than those of the data set; embed the names again")
    expected = (len(data.catalogue.domains) - 1, len(data.catalogue) + 1)
    if vectors.dtype != np.float32 or vectors.ndim != 3 or vectors.shape[:2] != expected:
        raise DataError(
            f"{path}: {vectors.dtype} array of shape {vectors.shape}, expected float32 ({expected[0]}, "
            f"{expected[1]}, values): other domains, items + 1"
        )
    if vectors[:, 0].any() or not np.isfinite(vectors).all():
        raise DataError(f"{path}: holds a value that is not finite, or a row 0 that is not zero")
    return vectors


def _hash_items(data: Dataset) -> str:
    domains = [[domain.name, domain.n_items] for domain in data.catalogue.domains]
    return hashlib.sha256(json.dumps([domains, list(data.catalogue.ids)]).encode()).hexdigest()
