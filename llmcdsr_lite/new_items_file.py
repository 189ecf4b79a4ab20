"""New items from a JSON Lines file: ``{"id": "a", "domain": "kitchenware", "title": "Oak board"}``.

``embedding``, a list of numbers, may stand beside the title or in its place.
"""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.new_items import NewItem

_FIELDS = ("id", "domain", "title", "embedding")


def read_new_items(path: Path) -> list[NewItem]:
    """Read new items; each knows its line, for messages.

    Parameters
    ----------
    path : Path
        ``-`` is standard input; a name that ends in .gz is gzip. Blank lines are passed over.

    Raises
    ------
    DataError
        If the file cannot be read, or a line is not such an object; the message names the line.
    """
    items = []
    try:
        with _lines(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    items.append(_item(f"{path}:{number}", line))
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    return items


@contextmanager
def _lines(path: Path) -> Iterator[IO[bytes]]:
    if str(path) == "-":
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file  # type: ignore[misc]


def _item(where: str, line: bytes) -> NewItem:
    try:
        value: Any = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}")
    for name in value:
        if name not in _FIELDS:
            raise DataError(f"{where}: field {name!r:.60} is not one of {', '.join(_FIELDS)}")
    for name in ("id", "domain"):
        if name not in value:
            raise DataError(f"{where}: field {name!r} is missing")
    return NewItem(**value, source=where)
