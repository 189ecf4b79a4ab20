"""The ONNX form of the recommender, built node by node from the trained arrays.

``item_rows`` (batch, length), int64, left-padded with zeros, to ``user_representation`` (batch, H).
The last block is computed for the last position only. The item table is external data: the graph points
into ``item_vectors.npy``, behind its header, so that a bundle holds it once.

The bytes are written here, not by the package onnx: `check_graph` builds the graph anew whenever a bundle is
loaded, where that package need not be, and compares it to the byte, which must not change with its versions.
So these bytes are part of the format. The tests and the export have onnx check them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import BundleError
from llmcdsr_lite.model.backends import INPUT_NAME, ITEM_TABLE_NAME, OUTPUT_NAME
from llmcdsr_lite.model.ensemble import Model, SASRecEnsemble
from llmcdsr_lite.model.ensemble_graph import add_ensemble
from llmcdsr_lite.model.onnx_graph import MASKED, TYPES, Graph, Tensor, model_bytes
from llmcdsr_lite.model.parameters import BlockParameters, SASRecParameters
from llmcdsr_lite.model.protobuf import bytes_field, number_field

OPSET = 17


def build_onnx(parameters: Model, table_location: str, table_offset: int) -> bytes:
    """Build the ONNX model of a recommender.

    Parameters
    ----------
    parameters : SASRecParameters or SASRecEnsemble
        Trained without padding keys.
    table_location : str
        Name of the file with the item table, beside the model.
    table_offset : int
        Bytes before its data in that file.

    Returns
    -------
    bytes
        The serialised model.
    """
    graph = Graph()
    graph.initializers.append(_external_table(parameters.item_embedding, table_location, table_offset))
    add_recommender(graph, parameters)
    rows = Tensor(INPUT_NAME, "int64", ("batch", "length"))
    users = Tensor(OUTPUT_NAME, "float32", ("batch", parameters.item_embedding.shape[1]))
    return model_bytes(graph, "sasrec", [rows], [users], OPSET)


def add_recommender(graph: Graph, parameters: Model) -> None:
    """Add the nodes from item rows to user representations to a graph that has the item table."""
    if parameters.config.padding_keys:
        raise ValueError("padding keys are for conformance with the official code only, not for export")
    if isinstance(parameters, SASRecEnsemble):
        add_ensemble(graph, parameters)
    else:
        _add_model(graph, parameters)


def _add_model(graph: Graph, parameters: SASRecParameters) -> None:
    """Add the nodes of one model."""
    config = parameters.config
    x, real, visible = _inputs(graph, parameters)
    for number, block in enumerate(parameters.blocks[:-1]):
        x = _block(graph, f"block{number}", block, x, x, visible, parameters)
        # as the reference does; no answer depends on it, as padded keys get a weight of exactly 0, but the
        # bytes of the graph are part of the format
        x = graph.node("Mul", [x, real], f"block{number}.reset")
    last = graph.node("Slice", [x, "minus_one", "int_max", "axis_1"], "last_token")
    # the last query sees every real key: only padding is masked
    last_visible = graph.node("Slice", [visible, "minus_one", "int_max", "axis_2"], "last_visible")
    number = config.n_blocks - 1
    x = _block(graph, f"block{number}", parameters.blocks[-1], last, x, last_visible, parameters)
    x = _layer_norm(graph, "norm", x, parameters.norm_weight, parameters.norm_bias, config.epsilon)
    graph.node("Squeeze", [x, "axis_1"], OUTPUT_NAME)


def check_graph(path: Path, parameters: Model, table_location: str, table_offset: int) -> None:
    """Refuse a model file that is not, to the byte, what `build_onnx` makes of the parameters.

    A graph is a program: only our own is run. And both backends answer from the same numbers.

    Raises
    ------
    BundleError
        If it is another one.
    """
    # before one is built: the mask that it holds grows with the square of the length
    fits = 4 * parameters.config.max_length**2 < path.stat().st_size
    if not fits or path.read_bytes() != build_onnx(parameters, table_location, table_offset):
        raise BundleError(
            f"{path}: is not the graph of this config.json, dense.npy and item_vectors.npy; "
            "export the bundle again"
        )


def _external_table(table: npt.NDArray[Any], location: str, offset: int) -> bytes:
    tensor = b"".join(number_field(1, size) for size in table.shape) + number_field(2, TYPES["float32"])
    tensor += bytes_field(8, ITEM_TABLE_NAME.encode())
    for key, value in (("location", location), ("offset", offset), ("length", table.size * 4)):
        tensor += bytes_field(13, bytes_field(1, key.encode()) + bytes_field(2, str(value).encode()))
    return bytes_field(5, tensor + number_field(14, 1))  # 1: external


def _inputs(graph: Graph, parameters: SASRecParameters) -> tuple[str, str, str]:
    """Input of the first block (batch, length, H); 1 for real tokens; what each query may see.

    The second is (batch, length, 1), the third is added to scores: (batch, 1, length, length).
    """
    config = parameters.config
    for name, value in (
        ("minus_one", -1),
        ("int_max", 2**31 - 1),
        ("axis_0", 0),
        ("axis_1", 1),
        ("axis_2", 2),
    ):
        graph.constant(name, [value], np.int64)
    graph.constant("last_axis", [-1], np.int64)
    graph.constant("axes_1_2", [1, 2], np.int64)
    graph.constant("axes_0_1", [0, 1], np.int64)
    graph.constant("int_max_twice", [2**31 - 1] * 2, np.int64)
    graph.constant("zero", 0, np.int64)
    graph.constant("positions", parameters.position_embedding)
    graph.constant("input_scale", math.sqrt(config.hidden))
    graph.constant("causal", np.triu(np.full((config.max_length,) * 2, MASKED), 1))
    graph.constant("masked", MASKED)
    graph.constant("seen", 0.0)

    is_real = graph.node("Greater", [INPUT_NAME, "zero"], "is_real")
    real_flat = graph.node("Cast", [is_real], "real_flat", to=TYPES["float32"])
    real = graph.node("Unsqueeze", [real_flat, "last_axis"], "real")
    shape = graph.node("Shape", [INPUT_NAME], "shape", start=1)
    from_end = graph.node("Neg", [shape], "from_end")  # -length
    positions = graph.node("Slice", ["positions", from_end, "int_max", "axis_0"], "positions_used")
    embedded = graph.node("Gather", [ITEM_TABLE_NAME, INPUT_NAME], "embedded")
    scaled = graph.node("Mul", [embedded, "input_scale"], "scaled")
    placed = graph.node("Add", [scaled, positions], "placed")
    x = graph.node("Mul", [placed, real], "input")

    both = graph.node("Concat", [from_end, from_end], "from_end_twice", axis=0)
    causal = graph.node("Slice", ["causal", both, "int_max_twice", "axes_0_1"], "causal_used")
    padding = graph.node("Where", [is_real, "seen", "masked"], "padding")
    keys = graph.node("Unsqueeze", [padding, "axes_1_2"], "padding_keys")  # (batch, 1, 1, length)
    visible = graph.node("Add", [causal, keys], "visible")
    return x, real, visible


def _block(
    graph: Graph,
    name: str,
    block: BlockParameters,
    queries: str,
    x: str,
    visible: str,
    parameters: SASRecParameters,
) -> str:
    """One block for the tokens `queries` (batch, q, H) that look at `x` (batch, length, H)."""
    config = parameters.config
    hidden, epsilon = config.hidden, config.epsilon
    scale = (hidden // config.n_heads) ** -0.5
    normalized = _layer_norm(
        graph, f"{name}.norm", queries, block.attention_norm_weight, block.attention_norm_bias, epsilon
    )
    query = _linear(graph, f"{name}.query", normalized, block.query_weight * scale, block.query_bias * scale)
    key = _linear(graph, f"{name}.key", x, block.key_value_weight[:hidden], block.key_value_bias[:hidden])
    value = _linear(graph, f"{name}.value", x, block.key_value_weight[hidden:], block.key_value_bias[hidden:])
    split = graph.constant(f"{name}.split", [0, 0, config.n_heads, hidden // config.n_heads], np.int64)
    query = _to_heads(graph, query, split, [0, 2, 1, 3])
    key = _to_heads(graph, key, split, [0, 2, 3, 1])  # transposed for the product
    value = _to_heads(graph, value, split, [0, 2, 1, 3])
    scores = graph.node("MatMul", [query, key], f"{name}.scores")
    masked = graph.node("Add", [scores, visible], f"{name}.masked")
    weights = graph.node("Softmax", [masked], f"{name}.weights", axis=-1)
    mixed = graph.node("MatMul", [weights, value], f"{name}.mixed")
    together = graph.node("Transpose", [mixed], f"{name}.together", perm=[0, 2, 1, 3])
    merge = graph.constant(f"{name}.merge", [0, 0, hidden], np.int64)
    merged = graph.node("Reshape", [together, merge], f"{name}.merged")
    output = _linear(graph, f"{name}.output", merged, block.output_weight, block.output_bias)
    y = graph.node("Add", [output, normalized], f"{name}.attended")
    inner_input = _layer_norm(
        graph, f"{name}.norm2", y, block.feed_forward_norm_weight, block.feed_forward_norm_bias, epsilon
    )
    inner = _linear(graph, f"{name}.inner", inner_input, block.inner_weight, block.inner_bias)
    active = graph.node("Relu", [inner], f"{name}.active")
    outer = _linear(graph, f"{name}.outer", active, block.outer_weight, block.outer_bias)
    return graph.node("Add", [outer, inner_input], f"{name}.out")


def _to_heads(graph: Graph, x: str, split: str, permutation: list[int]) -> str:
    heads = graph.node("Reshape", [x, split], f"{x}.split")
    return graph.node("Transpose", [heads], f"{x}.heads", perm=permutation)


def _linear(graph: Graph, name: str, x: str, weight: npt.NDArray[Any], bias: npt.NDArray[Any]) -> str:
    product = graph.node("MatMul", [x, graph.constant(f"{name}.weight", weight.T)], f"{name}.product")
    return graph.node("Add", [product, graph.constant(f"{name}.bias", bias)], name)


def _layer_norm(
    graph: Graph, name: str, x: str, weight: npt.NDArray[Any], bias: npt.NDArray[Any], epsilon: float
) -> str:
    inputs = [x, graph.constant(f"{name}.weight", weight), graph.constant(f"{name}.bias", bias)]
    return graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=epsilon)
