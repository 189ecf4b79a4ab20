from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from llmcdsr_lite.bundle.folder import Bundle
from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.model.backends import INPUT_NAME, OUTPUT_NAME, Backend, NumpyBackend, OnnxBackend
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.export.onnx_graph import build_onnx

MAX_LENGTH = 6
HISTORIES = [[3], [30, 1], [5, 5, 5], [1, 2, 3, 4, 5, 6], [9, 8, 7, 6, 5, 4, 3, 2, 1], list(range(1, 31))]


@pytest.fixture(scope="module")
def backends(bundle_data: Bundle, bundle_folder: Path) -> dict[str, Backend]:
    parameters = bundle_data.parameters
    path = bundle_folder / "recommender.onnx"
    return {
        "numpy": NumpyBackend(parameters),
        "onnx": OnnxBackend(path, bundle_data.item_vectors, MAX_LENGTH, 1),
    }


def arrays(histories: list[list[int]]) -> list[Any]:
    return [np.array(h, dtype=np.int64) for h in histories]


@pytest.mark.parametrize("name", ["numpy", "onnx"])
def test_single_histories_agree_with_the_formulas(
    backends: dict[str, Backend], name: str, naive_representation: Callable[[list[int]], Any]
) -> None:
    for history in HISTORIES:
        found = backends[name].represent(arrays([history]))
        assert found.shape == (1, 8)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[0], naive_representation(history), atol=1e-5)


@pytest.mark.parametrize("name", ["numpy", "onnx"])
def test_a_batch_of_mixed_lengths_agrees_with_the_formulas(
    backends: dict[str, Backend], name: str, naive_representation: Callable[[list[int]], Any]
) -> None:
    found = backends[name].represent(arrays(HISTORIES))
    np.testing.assert_allclose(found, [naive_representation(h) for h in HISTORIES], atol=1e-5)


@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=14), min_size=1, max_size=8))
@settings(max_examples=60)
def test_backends_agree(backends: dict[str, Backend], histories: list[list[int]]) -> None:
    made = {name: backend.represent(arrays(histories)) for name, backend in backends.items()}
    np.testing.assert_allclose(made["onnx"], made["numpy"], atol=1e-5)


def test_items_before_the_newest_have_no_effect(backends: dict[str, Backend]) -> None:
    for backend in backends.values():
        cut, full = (
            backend.represent(arrays([h])) for h in ([4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9])
        )
        assert np.array_equal(cut, full)


def test_a_graph_that_is_garbage(bundle_data: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "recommender.onnx"
    for content in (b"", b"garbage", b"\x08\x09" * 500):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"recommender\.onnx: "):
            OnnxBackend(path, bundle_data.item_vectors, MAX_LENGTH, 1)


def rename_input(model: Any) -> None:
    rename(model, INPUT_NAME, "rows")


def rename_output(model: Any) -> None:
    rename(model, OUTPUT_NAME, "user")


def rename_table(model: Any) -> None:
    rename(model, "item_embedding", "table")


def rename(model: Any, old: str, new: str) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = new if value.name == old else value.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def other_input_type(model: Any) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT32


def fixed_batch(model: Any) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def second_input(model: Any) -> None:
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))


def half_representation(model: Any) -> None:
    """A graph that is sound in itself but of half the hidden size."""
    graph = model.graph
    rename_output_node = graph.node[-1]
    rename_output_node.output[0] = "whole"
    graph.node.append(helper.make_node("Slice", ["whole", "from", "to", "axis_1"], [OUTPUT_NAME]))
    graph.initializer.append(helper.make_tensor("from", TensorProto.INT64, [1], [0]))
    graph.initializer.append(helper.make_tensor("to", TensorProto.INT64, [1], [4]))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4


def table_elsewhere(model: Any) -> None:
    """Read a parameter from a file outside of the folder."""
    tensor = next(t for t in model.graph.initializer if t.name == "norm.bias")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "32")):
        tensor.external_data.add(key=key, value=value)


def not_finite(model: Any) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "norm.bias")
    tensor.raw_data = np.full(8, np.nan, np.float32).tobytes()


@pytest.mark.parametrize(
    "change",
    [
        rename_input,
        rename_output,
        rename_table,
        other_input_type,
        fixed_batch,
        second_input,
        half_representation,
        table_elsewhere,
        not_finite,
    ],
)
def test_a_graph_that_does_not_fit_is_refused_at_load(
    bundle_data: Bundle, bundle_folder: Path, tmp_path: Path, change: Callable[[Any], None]
) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    path = tmp_path / "bundle" / "recommender.onnx"
    path.parent.mkdir()
    model = onnx.load(bundle_folder / "recommender.onnx", load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    (path.parent / "item_vectors.npy").write_bytes((bundle_folder / "item_vectors.npy").read_bytes())
    with pytest.raises(BundleError, match=r"recommender\.onnx: "):
        OnnxBackend(path, bundle_data.item_vectors, MAX_LENGTH, 1)


@pytest.mark.parametrize("change", [{"hidden": 4}, {"n_items": 29}, {"max_length": 5}])
def test_a_graph_of_other_sizes_is_refused_at_load(
    bundle_data: Bundle, tmp_path: Path, change: dict[str, int]
) -> None:
    config: SASRecConfig = replace(bundle_data.parameters.config, **change)
    other = SASRecParameters.initial(config, np.random.default_rng(0))
    np.save(tmp_path / "item_vectors.npy", other.item_embedding)
    path = tmp_path / "recommender.onnx"
    path.write_bytes(build_onnx(other, "item_vectors.npy", 128))
    with pytest.raises(BundleError, match=r"recommender\.onnx: "):
        OnnxBackend(path, bundle_data.item_vectors, MAX_LENGTH, 1)


@pytest.mark.parametrize("n", [64, 65, 200])
def test_many_users_get_their_own_representation(
    backends: dict[str, Backend], naive_representation: Callable[[list[int]], Any], n: int
) -> None:
    """More than a run takes, of lengths in no order."""
    rng = np.random.default_rng(n)
    histories = [rng.integers(1, 31, rng.integers(1, 10)).tolist() for _ in range(n)]
    found = backends["onnx"].represent(arrays(histories))
    np.testing.assert_allclose(found, [naive_representation(h) for h in histories], atol=1e-5)
