"""The recommender's ONNX graph at export: built as the runtime builds it to compare, checked with onnx."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import checker

from llmcdsr_lite.bundle.folder import ITEM_VECTORS, ONNX
from llmcdsr_lite.errors import TrainingError
from llmcdsr_lite.model.backends import NumpyBackend, OnnxBackend
from llmcdsr_lite.model.ensemble import Model
from llmcdsr_lite.model.recommender_graph import build_onnx as build_onnx
from llmcdsr_tools.data.dataset import Dataset

AGREEMENT = 1e-5  # largest allowed difference between ONNX and NumPy, relative to the largest value


def check_onnx(path: str) -> None:
    """Run the ONNX checker, shape inference included, on a model file beside its item table."""
    checker.check_model(path, full_check=True)


def checked_onnx(parameters: Model, data: Dataset) -> bytes:
    """Build the ONNX model, and compare it with the NumPy model before anyone relies on it.

    Raises
    ------
    TrainingError
        If they differ.
    """
    histories = _sample(data, parameters.config.max_length)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / ITEM_VECTORS, parameters.item_embedding)
        offset = (folder / ITEM_VECTORS).stat().st_size - parameters.item_embedding.nbytes
        onnx_model = build_onnx(parameters, ITEM_VECTORS, offset)
        (folder / ONNX).write_bytes(onnx_model)
        check_onnx(str(folder / ONNX))
        onnx = OnnxBackend(folder / ONNX, parameters.item_embedding, parameters.config.max_length, 1)
        expected = NumpyBackend(parameters).represent(histories)
        difference = float(np.abs(onnx.represent(histories) - expected).max() / np.abs(expected).max())
    if not difference <= AGREEMENT:
        raise TrainingError(
            f"the ONNX model differs from the NumPy model by {difference:.1e}, more than {AGREEMENT:.0e}"
        )
    return onnx_model


def _sample(data: Dataset, max_length: int) -> list[npt.NDArray[np.int64]]:
    """Histories of every length to compare the two forms of the model on, real and random."""
    rng = np.random.default_rng(0)
    n_items = len(data.catalogue)
    made = [rng.integers(1, n_items + 1, length) for length in (1, 2, max_length, max_length + 3)]
    return made + [h.astype(np.int64) for _, h in zip(range(200), data.train, strict=False) if len(h)]
