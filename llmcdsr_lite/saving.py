"""A bundle in memory to a folder: what besides its arrays it needs, the ONNX model and the model card."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.backend import ITEM_TABLE_NAME
from llmcdsr_lite.bundle import MODEL_CARD, ONNX, Bundle, write_bundle
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.onnx_table import resize_table

ADDED_TITLE = "## Added items"


@dataclass(frozen=True)
class Documents:
    """What a bundle has besides its arrays.

    Parameters
    ----------
    onnx_model : bytes
    model_card : str
        Markdown.
    """

    onnx_model: bytes
    model_card: str


def read_documents(bundle: Bundle) -> Documents:
    """Read them from the folder that a bundle was loaded from.

    Raises
    ------
    UsageError
        If it was not loaded from a folder.
    BundleError
        If they cannot be read, or are not those that were there when the bundle was loaded.
    """
    if bundle.folder is None:
        raise UsageError("this bundle was not loaded from a folder, so it has no ONNX model to go on with")
    found = []
    for name in (ONNX, MODEL_CARD):
        path = bundle.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read any more: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != bundle.hashes.get(name):
            raise BundleError(f"{path}: has changed since the bundle was loaded; load it again")
        found.append(content)
    return Documents(found[0], found[1].decode("utf-8", "replace"))


def extended(documents: Documents, bundle: Bundle) -> Documents:
    """The documents of the same model with the items of `bundle`, to which some were added."""
    table = bundle.item_vectors
    model = resize_table(
        documents.onnx_model, ITEM_TABLE_NAME, (table.shape[0], table.shape[1]), _offset(table)
    )
    card = documents.model_card.split(f"\n{ADDED_TITLE}\n")[0].rstrip("\n")
    return Documents(model, f"{card}\n\n{added_section(bundle)}")


def added_section(bundle: Bundle) -> str:
    """What the model card says of items that were added after training."""
    assert bundle.new_items is not None
    counts = "\n".join(
        f"- {domain.name}: {n:,} of {domain.n_items:,} items, the last ones"
        for domain, n in zip(bundle.catalogue.domains, bundle.new_items.added, strict=True)
    )
    return f"""{ADDED_TITLE}

Added after training, by their titles alone:

{counts}

The vector of an added item is a weighed mean of those of the {bundle.new_items.n_neighbours} trained items of
its domain with the most similar titles. It has no interactions, so it is never among the most popular items.
The sizes and figures above are those of the model without them.
"""


def save_bundle(bundle: Bundle, documents: Documents, folder: Path, *, overwrite: bool = False) -> None:
    """Write a bundle folder atomically, see `write_bundle`."""
    write_bundle(
        bundle,
        folder,
        onnx_model=documents.onnx_model,
        model_card=documents.model_card,
        overwrite=overwrite,
    )


def _offset(table: npt.NDArray[Any]) -> int:
    """Bytes before the data in the file that NumPy writes of a table."""
    header = io.BytesIO()
    description = np.lib.format.header_data_from_array_1_0(table)
    np.lib.format.write_array_header_1_0(header, description)
    return header.tell()
