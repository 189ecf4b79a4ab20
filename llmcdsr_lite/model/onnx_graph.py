"""Writing an ONNX graph, field by field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.protobuf import bytes_field, float_field, number_field

TYPES = {"float32": 1, "int32": 6, "int64": 7, "bool": 9, "float64": 11}  # TensorProto.DataType
# Added to the scores of keys that must not be seen. Finite, so that a padded query, which sees no key
# at all, gets a mean of values instead of nan; nobody looks at it.
MASKED = -1e9
IR_VERSION = 9


@dataclass(frozen=True)
class Tensor:
    """Name, type and shape of an input or output of a model; a size may be a name, for any size."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Graph:
    """Nodes and constants of a graph under construction, as fields of a GraphProto."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.initializers: list[bytes] = []

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        """Add a constant of at least one axis; its name."""
        array = np.atleast_1d(np.asarray(value, dtype=np.dtype(dtype).newbyteorder("<")))
        tensor = b"".join(number_field(1, size) for size in array.shape)
        tensor += number_field(2, TYPES[np.dtype(dtype).name])
        tensor += bytes_field(8, name.encode()) + bytes_field(9, array.tobytes())
        self.initializers.append(bytes_field(5, tensor))
        return name

    def node(
        self,
        op: str,
        inputs: list[str],
        output: str,
        *more_outputs: str,
        **attributes: int | float | str | list[int],
    ) -> str:
        """Add a node, named for its first output; that output's name."""
        node = [bytes_field(1, one.encode()) for one in inputs]
        node += [bytes_field(2, one.encode()) for one in (output, *more_outputs)]
        node += [bytes_field(3, output.encode()), bytes_field(4, op.encode())]
        node += [bytes_field(5, _attribute(*one)) for one in sorted(attributes.items())]
        self.nodes.append(bytes_field(1, b"".join(node)))
        return output


def model_bytes(
    graph: Graph,
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    opset: int,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Serialise a graph as an ONNX model, with metadata by name."""
    whole = [
        *graph.nodes,
        bytes_field(2, name.encode()),
        *graph.initializers,
        *(bytes_field(11, _value(tensor)) for tensor in inputs),
        *(bytes_field(12, _value(tensor)) for tensor in outputs),
    ]
    version = bytes_field(1, b"") + number_field(2, opset)
    model = number_field(1, IR_VERSION) + bytes_field(2, b"llmcdsr_lite")
    model += bytes_field(7, b"".join(whole)) + bytes_field(8, version)
    for key, value in (metadata or {}).items():
        model += bytes_field(14, bytes_field(1, key.encode()) + bytes_field(2, value.encode()))
    return model


def _value(tensor: Tensor) -> bytes:
    """An input or output; a size is a name or a number."""
    dims = [
        bytes_field(1, number_field(1, size) if isinstance(size, int) else bytes_field(2, size.encode()))
        for size in tensor.shape
    ]
    tensor_type = number_field(1, TYPES[tensor.dtype]) + bytes_field(2, b"".join(dims))
    return bytes_field(1, tensor.name.encode()) + bytes_field(2, bytes_field(1, tensor_type))


def _attribute(name: str, value: int | float | str | list[int]) -> bytes:
    named = bytes_field(1, name.encode())
    if isinstance(value, str):
        return named + bytes_field(4, value.encode()) + number_field(20, 3)
    if isinstance(value, float):
        return named + float_field(2, value) + number_field(20, 1)
    if isinstance(value, int):
        return named + number_field(3, value) + number_field(20, 2)
    return named + b"".join(number_field(8, one) for one in value) + number_field(20, 7)
