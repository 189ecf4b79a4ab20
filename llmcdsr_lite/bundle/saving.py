"""A bundle in memory to a folder: what besides its arrays it needs, the ONNX model and the model card."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from llmcdsr_lite.bundle.folder import ITEM_VECTORS, MODEL_CARD, ONNX, Bundle, write_bundle
from llmcdsr_lite.errors import BundleError, UsageError
from llmcdsr_lite.model.backends import Backend, BackendName, make_backend
from llmcdsr_lite.model.recommender_graph import build_onnx

ADDED_TITLE = "## Added items"


def onnx_model(bundle: Bundle) -> bytes:
    """The ONNX model of a bundle's parameters, its item table left out."""
    table = np.asarray(bundle.item_vectors)
    header = io.BytesIO()  # that NumPy writes before the table
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(table))
    return build_onnx(bundle.parameters, ITEM_VECTORS, header.tell())


def unsaved_backend(name: BackendName, bundle: Bundle, threads: int) -> Backend:
    """Make the backend of that name for a bundle that is in no folder."""
    model = onnx_model(bundle) if name == "onnx" else None
    return make_backend(name, bundle.parameters, Path(ONNX), threads, model)


def read_card(bundle: Bundle) -> str:
    """The model card of the folder that a bundle was loaded from.

    Raises
    ------
    UsageError
        If it was not loaded from a folder.
    BundleError
        If the card cannot be read, or is not the one that was there when the bundle was loaded.
    """
    if bundle.folder is None:
        raise UsageError("this bundle was not loaded from a folder, so it has no model card")
    path = bundle.folder / MODEL_CARD
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read any more: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != bundle.hashes.get(MODEL_CARD):
        raise BundleError(f"{path}: has changed since the bundle was loaded; load it again")
    return content.decode("utf-8", "replace")


def card_with_added(card: str, bundle: Bundle) -> str:
    """The model card with a section on the items that were added after training."""
    before = card.split(f"\n{ADDED_TITLE}\n")[0]
    return before.rstrip("\n") + "\n\n" + added_section(bundle)


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


def save_bundle(bundle: Bundle, card: str, folder: Path, *, overwrite: bool = False) -> None:
    """Write a bundle folder atomically, see `write_bundle`."""
    write_bundle(bundle, folder, onnx_model=onnx_model(bundle), model_card=card, overwrite=overwrite)
