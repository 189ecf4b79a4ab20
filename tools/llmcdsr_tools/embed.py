"""Stage: the titles of a data set to a matrix of text embeddings, in blocks, so that it can be resumed.

While it runs, two files lie beside the output:

========================= =================================================================
file                      content
========================= =================================================================
``<output>.partial``      the matrix, memory-mapped; rows of unfinished blocks are zero
``<output>.partial.json`` what it is made from, as hashes, and the number of finished blocks
========================= =================================================================

A block's rows are on disk before the count says so; the second file is replaced, never changed. So
whatever ends the process, the next call goes on after the last block that is counted, and the
matrix comes out as if nothing had happened. It takes the name of the output when it is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.text.encoder import DEFAULT_BATCH_SIZE
from llmcdsr_lite.text.encoder_object import Encoder, open_encoder
from llmcdsr_tools.data.dataset import Dataset
from llmcdsr_tools.data.dataset_folder import load_dataset

BLOCK = 1024  # rows between two saves: a few seconds of work
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class EmbedResult:
    """What `embed` did.

    Parameters
    ----------
    output : Path
        The matrix.
    n_items, dimension : int
        Its shape.
    n_untitled : int
        Rows of zeros.
    n_resumed : int
        Rows that an earlier call had finished.
    warnings : tuple of str
        What the user should know.
    """

    output: Path
    n_items: int
    dimension: int
    n_untitled: int
    n_resumed: int
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Files:
    """The output and the two files beside it."""

    output: Path

    @property
    def partial(self) -> Path:
        return self.output.with_name(self.output.name + ".partial")

    @property
    def sidecar(self) -> Path:
        return self.output.with_name(self.output.name + ".partial.json")


@dataclass(frozen=True)
class _Progress:
    """The second file: all that decides the bytes of the matrix, and how much of it is done."""

    version: int
    titles: str
    encoder: str
    batch_size: int
    block: int
    n_items: int
    dimension: int
    blocks_done: int = 0

    @property
    def rows_done(self) -> int:
        return min(self.blocks_done * self.block, self.n_items)


def embed(
    dataset: str | Path | Dataset,
    encoder: str | Path | Any,
    output: str | Path,
    *,
    threads: int = 1,
    batch_size: int = DEFAULT_BATCH_SIZE,
    prompt: str | None = None,
    max_length: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> EmbedResult:
    """Encode the titles of a data set, going on where an earlier call was interrupted.

    Writes a float32 ``.npy`` matrix (items, E): item row r of the catalogue is at index r - 1. An
    item without a title has a row of zeros, which later stages read as "nothing known".

    Parameters
    ----------
    dataset : str or Path or Dataset
        The data set folder, or what was read from it.
    encoder : str, Path, TextEncoder or object
        An encoder folder, see `llmcdsr_lite.text.encoder_config`, or an object with
        ``encode(texts) -> (n, E)``.
    output : str or Path
        The matrix.
    threads : int
        Threads of the encoder.
    batch_size : int
        Titles encoded at once.
    prompt : str, optional
        Name of the encoder's prompt that goes before every title; its default prompt if not given.
    max_length : int, optional
        Cut titles to so many tokens; the encoder's own limit if not given.
    overwrite : bool
        Replace a file that is there.
    progress : callable, optional
        Called after every block with the number of rows done and the number of items.

    Returns
    -------
    EmbedResult

    Raises
    ------
    DataError
        If the data set cannot be read, a title cannot be encoded, or the output exists and must not
        be overwritten.
    BundleError
        If the encoder folder cannot be used.
    UsageError
        If a setting has a value that cannot be meant.
    MissingDependencyError
        If onnxruntime or tokenizers is not installed.
    """
    dataset = dataset if isinstance(dataset, Dataset) else Path(dataset)
    output = Path(output)
    if output.is_dir():
        raise DataError(f"{output}: is a folder, expected the name of a .npy file")
    data = load_dataset(dataset) if isinstance(dataset, Path) else dataset
    titles = data.catalogue.titles
    model = open_encoder(encoder, threads, prompt=prompt, max_length=max_length)
    wanted = _Progress(
        version=_FORMAT_VERSION,
        titles=_hash_strings(titles),
        encoder=model.fingerprint(),
        batch_size=batch_size,
        block=BLOCK,
        n_items=len(titles),
        dimension=model.dimension,
    )
    files = _Files(output)
    found, warnings = _resume(files, wanted)
    renamed = found is not None and _just_renamed(files, found)
    if output.exists() and not overwrite and not renamed:
        raise DataError(f"{output}: exists already; choose another name or ask for it to be overwritten")
    if not renamed:
        _encode_blocks(files, found or _start(files, wanted), model, titles, progress)
        os.replace(files.partial, output)
    files.sidecar.unlink()
    n_untitled = sum(not title.strip() for title in titles)
    n_resumed = found.rows_done if found else 0
    return EmbedResult(output, len(titles), model.dimension, n_untitled, n_resumed, warnings)


def _resume(files: _Files, wanted: _Progress) -> tuple[_Progress | None, tuple[str, ...]]:
    """What an earlier call got done, or None and why its work cannot be used."""
    if not files.sidecar.exists():
        return None, ()
    try:
        found = _Progress(**json.loads(files.sidecar.read_text(encoding="utf-8")))
        different = [name for name, value in vars(wanted).items() if getattr(found, name) != value]
        in_range = 0 <= found.blocks_done <= -(-wanted.n_items // wanted.block)
    except (OSError, ValueError, TypeError):
        return None, (f"{files.sidecar}: cannot be read, starting over",)
    different = [name for name in different if name != "blocks_done"]
    if different:
        return None, (f"{files.partial}: made from something else ({', '.join(different)}), starting over",)
    if not in_range:
        return None, (f"{files.sidecar}: counts {found.blocks_done} blocks, starting over",)
    if not _just_renamed(files, found):
        try:
            _open(files.partial, found)
        except (OSError, ValueError) as error:
            return None, (f"{files.partial}: cannot be gone on with ({error}), starting over",)
    return found, ()


def _just_renamed(files: _Files, found: _Progress) -> bool:
    """Whether the last call ended between giving the matrix its name and removing the second file."""
    if found.rows_done < found.n_items or files.partial.exists():
        return False
    try:
        _open(files.output, found)
    except (OSError, ValueError):
        return False
    return True


def _start(files: _Files, wanted: _Progress) -> _Progress:
    """Make both files anew; in this order an old count never stands beside a new matrix."""
    partial = files.partial
    partial.parent.mkdir(parents=True, exist_ok=True)
    files.sidecar.unlink(missing_ok=True)
    shape = (wanted.n_items, wanted.dimension)
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
    with partial.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            # a full disk is an error here, where later it would end the process without a word
            try:
                os.posix_fallocate(file.fileno(), 0, partial.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot
                    raise
        os.fsync(file.fileno())
    _write_sidecar(files, wanted)
    return wanted


def _open(path: Path, done: _Progress) -> np.memmap[Any, np.dtype[np.float32]]:
    matrix = np.lib.format.open_memmap(path, mode="r+")
    if matrix.shape != (done.n_items, done.dimension) or matrix.dtype != np.float32:
        raise ValueError(f"{matrix.dtype} array of shape {matrix.shape}")
    return matrix


def _encode_blocks(
    files: _Files,
    done: _Progress,
    model: Encoder,
    titles: Sequence[str],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Fill the matrix from the first block that is not counted; closed when this returns."""
    matrix = _open(files.partial, done)  # (items, E)
    for start in range(done.rows_done, done.n_items, done.block):
        rows = slice(start, min(start + done.block, done.n_items))
        try:
            matrix[rows] = model.encode(titles[rows], done.batch_size)
        except DataError as error:
            raise DataError(f"item rows {rows.start + 1} to {rows.stop}, counted from 0: {error}") from None
        matrix.flush()
        done = replace(done, blocks_done=done.blocks_done + 1)
        _write_sidecar(files, done)
        if progress is not None:
            progress(done.rows_done, done.n_items)


def _write_sidecar(files: _Files, done: _Progress) -> None:
    with atomic_file(files.sidecar) as temporary:
        temporary.write_text(json.dumps(asdict(done), indent=2) + "\n", encoding="utf-8")


def _hash_strings(strings: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for string in strings:
        data = string.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))  # else ["ab"] would equal ["a", "b"]
        digest.update(data)
    return digest.hexdigest()
