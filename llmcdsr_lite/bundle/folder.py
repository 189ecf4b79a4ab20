"""The bundle: a folder with everything a recommender needs. It is data; loading one runs no code.

================== ==========================================================================
file               content
================== ==========================================================================
config.json        format version, domains, model sizes, training summary, and for every other
                   file its size and SHA-256, see `bundle.config`
recommender.onnx   item rows -> user representation; its item table is item_vectors.npy
item_vectors.npy   float32 (items + 1, H), row 0 zero: input embedding and scoring table; of several
                   members side by side
dense.npy          float32, all other parameters, for the NumPy backend; member after member
item_counts.npy    int64 (items + 1,), training interactions of every item, for the fallback
item_ids.json      JSON array of item ids in row order (row 1 first)
item_titles.json   JSON array of titles, in the same order
README.md          model card
================== ==========================================================================

With a recall network, the files of `bundle.recall` besides; with what makes vectors of new items, those of
`bundle.new_items`; with graphs for approximate search, those of `bundle.index`; where the mix weighs counts,
those of `bundle.mix`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.config import FORMAT, FORMAT_VERSION, MAX_SIZE, read_config, read_sizes, write_config
from llmcdsr_lite.bundle.files import CONFIG as CONFIG
from llmcdsr_lite.bundle.files import (
    check_files,
    check_path,
    file_sha256,
    read_array,
    read_strings,
    undisturbed,
)
from llmcdsr_lite.bundle.index import INDEX_FILES, BundleIndex, read_index, write_index
from llmcdsr_lite.bundle.mix import MIX_FILES, no_mix, read_mix, write_mix
from llmcdsr_lite.bundle.new_items import NEW_ITEMS_FILES, read_new_items, write_new_items
from llmcdsr_lite.bundle.recall import PROJECTIONS, RECALL_FILES, read_recall, write_recall
from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.errors import BundleError, DataError
from llmcdsr_lite.files import FolderKind, atomic_folder
from llmcdsr_lite.mix.experts import NextCounts
from llmcdsr_lite.mix.mixture import Mixes
from llmcdsr_lite.model.ensemble import Model, SASRecEnsemble
from llmcdsr_lite.model.parameters import SASRecParameters, dense_size
from llmcdsr_lite.model.recommender_graph import check_graph
from llmcdsr_lite.recall import RecallNetwork
from llmcdsr_lite.text.title_neighbours import TitleMap

_LOG = logging.getLogger(__name__)

ONNX = "recommender.onnx"
ITEM_VECTORS = "item_vectors.npy"
DENSE = "dense.npy"
ITEM_COUNTS = "item_counts.npy"
ITEM_IDS = "item_ids.json"
ITEM_TITLES = "item_titles.json"
MODEL_CARD = "README.md"
REQUIRED = (ONNX, ITEM_VECTORS, DENSE, ITEM_COUNTS, ITEM_IDS, ITEM_TITLES, MODEL_CARD)
BUNDLE = FolderKind(
    "a bundle",
    marker=ONNX,
    files=frozenset(
        {CONFIG, *REQUIRED, *RECALL_FILES, PROJECTIONS, *NEW_ITEMS_FILES, *INDEX_FILES, *MIX_FILES}
    ),
)


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory; its arrays are memory-mapped where it was read from a folder.

    Parameters
    ----------
    catalogue : Catalogue
    parameters : SASRecParameters or SASRecEnsemble
        Its item embedding is the item vectors, float32.
    item_counts : int64 array (items + 1,)
        Training interactions of every item row.
    training : mapping
        JSON-able summary of how the model was trained and how well it ranks.
    folder : Path or None
        Where it was read from.
    recall : RecallNetwork or None
    new_items : TitleMap or None
        What makes vectors of new items.
    hashes : mapping
        SHA-256 of every file of `folder` when it was read.
    index : BundleIndex or None
        Graphs for approximate search.
    mix : tuple of DomainMix
        What is added to the model's scores for each target domain, nothing unless given; pseudo items need
        the recall network.
    next_counts : NextCounts or None
        Needed where the mix weighs them.
    """

    catalogue: Catalogue
    parameters: Model
    item_counts: npt.NDArray[np.int64]
    training: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    recall: RecallNetwork | None = None
    new_items: TitleMap | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)
    index: BundleIndex | None = None
    mix: Mixes = ()
    next_counts: NextCounts | None = None

    def __post_init__(self) -> None:
        if not self.mix:
            object.__setattr__(self, "mix", no_mix(self.catalogue.domains))

    @property
    def item_vectors(self) -> npt.NDArray[np.float32]:
        """Item vectors (items + 1, H)."""
        return self.parameters.item_embedding


