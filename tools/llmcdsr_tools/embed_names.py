"""Stage: a names file to text embeddings, one file (.npz, no pickle) that training reads.

=========== ==================== ====================================================================
array       shape                content
=========== ==================== ====================================================================
text        float32 (texts, E)   embeddings of the distinct names
index       int64 (names,)       row of `text` for each name of all users, one user after the other
offsets     int64 (users + 1,)   the names of entry u are ``index[offsets[u]:offsets[u + 1]]``
users       int64 (users,)       row of the user in the train split, rising
domains     int64 (users,)       index of the domain that the names are of
description uint8                JSON: format, version, and hash of the train users that `users` means
=========== ==================== ====================================================================

A user with names of several domains has an entry for each, in the order of the domains.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.text.encoder_object import open_encoder
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset
from llmcdsr_tools.names import GeneratedNames, read_names
from llmcdsr_tools.text_initialization import load_text_embeddings

FORMAT = "llmcdsr-embedded-names"
FORMAT_VERSION = 1

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class EmbeddedNames:
    """Generated names as text embeddings; see the table of this module."""

    text: npt.NDArray[np.float32]
    offsets: IntArray
    index: IntArray
    users: IntArray
    domains: IntArray

    def __len__(self) -> int:
        return len(self.users)

    def names_of(self, entry: int) -> npt.NDArray[np.float32]:
        """Embeddings (names, E) of one entry."""
        return self.text[self.index[self.offsets[entry] : self.offsets[entry + 1]]]


@dataclass(frozen=True)
class EmbedNamesResult:
    """What `embed_names` did.

    Parameters
    ----------
    output : Path
    n_users : int
        Entries: a user with names of several domains counts for each.
    n_names, n_distinct : int
        Names of all users, and how many different ones.
    n_encoded : int
        Distinct names that are no title of the catalogue.
    """

    output: Path
    n_users: int
    n_names: int
    n_distinct: int
    n_encoded: int


def embed_names(
    names: str | Path,
    dataset: str | Path | Dataset,
    output: str | Path,
    *,
    encoder: str | Path | Any | None = None,
    titles: str | Path | None = None,
    threads: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EmbedNamesResult:
    """Embed the names of train users.

    Parameters
    ----------
    names : str or Path
        The names file.
    dataset : str or Path or Dataset
        The data set folder, or what was read from it.
    output : str or Path
        The file to write.
    encoder : str, Path, TextEncoder or object, optional
        Encoder folder, or object with ``encode(texts) -> (n, E)``, needed only if there are names that
        `titles` does not give.
    titles : str or Path, optional
        Matrix of the stage `embed`, from the same encoder: a name that equals a title of the
        catalogue is looked up there.
    threads : int
        Threads of the encoder.
    overwrite : bool
        Replace a file that is there.
    progress : callable, optional
        Called with the number of texts encoded and of all to encode.

    Returns
    -------
    EmbedNamesResult

    Raises
    ------
    DataError
        If a file cannot be read, a user is not one of the train split, a domain is not one of the data
        set's, titles and encoder differ in E, or the output exists and must not be overwritten.
    UsageError
        If an encoder is needed and none is given.
    """
    names = Path(names)
    dataset = dataset if isinstance(dataset, Dataset) else Path(dataset)
    output = Path(output)
    titles = None if titles is None else Path(titles)
    if output.exists() and not overwrite:
        raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")
    data = load_dataset(dataset) if isinstance(dataset, Path) else dataset
    entries = _entries(names, read_names(names), data)
    distinct = sorted({name for _, _, found in entries for name in found})
    vectors, n_encoded = embed_texts(
        distinct, data, encoder=encoder, titles=titles, threads=threads, progress=progress
    )
    place = {name: i for i, name in enumerate(distinct)}
    offsets = np.zeros(len(entries) + 1, dtype=np.int64)
    np.cumsum([len(found) for _, _, found in entries], out=offsets[1:])
    index = np.array([place[name] for _, _, found in entries for name in found], dtype=np.int64)
    users = np.array([user for user, _, _ in entries], dtype=np.int64)
    domains = np.array([domain for _, domain, _ in entries], dtype=np.int64)
    _save(output, EmbeddedNames(vectors, offsets, index, users, domains), data)
    return EmbedNamesResult(output, len(entries), len(index), len(distinct), n_encoded)


def embed_texts(
    texts: Sequence[str],
    dataset: Dataset,
    *,
    encoder: str | Path | Any | None = None,
    titles: Path | None = None,
    threads: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[npt.NDArray[np.float32], int]:
    """Embeddings (n, E) of texts, looked up where they are titles, and how many had to be encoded.

    Raises
    ------
    UsageError
        If neither matrix nor encoder is given, or a text is no title and there is no encoder.
    DataError
        If the two differ in E.
    """
    if titles is None and encoder is None:
        raise UsageError("name an encoder folder, a matrix of title embeddings, or both")
    matrix = None if titles is None else load_text_embeddings(titles, len(dataset.catalogue))
    row_of_title: dict[str, int] = {}
    if matrix is not None:
        for row in np.flatnonzero(matrix.any(axis=1)).tolist():
            row_of_title.setdefault(dataset.catalogue.titles[row], row)
    missing = [i for i, text in enumerate(texts) if text not in row_of_title]
    if matrix is not None and not missing:  # no need to load the model
        return matrix[[row_of_title[text] for text in texts]], 0
    if encoder is None:
        raise UsageError(
            f"{len(missing)} of {len(texts)} names are no title of the catalogue, such as "
            f"{texts[missing[0]]!r:.60}: name an encoder folder"
        )
    model = open_encoder(encoder, threads)
    vectors = np.empty((len(texts), model.dimension), dtype=np.float32)
    if matrix is not None:
        if matrix.shape[1] != model.dimension:
            raise DataError(
                f"{titles}: {matrix.shape[1]} values a title, but the encoder gives {model.dimension}; "
                "embed the titles with the same encoder"
            )
        known = [i for i, text in enumerate(texts) if text in row_of_title]
        vectors[known] = matrix[[row_of_title[texts[i]] for i in known]]
    vectors[missing] = model.encode([texts[i] for i in missing], progress=progress)
    return vectors, len(missing)


def load_embedded_names(path: Path, dataset: Dataset) -> EmbeddedNames:
    """Read what `embed_names` wrote, checking that it fits the data set.

    Raises
    ------
    DataError
        If the file cannot be read, its arrays do not fit each other, or it is of other users.
    """
    try:
        # NumPy would speak of pickles of any file that is no archive
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        description = json.loads(arrays.pop("description").tobytes())
        found = EmbeddedNames(**arrays)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a file of embedded names: {error}") from None
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise DataError(f"{path}: not a {FORMAT} file")
    if description.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{path}: format_version is {description.get('format_version')!r}, "
            f"this version reads {FORMAT_VERSION}"
        )
    if description.get("train_users") != _hash_users(dataset):
        raise DataError(
            f"{path}: made for other train users than those of the data set; embed the names again"
        )
    problem = _problem(found, len(dataset.train), len(dataset.catalogue.domains))
    if problem:
        raise DataError(f"{path}: {problem}")
    return found


def _entries(
    path: Path, records: Sequence[GeneratedNames], data: Dataset
) -> list[tuple[int, int, tuple[str, ...]]]:
    """User row, domain and names of every record, in order of the rows."""
    row_of_user = {user: row for row, user in enumerate(data.train.users)}
    domain_of_name = {domain.name: i for i, domain in enumerate(data.catalogue.domains)}
    entries = []
    for record in records:
        if record.user not in row_of_user:
            raise DataError(f"{path}: user {record.user!r} is no train user of the data set")
        if record.domain not in domain_of_name:
            known = " and ".join(map(repr, domain_of_name))
            raise DataError(f"{path}: user {record.user!r}: no domain {record.domain!r}, there are {known}")
        entries.append((row_of_user[record.user], domain_of_name[record.domain], record.names))
    return sorted(entries)


def _save(output: Path, embedded: EmbeddedNames, data: Dataset) -> None:
    description = {"format": FORMAT, "format_version": FORMAT_VERSION, "train_users": _hash_users(data)}
    described = np.frombuffer(json.dumps(description, sort_keys=True).encode(), dtype=np.uint8)
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, description=described, **vars(embedded))


def _hash_users(data: Dataset) -> str:
    return hashlib.sha256(json.dumps(list(data.train.users)).encode()).hexdigest()


def _problem(found: EmbeddedNames, n_users: int, n_domains: int) -> str | None:
    """What does not add up, if anything."""
    for name, array in vars(found).items():
        wanted = (np.float32, 2) if name == "text" else (np.int64, 1)
        if (array.dtype, array.ndim) != wanted:
            return f"array {name!r} is {array.dtype} with {array.ndim} axes, expected {wanted[0].__name__}"
    offsets, users = found.offsets, found.users
    if not len(users) == len(found.domains) == len(offsets) - 1:
        return f"{len(users)} users, {len(found.domains)} domains and {len(offsets)} offsets do not fit"
    if offsets[0] != 0 or offsets[-1] != len(found.index) or (np.diff(offsets) < 1).any():
        return f"offsets must rise from 0 to {len(found.index)}, with a name for every user"
    for name, array, stop in (
        ("index", found.index, len(found.text)),
        ("users", users, n_users),
        ("domains", found.domains, n_domains),
    ):
        if len(array) and not (array.min() >= 0 and array.max() < stop):
            return f"array {name!r} runs from {array.min()} to {array.max()}, expected 0 to {stop - 1}"
    if not np.isfinite(found.text).all():
        return "array 'text' holds a value that is not finite"
    return None
