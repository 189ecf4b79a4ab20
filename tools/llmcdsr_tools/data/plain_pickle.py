"""Reads a pickle of one flat dict of texts and numbers, without unpickling it.

`pickle` runs what the file says. Refusing what it may import is not enough: tuples that hold each other
take years to hash, lists nested deep enough end the process when they are shown, and a single operation
can ask for any amount of memory. So the file's operations, which `pickletools` lists, are followed here,
those alone that a flat dict needs.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any, NoReturn, cast

from llmcdsr_lite.errors import DataError

_TEXTS = ("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_OLD_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING")  # of Python 2
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MARK = object()
_EXPECTED = "expected a dict of texts and numbers alone"


def read_plain_pickle(path: Path) -> dict[Any, Any]:
    """Read a dict whose keys and values are texts, whole numbers of up to 64 bits, booleans or None.

    Raises
    ------
    DataError
        If the file cannot be read, is damaged, or holds anything else.
    """
    try:
        return _Reader(path).read(path.read_bytes())
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # damaged pickles raise nearly anything
        reason = str(error) or type(error).__name__
        raise DataError(f"{path}: damaged, cannot be read as a pickle: {reason}") from None


class _Reader:
    """The stack and the memo of a pickle, and the one dict that it may make."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.found: dict[Any, Any] | None = None

    def read(self, content: bytes) -> dict[Any, Any]:
        for operation, argument, _ in pickletools.genops(content):
            name = operation.name
            if name in _TEXTS or name in _NUMBERS or name in _OLD_TEXTS:
                self.stack.append(_checked(name, argument))
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name == "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                self.memo[cast(int, argument)] = self.stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[cast(int, argument)])
            elif name == "MARK":
                self.stack.append(_MARK)
            elif name in ("EMPTY_DICT", "DICT") and self.found is None:
                pairs = self._above_mark() if name == "DICT" else []
                self.found = {}
                self.stack.append(self.found)
                self._set(pairs)
            elif name == "SETITEM":
                self._set([self.stack.pop(), self.stack.pop()][::-1])
            elif name == "SETITEMS":
                self._set(self._above_mark())
            elif name not in ("PROTO", "FRAME", "STOP"):
                self._refuse(operation, argument)
        if self.found is None or self.stack != [self.found]:
            raise DataError(f"{self.path}: holds no dict, {_EXPECTED}")
        return self.found

    def _above_mark(self) -> list[Any]:
        """Take what lies above the last mark off the stack, and the mark."""
        above = []
        while (value := self.stack.pop()) is not _MARK:
            above.append(value)
        return above[::-1]

    def _set(self, keys_and_values: list[Any]) -> None:
        if self.found is None or self.stack[-1] is not self.found:
            raise ValueError("it sets an entry of what is no dict")
        keys, values = keys_and_values[::2], keys_and_values[1::2]
        if any(value is self.found or value is _MARK for value in values):
            raise ValueError("an entry is no text or number")
        self.found.update(zip(keys, values, strict=True))

    def _refuse(self, operation: pickletools.OpcodeInfo, argument: Any) -> NoReturn:
        if operation.name in ("GLOBAL", "INST"):
            what = f"asks for {argument.replace(' ', '.')}"
        elif operation.name == "STACK_GLOBAL":
            what = f"asks for {self.stack[-2]}.{self.stack[-1]}"
        elif operation.name in ("PERSID", "BINPERSID"):
            what = "asks for an object outside of it"
        else:
            made = operation.stack_after[0].name if operation.stack_after else operation.name
            what = f"holds a {made}"
        raise DataError(f"{self.path}: refused, the pickle {what:.200}, {_EXPECTED}")


def _checked(name: str, value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError("it holds a number beyond 64 bits")
    if name in _OLD_TEXTS and not value.isascii():
        raise ValueError("it holds bytes of Python 2 that are not ASCII")
    return value
