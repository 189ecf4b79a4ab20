"""The item table of an ONNX model made longer, without the onnx package.

The sizes of the table are written in the graph, so a catalogue that has grown needs a graph that says so.
An ONNX file is a protocol buffer: fields of a number, a type and a value, of which a message in a message is
one. What is rewritten here is one tensor among the graph's initializers, its ``dims`` and where its data
is; all other bytes stay.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmcdsr_lite.errors import BundleError

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_EXTERNAL = 1, 8, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # types of a field
_MAX_VARINT = 10  # bytes


def resize_table(model: bytes, name: str, shape: tuple[int, int], offset: int) -> bytes:
    """Give the external initializer of that name another shape and place in its file.

    Parameters
    ----------
    model : bytes
        An ONNX model.
    name : str
        Of the initializer, float32, its data in another file.
    shape : tuple of two int
        Its new sizes.
    offset : int
        Bytes before its data in that file.

    Returns
    -------
    bytes

    Raises
    ------
    BundleError
        If it is not an ONNX model, or has no such initializer.
    """
    place = {b"offset": offset, b"length": shape[0] * shape[1] * 4}
    changed = 0
    out = bytearray()
    for number, field, value in _fields(model):
        if number != _MODEL_GRAPH or value is None:
            out += field
            continue
        graph = bytearray()
        for inner, inner_field, tensor in _fields(value):
            if inner == _GRAPH_INITIALIZER and tensor is not None and _name(tensor) == name.encode():
                inner_field = _message(_GRAPH_INITIALIZER, _resized(tensor, shape, place))
                changed += 1
            graph += inner_field
        out += _message(_MODEL_GRAPH, bytes(graph))
    if changed != 1:
        raise BundleError(f"the ONNX model has {changed} initializers named {name!r}, expected one")
    return bytes(out)


def _resized(tensor: bytes, shape: tuple[int, int], place: dict[bytes, int]) -> bytes:
    """A tensor with other sizes and another place."""
    out = b"".join(_varint(_TENSOR_DIMS << 3 | _VARINT) + _varint(size) for size in shape)
    for number, field, value in _fields(tensor):
        if number == _TENSOR_DIMS:
            continue
        if number == _TENSOR_EXTERNAL and value is not None:
            entry = {n: v for n, _, v in _fields(value)}
            key = entry.get(_ENTRY_KEY) or b""
            if key in place:
                text = str(place[key]).encode()
                field = _message(_TENSOR_EXTERNAL, _message(_ENTRY_KEY, key) + _message(_ENTRY_VALUE, text))
        out += field
    return out


def _name(tensor: bytes) -> bytes | None:
    return next((value for number, _, value in _fields(tensor) if number == _TENSOR_NAME), None)


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Number, bytes and, of fields that hold bytes, value of every field."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        kind, value = key & 7, None
        if kind == _VARINT:
            _, place = _read_varint(message, place)
        elif kind == _BYTES:
            size, place = _read_varint(message, place)
            value = message[place : place + size]
            place += size
        elif kind in (_FIXED32, _FIXED64):
            place += 4 if kind == _FIXED32 else 8
        else:
            raise BundleError(f"the ONNX model is damaged: a field of type {kind}")
        if place > len(message):
            raise BundleError("the ONNX model is damaged: it ends within a field")
        yield key >> 3, message[start:place], value


def _read_varint(message: bytes, place: int) -> tuple[int, int]:
    """A number, seven bits a byte, the lowest first; and the place behind it."""
    value = 0
    for shift, byte in enumerate(message[place : place + _MAX_VARINT]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, place + shift + 1
    raise BundleError("the ONNX model is damaged: a number without an end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _message(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content
