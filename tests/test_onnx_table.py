"""The item table of an ONNX model made longer, read with the onnx package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from llmcdsr_lite.backend import ITEM_TABLE_NAME
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.onnx_table import resize_table


@pytest.fixture(scope="module")
def model(bundle_folder: Path) -> bytes:
    return (bundle_folder / "recommender.onnx").read_bytes()


@pytest.mark.parametrize(
    ("n_rows", "offset"), [(31, 128), (127, 128), (128, 128), (300, 0), (2_000_000, 192)]
)
def test_sizes_and_place_change_and_nothing_else(model: bytes, n_rows: int, offset: int) -> None:
    found = onnx.load_model_from_string(resize_table(model, ITEM_TABLE_NAME, (n_rows, 8), offset))
    expected = onnx.load_model_from_string(model)
    for tensor in expected.graph.initializer:
        if tensor.name == ITEM_TABLE_NAME:
            tensor.dims[:] = [n_rows, 8]
            place = {"location": "item_vectors.npy", "offset": str(offset), "length": str(n_rows * 32)}
            for entry in tensor.external_data:
                entry.value = place[entry.key]
    assert found == expected


def test_the_same_sizes_give_the_same_bytes(model: bytes) -> None:
    assert resize_table(model, ITEM_TABLE_NAME, (31, 8), 128) == model


def test_dims_in_one_field_are_replaced_too(model: bytes) -> None:
    """As onnx writes them; proto3 packs them, and other writers do."""
    tensor = onnx.TensorProto(name="t", data_type=1, data_location=1)
    packed = tensor.SerializeToString() + b"\x0a\x02\x05\x08"
    graph = b"\x2a" + bytes([len(packed)]) + packed
    found = onnx.load_model_from_string(resize_table(b"\x3a" + bytes([len(graph)]) + graph, "t", (9, 8), 0))
    assert list(found.graph.initializer[0].dims) == [9, 8]


def test_a_table_that_is_not_there(model: bytes) -> None:
    with pytest.raises(BundleError, match="0 initializers named 'other', expected one"):
        resize_table(model, "other", (3, 8), 128)


def test_what_is_not_an_onnx_model(model: bytes) -> None:
    rng = np.random.default_rng(0)
    for cut in (1, len(model) // 2, len(model) - 1):
        with pytest.raises(BundleError, match="ONNX model"):
            resize_table(model[:cut], ITEM_TABLE_NAME, (3, 8), 128)
    with pytest.raises(BundleError, match="a number without an end"):
        resize_table(b"\xff" * 40, ITEM_TABLE_NAME, (3, 8), 128)
    for _ in range(300):
        damaged = bytearray(model)
        for place in rng.integers(0, len(model), 3):
            damaged[place] = rng.integers(256)
        try:
            resize_table(bytes(damaged), ITEM_TABLE_NAME, (3, 8), 128)
        except BundleError as error:
            assert "ONNX model" in str(error)  # noqa: PT017  either it is found damaged, or it is not
