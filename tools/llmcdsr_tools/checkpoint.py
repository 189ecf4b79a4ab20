"""One file with named arrays and a JSON description, written atomically; a reader runs no code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, TrainingError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.model.ensemble import Model, SASRecEnsemble
from llmcdsr_lite.model.layers import FloatArray
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters

_DESCRIPTION = "description"


@dataclass(frozen=True)
class Checkpoint:
    """Arrays by name, and a JSON-able description."""

    arrays: Mapping[str, npt.NDArray[Any]]
    description: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint (.npz); the same content gives the same bytes."""
    described = np.frombuffer(json.dumps(checkpoint.description, sort_keys=True).encode(), dtype=np.uint8)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{_DESCRIPTION: described}, **checkpoint.arrays)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    TrainingError
        If the file is missing or damaged.
    """
    if not path.exists():
        raise TrainingError(f"{path}: no such file; is this the folder of a training run?")
    try:
        arrays = read_arrays(path)
        description = json.loads(arrays.pop(_DESCRIPTION).tobytes())
    except (DataError, ValueError, KeyError, RecursionError) as error:
        raise TrainingError(f"{path}: damaged checkpoint: {error}") from None
    return Checkpoint(arrays, description)


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an .npz file, whatever they are.

    Raises
    ------
    DataError
        If it cannot be read; the message says why, not which file.
    """
    try:
        # NumPy would speak of pickles of any file that is no archive
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    # what is damaged may raise anything: zipfile, its decompressors and NumPy have a dozen kinds between them
    except Exception as error:
        raise DataError(f"{error or type(error).__name__}") from None


def save_model(
    path: Path,
    parameters: SASRecParameters,
    description: dict[str, Any],
    poolers: FloatArray | None = None,
) -> None:
    """Write a model and what is to be known of it; with the poolers (domains, H) of its recall network."""
    arrays = {"item_embedding": parameters.item_embedding, "dense": parameters.dense}
    if poolers is not None:
        arrays["poolers"] = poolers
    save_checkpoint(path, Checkpoint(arrays, {"config": vars(parameters.config), **description}))


def load_model(path: Path) -> tuple[SASRecParameters, dict[str, Any]]:
    """Read a model that `save_model` wrote.

    Raises
    ------
    TrainingError
        If the file is missing or damaged.
    """
    checkpoint = load_checkpoint(path)
    try:
        config = SASRecConfig(**checkpoint.description["config"])
        arrays = (checkpoint.arrays[name] for name in ("item_embedding", "dense"))
        parameters = SASRecParameters(config, *map(_checked, arrays))
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not a model of this version: {error}") from None
    return parameters, checkpoint.description


def load_members(paths: Sequence[Path]) -> tuple[Model, list[dict[str, Any]]]:
    """Read the models of some files as one; the descriptions of all of them.

    Raises
    ------
    TrainingError
        If a file is missing or damaged, or the models are of different sizes.
    """
    models, descriptions = zip(*map(load_model, paths), strict=True)
    if len(models) == 1:
        return models[0], list(descriptions)
    try:
        return SASRecEnsemble.of(models), list(descriptions)
    except ValueError as error:
        raise TrainingError(f"{paths[0]}, {paths[-1]}: {error}") from None


def _checked(array: npt.NDArray[Any]) -> FloatArray:
    """The array, if it holds finite floats."""
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"an array holds {array.dtype}, expected float32")
    if not np.isfinite(array).all():
        raise ValueError("an array holds values that are not finite")
    return array


def load_poolers(path: Path) -> FloatArray | None:
    """Poolers (2, H) of a model that `save_model` wrote, if it has a recall network.

    Raises
    ------
    TrainingError
        If the file is missing or damaged.
    """
    poolers = load_checkpoint(path).arrays.get("poolers")
    try:
        return None if poolers is None else _checked(poolers)
    except ValueError as error:
        raise TrainingError(f"{path}: poolers: {error}") from None
