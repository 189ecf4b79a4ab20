"""The ONNX graph, run by onnxruntime alone, against the NumPy model and a padded one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from padded_sasrec import padded_features

from llmcdsr_lite.model.backends import INPUT_NAME, OUTPUT_NAME, NumpyBackend, OnnxBackend
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.export.onnx_graph import build_onnx, check_onnx

N_ITEMS = 50
TABLE = "table.npy"
Histories = list[npt.NDArray[np.int64]]


def random_model(n_blocks: int, n_heads: int, max_length: int, **changes: Any) -> SASRecParameters:
    config = SASRecConfig(N_ITEMS, 12, n_blocks, n_heads, max_length, **changes)
    parameters = SASRecParameters.zeros(config)
    rng = np.random.default_rng(1)
    parameters.item_embedding[1:] = rng.normal(0, 0.4, (N_ITEMS, 12))
    parameters.dense[:] = rng.normal(0, 0.4, parameters.dense.shape)
    return parameters


def write(parameters: SASRecParameters, folder: Path) -> Path:
    """The graph with its table beside it."""
    np.save(folder / TABLE, parameters.item_embedding)
    offset = (folder / TABLE).stat().st_size - parameters.item_embedding.nbytes
    (folder / "model.onnx").write_bytes(build_onnx(parameters, TABLE, offset))
    return folder / "model.onnx"


def session(path: Path) -> onnxruntime.InferenceSession:
    """Nothing but the path, as any user of ONNX would."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def padded(histories: Histories, length: int) -> npt.NDArray[np.int64]:
    rows = np.zeros((len(histories), length), dtype=np.int64)
    for row, history in zip(rows, histories, strict=True):
        row[length - len(history) :] = history
    return rows


def histories_of(lengths: list[int], seed: int = 0) -> Histories:
    rng = np.random.default_rng(seed)
    return [rng.integers(1, N_ITEMS + 1, n) for n in lengths]


def assert_close(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("n_blocks", "n_heads", "max_length"), [(1, 1, 1), (1, 3, 8), (2, 2, 8), (3, 4, 20), (2, 1, 50)]
)
def test_equals_numpy_and_the_padded_model(
    tmp_path: Path, n_blocks: int, n_heads: int, max_length: int
) -> None:
    parameters = random_model(n_blocks, n_heads, max_length)
    path = write(parameters, tmp_path)
    check_onnx(str(path))
    onnx_session, numpy_backend = session(path), NumpyBackend(parameters)
    arrays = {name: array.astype(np.float64) for name, array in parameters.arrays.items()}
    for longest in sorted({1, max_length // 2 or 1, max_length}):
        for size in (1, 2, 17):  # shapes are dynamic: one session takes them all
            lengths = np.random.default_rng(size).integers(1, longest + 1, size).tolist()
            histories = histories_of([longest, *lengths[1:]], seed=size)
            (found,) = onnx_session.run([OUTPUT_NAME], {INPUT_NAME: padded(histories, longest)})
            assert found.dtype == np.float32
            assert_close(found, numpy_backend.represent(histories))
            first = padded_features(
                arrays,
                parameters.item_embedding.astype(np.float64),
                histories[0].tolist(),
                n_blocks=n_blocks,
                n_heads=n_heads,
                max_length=max_length,
                padding_keys=False,
            )
            assert_close(found[0], first[-1])


def test_more_padding_changes_no_answer(tmp_path: Path) -> None:
    onnx_session = session(write(random_model(2, 2, 8), tmp_path))
    histories = histories_of([3, 1, 2])
    answers = [
        onnx_session.run([OUTPUT_NAME], {INPUT_NAME: padded(histories, length)})[0] for length in (3, 4, 8)
    ]
    assert_close(answers[1], answers[0])
    assert_close(answers[2], answers[0])
    alone = [onnx_session.run([OUTPUT_NAME], {INPUT_NAME: h[None]})[0][0] for h in histories]
    assert_close(answers[2], np.array(alone))


def test_a_row_of_padding_alone_is_finite(tmp_path: Path) -> None:
    onnx_session = session(write(random_model(2, 2, 8), tmp_path))
    (found,) = onnx_session.run([OUTPUT_NAME], {INPUT_NAME: np.zeros((2, 5), dtype=np.int64)})
    assert np.isfinite(found).all()


def test_the_backend_cuts_long_histories_to_the_newest(tmp_path: Path) -> None:
    parameters = random_model(2, 2, 8)
    path = write(parameters, tmp_path)
    backend = OnnxBackend(path, parameters.item_embedding, 8, 1)
    histories = histories_of([20, 9, 8, 3])
    found = backend.represent(histories)
    assert_close(found, NumpyBackend(parameters).represent([h[-8:] for h in histories]))
    assert_close(
        found, session(path).run([OUTPUT_NAME], {INPUT_NAME: padded([h[-8:] for h in histories], 8)})[0]
    )


def test_large_scores_do_not_see_padding(tmp_path: Path) -> None:
    """Attention scores in the thousands stay far from what masks a key."""
    parameters = random_model(2, 1, 8)
    for block in parameters.blocks:
        block.query_weight[:] *= 100
        block.key_value_weight[:12] *= 100
    histories = histories_of([1, 3, 8])
    (found,) = session(write(parameters, tmp_path)).run([OUTPUT_NAME], {INPUT_NAME: padded(histories, 8)})
    expected = NumpyBackend(parameters).represent(histories)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_table_is_not_in_the_model_and_the_shapes_are_dynamic(tmp_path: Path) -> None:
    parameters = random_model(2, 2, 8)
    path = write(parameters, tmp_path)
    model = onnx.load(str(path), load_external_data=False)
    external = [i for i in model.graph.initializer if i.data_location == onnx.TensorProto.EXTERNAL]
    assert [list(i.dims) for i in external] == [[N_ITEMS + 1, 12]]
    assert {e.key: e.value for e in external[0].external_data}["location"] == TABLE
    largest = max(np.prod(i.dims) for i in model.graph.initializer if i not in external)
    assert largest < parameters.item_embedding.size
    loaded = onnx.load(str(path))  # the offset points at the data, behind the header
    (table,) = [i for i in loaded.graph.initializer if list(i.dims) == [N_ITEMS + 1, 12]]
    assert np.array_equal(onnx.numpy_helper.to_array(table), parameters.item_embedding)
    (given,), (result,) = model.graph.input, model.graph.output
    assert [d.dim_param for d in given.type.tensor_type.shape.dim] == ["batch", "length"]
    dims = result.type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 12)


def test_the_same_model_gives_the_same_bytes() -> None:
    assert build_onnx(random_model(2, 2, 8), TABLE, 128) == build_onnx(random_model(2, 2, 8), TABLE, 128)


def test_models_with_padding_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="padding keys are for conformance"):
        build_onnx(random_model(1, 1, 4, padding_keys=True), TABLE, 128)
