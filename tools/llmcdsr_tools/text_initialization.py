"""Item embeddings that start from what the titles say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.model.layers import FloatArray


def load_text_embeddings(path: Path, n_items: int) -> npt.NDArray[np.float32]:
    """Read a text matrix: one row an item, in row order (row 1 of the catalogue first).

    Parameters
    ----------
    path : Path
        A ``.npy`` file of shape (n_items, E).
    n_items : int
        Items of the catalogue.

    Returns
    -------
    float32 array (n_items, E)

    Raises
    ------
    DataError
        If it cannot be read, has another shape, or holds a value that is not finite.
    """
    try:
        matrix: npt.NDArray[Any] = np.lib.format.open_memmap(path, mode="r")  # .npy alone, never a pickle
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: cannot be read as a NumPy array: {error}") from None
    if matrix.ndim != 2 or len(matrix) != n_items or matrix.dtype.kind != "f":
        raise DataError(
            f"{path}: {matrix.dtype} array of shape {matrix.shape}, expected floats, one row for each of "
            f"the {n_items} items"
        )
    with np.errstate(over="ignore"):  # refused below
        embeddings = matrix.astype(np.float32)
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        raise DataError(f"{path}: row {int(np.argmin(finite))} holds a value that is not finite")
    return embeddings


def initialize_from_text(item_embedding: FloatArray, text: npt.NDArray[np.float32], deviation: float) -> None:
    """Replace the item embeddings by the principal components of the text embeddings, in place.

    Rows of zeros (items without a title) keep what they have, and so do the columns beyond E where
    H is larger.

    Parameters
    ----------
    item_embedding : float array (items + 1, H)
    text : float32 array (items, E)
    deviation : float
        Root mean square that the new values are scaled to.
    """
    titled = np.flatnonzero(text.any(axis=1))
    if not len(titled):
        return
    centred = text[titled].astype(np.float64)
    centred -= centred.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)  # eigenvalues rise
    n_components = min(item_embedding.shape[1], text.shape[1])
    components = vectors[:, ::-1][:, :n_components]
    # an eigenvector's sign is arbitrary: fix it, so that every machine starts from the same embedding
    components = components * np.sign(components[np.abs(components).argmax(axis=0), np.arange(n_components)])
    projected = centred @ components
    projected *= deviation / max(np.sqrt((projected**2).mean()), 1e-12)
    item_embedding[titled + 1, :n_components] = projected
