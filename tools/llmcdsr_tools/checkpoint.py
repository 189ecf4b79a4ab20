"""One file with named arrays and a JSON description, written atomically; a reader runs no code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.files import atomic_file
from llmcdsr_lite.reference.layers import FloatArray
from llmcdsr_lite.reference.parameters import SASRecConfig, SASRecParameters

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
    try:
        # TypeError below: a single array (.npy)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        description = json.loads(arrays.pop(_DESCRIPTION).tobytes())
    except FileNotFoundError:
        raise TrainingError(f"{path}: no such file; is this the folder of a training run?") from None
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path}: damaged checkpoint: {error}") from None
    return Checkpoint(arrays, description)


def save_model(
    path: Path,
    parameters: SASRecParameters,
    description: dict[str, Any],
    poolers: FloatArray | None = None,
) -> None:
    """Write a model and what is to be known of it; with the poolers (2, H) of its recall network."""
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
        parameters = SASRecParameters(config, checkpoint.arrays["item_embedding"], checkpoint.arrays["dense"])
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not a model of this version: {error}") from None
    return parameters, checkpoint.description


def load_poolers(path: Path) -> FloatArray | None:
    """Poolers (2, H) of a model that `save_model` wrote, if it has a recall network."""
    return load_checkpoint(path).arrays.get("poolers")
