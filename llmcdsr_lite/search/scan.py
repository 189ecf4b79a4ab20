"""A first look at every item in 8 bits, a third of the time that float32 takes, and how far off it can be.

An item vector v becomes ``unit * q`` and a user representation u ``step * p``, q and p whole numbers. The
products p · q are whole numbers too, exact on every CPU, and for every item

    |u · v - step * unit * p · q|  <=  |u - step * p| max|v|  +  |step * p| max|v - unit * q|

by Cauchy-Schwarz. onnxruntime computes the products in a graph that is written here: a bundle needs no file
for it, and old bundles get it, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Domain
from llmcdsr_lite.model.protobuf import bytes_field, number_field
from llmcdsr_lite.model.session import OnnxSession

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]

# q is from -90 to 90, p from -89 to 89, sent as p + 90. With full 8 bits, CPUs without VNNI would cut sums:
# they add pairs of products in 16 bits, where 2 * 179 * 90 fits.
_ITEM_LEVELS, _USER_LEVELS, _USER_ZERO = 90, 89, 90
_ROWS_AT_A_TIME = 4096
_OPSET, _IR_VERSION = 17, 8
_UINT8, _INT8, _INT32 = 2, 3, 6  # TensorProto.DataType
_INPUT, _TABLE, _OUTPUTS = "users", "items", ["scores"]
_ROUNDING = 2.0**-22  # two roundings to float32
_SMALLEST = 1e-27  # of a score's unit: the rounding of scores below normal numbers is nothing beside it


class Scan:
    """Approximate scores of all items of one domain or of both.

    Parameters
    ----------
    item_vectors : float32 array (items + 1, H)
    domains : tuple of Domain
        One after another.
    threads : int
        Of the ONNX sessions.

    Raises
    ------
    ImportError
        If onnxruntime is not installed.
    ValueError
        If no item vector is other than zero, or a session cannot be made.
    """

    def __init__(
        self, item_vectors: npt.NDArray[np.float32], domains: tuple[Domain, ...], threads: int
    ) -> None:
        start, stop = domains[0].start, domains[-1].stop
        whole, unit, longest, furthest = quantise_items(item_vectors[start:stop])
        # room for the rounding of the bound, and for scores that are one float32 when rounded
        self._unit = unit
        self._longest = longest * (1 + _ROUNDING) / unit
        self._furthest = (furthest * (1 + _ROUNDING) + longest * _ROUNDING) / unit
        self._least_step = _SMALLEST / unit
        # one for all items, too: it takes half as long as those of each domain and joining the scores
        ranges = {(domain.start, domain.stop) for domain in domains} | {(start, stop)}
        self._sessions = {(a, b): _session(whole[a - start : b - start], threads) for a, b in ranges}

    def covers(self, start: int, stop: int) -> bool:
        """Whether these rows can be scanned: those of a domain, or all."""
        return (start, stop) in self._sessions

    def scores(self, users: FloatArray, start: int, stop: int) -> tuple[IntArray, FloatArray, FloatArray]:
        """Whole numbers that scores are proportional to, nearly.

        Parameters
        ----------
        users : float64 array (n, H)
        start, stop : int
            Rows that `covers` knows.

        Returns
        -------
        scores : int32 array (n, stop - start)
        error : float64 array (n,)
            In the unit of `scores`: a score is nowhere further from its whole number, the rounding of
            scores to float32 included; nan for users that are not finite.
        unit : float64 array (n,)
            What a score is for 1 of its whole number.
        """
        step = np.maximum(np.abs(users).max(axis=1, keepdims=True) * (1 / _USER_LEVELS), self._least_step)
        scaled = users / step  # (n, H)
        whole = np.rint(scaled)
        scaled -= whole
        error = _lengths(scaled) * self._longest
        error += _lengths(whole) * self._furthest
        whole += _USER_ZERO
        session = self._sessions[start, stop]
        (scores,) = session.run(_OUTPUTS, {_INPUT: whole.astype(np.uint8)})
        return scores, error, step[:, 0] * self._unit


def _session(whole: npt.NDArray[np.int8], threads: int) -> OnnxSession:
    """Session that multiplies with these items (m, H)."""
    table = np.ascontiguousarray(whole.T)  # (H, m)
    try:
        return OnnxSession(scan_graph(*table.shape), threads, {_TABLE: table})
    except ImportError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise ValueError(f"onnxruntime does not load the scan: {error}") from None


def quantise_items(
    vectors: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int8], float, float, float]:
    """Whole numbers q (items, H), their unit, the largest ``|v|`` and the largest ``|v - unit * q|``.

    Raises
    ------
    ValueError
        If all vectors are zero.
    """
    unit = float(max(vectors.max(), -vectors.min())) / _ITEM_LEVELS
    if not unit > 0:
        raise ValueError("all item vectors are zero")
    quantised = np.empty(vectors.shape, dtype=np.int8)
    longest = furthest = 0.0
    for first in range(0, len(vectors), _ROWS_AT_A_TIME):
        some = vectors[first : first + _ROWS_AT_A_TIME].astype(np.float64)
        whole = np.rint(some / unit)
        quantised[first : first + _ROWS_AT_A_TIME] = whole
        longest = max(longest, _lengths(some).max())
        furthest = max(furthest, _lengths(some - unit * whole).max())
    return quantised, unit, float(longest), float(furthest)


def scan_graph(hidden: int, n_items: int) -> bytes:
    """ONNX model: users (n, H) as unsigned bytes to products (n, items), its table (H, items) left out."""
    node = [bytes_field(1, name) for name in (b"users", b"items", b"zero")]
    node += [bytes_field(2, b"scores"), bytes_field(4, b"MatMulInteger")]
    location = bytes_field(1, b"location") + bytes_field(2, b"elsewhere")
    table = number_field(1, hidden) + number_field(1, n_items) + number_field(2, _INT8)
    table += bytes_field(8, b"items") + bytes_field(13, location) + number_field(14, 1)  # 1: external
    zero = number_field(2, _UINT8) + bytes_field(8, b"zero")  # no dims: a scalar
    zero += bytes_field(9, bytes([_USER_ZERO]))
    graph = [bytes_field(1, b"".join(node)), bytes_field(2, b"scan"), bytes_field(5, table)]
    graph += [bytes_field(5, zero), bytes_field(11, _value(b"users", _UINT8, hidden))]
    graph += [bytes_field(12, _value(b"scores", _INT32, n_items))]
    opset = bytes_field(1, b"") + number_field(2, _OPSET)
    return number_field(1, _IR_VERSION) + bytes_field(7, b"".join(graph)) + bytes_field(8, opset)


def _value(name: bytes, data_type: int, n_columns: int) -> bytes:
    shape = bytes_field(1, bytes_field(2, b"n")) + bytes_field(1, number_field(1, n_columns))
    tensor_type = number_field(1, data_type) + bytes_field(2, shape)
    return bytes_field(1, name) + bytes_field(2, bytes_field(1, tensor_type))


def _lengths(vectors: npt.NDArray[Any]) -> FloatArray:
    lengths: FloatArray = np.sqrt(np.einsum("nh,nh->n", vectors, vectors))
    return lengths
