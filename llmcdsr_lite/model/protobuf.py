"""Protocol buffers, as ONNX files are: a message is its fields one after another, by rising number."""

from __future__ import annotations

from struct import pack

_VARINT, _BYTES, _FIXED32 = 0, 2, 5  # types of a field


def number_field(field: int, value: int) -> bytes:
    """A field with a whole number."""
    return varint(field << 3 | _VARINT) + varint(value & (1 << 64) - 1)


def float_field(field: int, value: float) -> bytes:
    """A field with a float32."""
    return varint(field << 3 | _FIXED32) + pack("<f", value)


def bytes_field(field: int, value: bytes) -> bytes:
    """A field with bytes, text or a message."""
    return varint(field << 3 | _BYTES) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A whole number that is not negative: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