def write_bundle(
    bundle: Bundle, folder: Path, *, onnx_model: bytes, model_card: str, overwrite: bool = False
) -> None:
    """Write a bundle folder atomically: it appears whole or not at all.

    Parameters
    ----------
    bundle : Bundle
    folder : Path
    onnx_model : bytes
        The ONNX model, as `model.recommender_graph.build_onnx` makes it.
    model_card : str
        Markdown.
    overwrite : bool
        Replace a bundle that is there; no other folder ever is, unless it is empty.

    Raises
    ------
    DataError
        If the folder is there and must not be overwritten.
    BundleError
        If `read_bundle` would refuse the result, such as values that are not finite.
    """
    with atomic_folder(folder, BUNDLE, overwrite=overwrite) as out:
        (out / ONNX).write_bytes(onnx_model)
        np.save(out / ITEM_VECTORS, np.ascontiguousarray(bundle.item_vectors, dtype=np.float32))
        np.save(out / DENSE, bundle.parameters.dense.astype(np.float32))
        np.save(out / ITEM_COUNTS, bundle.item_counts.astype(np.int64))
        for name, strings in ((ITEM_IDS, bundle.catalogue.ids), (ITEM_TITLES, bundle.catalogue.titles)):
            (out / name).write_text(json.dumps(list(strings), ensure_ascii=False) + "\n", encoding="utf-8")
        (out / MODEL_CARD).write_text(model_card, encoding="utf-8")
        names: tuple[str, ...] = REQUIRED
        parts: dict[str, Any] = {}
        if bundle.recall is not None:
            part_names, parts["recall"] = write_recall(out, bundle.recall)
            names = (*names, *part_names)
        if bundle.new_items is not None:
            part_names, parts["new_items"] = write_new_items(out, bundle.new_items)
            names = (*names, *part_names)
        if bundle.index is not None:
            part_names, parts["index"] = write_index(out, bundle.index)
            names = (*names, *part_names)
        if (
            bundle.mix != no_mix(bundle.catalogue.domains)
            or bundle.next_counts is not None
            or bundle.recall is not None
        ):
            part_names, parts["mix"] = write_mix(out, bundle.mix, bundle.next_counts)
            names = (*names, *part_names)
        description = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "domains": [{"name": d.name, "items": d.n_items} for d in bundle.catalogue.domains],
            "model": _sizes(bundle.parameters),
            **parts,
            "training": dict(bundle.training),
            "files": {
                name: {"bytes": (out / name).stat().st_size, "sha256": file_sha256(out / name)}
                for name in names
            },
        }
        write_config(out / CONFIG, description)
        read_bundle(out)  # nothing takes its name that could not be loaded


def _sizes(model: Model) -> dict[str, Any]:
    """Sizes of the model for config.json; the number of members where there are several."""
    sizes = {name: getattr(model.config, name) for name in (*MAX_SIZE, "epsilon")}
    return sizes if len(model.members) == 1 else {**sizes, "members": len(model.members)}


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle, checking everything before any of it is used.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    Bundle
        Item vectors and the other arrays are memory-mapped, read-only.

    Raises
    ------
    BundleError
        If a file is missing, has another size or hash than config.json says, leads out of the folder,
        is of a newer format, holds arrays that do not fit, are not finite or beyond any model's values, or
        an ONNX graph of another model; or if the folder is replaced time and again meanwhile. The message
        names the file and the reason.
    """
    return undisturbed(folder, lambda: _read(folder))


def in_memory(bundle: Bundle) -> Bundle:
    """The bundle with copies of its arrays: its files may be changed or truncated in place."""
    copied: Bundle = _copied(bundle)
    return copied


def _copied(value: Any) -> Any:
    """A part of a bundle with copies of all mapped arrays in it."""
    if isinstance(value, np.memmap):
        return np.array(value)
    if isinstance(value, SASRecParameters | SASRecEnsemble):
        return type(value)(value.config, np.array(value.item_embedding), np.array(value.dense))
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: _copied(getattr(value, f.name)) for f in fields(value)}
        return replace(value, **parts)
    return value


def _read(folder: Path) -> Bundle:
    config_path = folder / CONFIG
    check_path(folder, CONFIG)
    description, config_hash = read_config(config_path)
    check_files(folder, description, REQUIRED)
    config, n_members, names, sizes = read_sizes(config_path, description)
    try:
        catalogue = Catalogue.from_sizes(
            read_strings(folder / ITEM_IDS, config.n_items),
            read_strings(folder / ITEM_TITLES, config.n_items),
            names,
            sizes,
        )
        _ = catalogue.row_of_id  # refuses ids that occur twice
    except DataError as error:
        raise BundleError(f"{folder / ITEM_IDS}: {error}") from None
    n_rows = config.n_items + 1
    item_vectors = read_array(folder / ITEM_VECTORS, np.float32, (n_rows, n_members * config.hidden))
    table_offset = (folder / ITEM_VECTORS).stat().st_size - item_vectors.nbytes  # behind its header
    dense = read_array(folder / DENSE, np.float32, (n_members * dense_size(config),))
    item_counts = read_array(folder / ITEM_COUNTS, np.int64, (n_rows,))
    if item_vectors[0].any():
        raise BundleError(f"{folder / ITEM_VECTORS}: row 0 is padding and must be zero")
    if item_counts.min() < 0:
        raise BundleError(f"{folder / ITEM_COUNTS}: holds a negative count")
    training = description.get("training")
    if not isinstance(training, dict):
        raise BundleError(f"{config_path}: field 'training' must be an object")
    make = SASRecParameters if n_members == 1 else SASRecEnsemble
    parameters = make(config, item_vectors, dense)
    check_graph(folder / ONNX, parameters, ITEM_VECTORS, table_offset)
    recall = read_recall(folder, description, n_rows, len(sizes))
    new_items = read_new_items(folder, description, sizes)
    hashes = {CONFIG: config_hash, **{name: entry["sha256"] for name, entry in description["files"].items()}}
    index = read_index(folder, description, catalogue.domains, with_recall=recall is not None)
    mix, next_counts = read_mix(folder, description, catalogue.domains, with_recall=recall is not None)
    _LOG.debug("%s: read and verified, %d items", folder, config.n_items)
    return Bundle(
        catalogue,
        parameters,
        item_counts,
        training,
        folder,
        recall,
        new_items,
        hashes,
        index,
        mix,
        next_counts,
    )
