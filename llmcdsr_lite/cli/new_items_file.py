"""New items from a JSON Lines file: ``{"id": "a", "domain": "kitchenware", "title": "Oak board"}``.

``embedding``, a list of numbers, may stand beside the title or in its place.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.new_items import NewItem, checked_item
from llmcdsr_lite.score.histories import open_binary


def read_new_items(path: Path) -> list[NewItem]:
    """Read new items; each knows its line, for messages.

    Parameters
    ----------
    path : Path
        ``-`` is standard input; gzip is read whatever its name. Blank lines are passed over.

    Raises
    ------
    DataError
        If the file cannot be read, or a line is not such an object; the message names the line.
    """
    try:
        with open_binary(path) as file:
            return [_item(f"{path}:{n}", line) for n, line in enumerate(file, 1) if line.strip()]
    except (EOFError, zlib.error) as error:  # of gzip that is cut off
        raise DataError(f"{path}: cannot be read to its end: {error}") from None


def _item(where: str, line: bytes) -> NewItem:
    try:
        value: Any = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found {type(value).__name__}")
    if "source" in value:
        raise DataError(f"{where}: field 'source' is not one of id, domain, title, embedding")
    return checked_item({**value, "source": where}, where)
