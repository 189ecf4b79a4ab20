"""Writing an ONNX graph, field by field."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.protobuf import bytes_field, float_field, number_field

TYPES = {"float32": 1, "int64": 7}  # TensorProto.DataType
# Added to the scores of keys that must not be seen. Finite, so that a padded query, which sees no key
# at all, gets a mean of values instead of nan; nobody looks at it.
MASKED = -1e9


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

    def node(self, op: str, inputs: list[str], output: str, **attributes: int | float | list[int]) -> str:
        """Add a node of one output; the output's name."""
        node = [bytes_field(1, one.encode()) for one in inputs]
        node += [
            bytes_field(2, output.encode()),
            bytes_field(3, output.encode()),
            bytes_field(4, op.encode()),
        ]
        node += [bytes_field(5, _attribute(*one)) for one in sorted(attributes.items())]
        self.nodes.append(bytes_field(1, b"".join(node)))
        return output


def _attribute(name: str, value: int | float | list[int]) -> bytes:
    named = bytes_field(1, name.encode())
    if isinstance(value, float):
        return named + float_field(2, value) + number_field(20, 1)
    if isinstance(value, int):
        return named + number_field(3, value) + number_field(20, 2)
    return named + b"".join(number_field(8, one) for one in value) + number_field(20, 7)
