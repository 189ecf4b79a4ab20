"""The names file: what a generator wrote for each user about the domain that the user has no history in.

JSON Lines, one line a user and domain::

    {"user": "u1", "domain": "kitchen", "names": ["Moka pot", "Milk frother"], "generator": "neighbours"}

`domain` is the one that the names are of, not the one that the user's history is in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.files import atomic_file


@dataclass(frozen=True)
class GeneratedNames:
    """One line of a names file.

    Parameters
    ----------
    user : str
    domain : str
        Name of the domain that the names are of.
    names : tuple of str
        At least one, none of them blank.
    generator : str
        What wrote them: ``neighbours``, or the name of a language model.
    """

    user: str
    domain: str
    names: tuple[str, ...]
    generator: str


def read_names(path: Path) -> list[GeneratedNames]:
    """Read a names file; blank lines are passed over.

    Raises
    ------
    DataError
        If the file cannot be read, a line is not as it must be, or a user has two lines for a domain;
        the message has the line's number.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    found: list[GeneratedNames] = []
    first_line: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = _checked(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not valid JSON: {error}") from None
        except DataError as error:
            raise DataError(f"{path}:{number}: {error}") from None
        key = (record.user, record.domain)
        if key in first_line:
            raise DataError(
                f"{path}:{number}: user {record.user!r} has names of {record.domain!r} on line "
                f"{first_line[key]} already"
            )
        first_line[key] = number
        found.append(record)
    return found


def write_names(path: Path, names: Iterable[GeneratedNames]) -> None:
    """Write a names file atomically.

    Raises
    ------
    DataError
        If a record is not one that `read_names` would take.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for record in names:
            value = asdict(record)
            try:
                _checked({**value, "names": list(record.names)})
            except DataError as error:
                raise DataError(f"{path}: user {record.user!r}: {error}") from None
            file.write(json.dumps(value, ensure_ascii=False) + "\n")


def _checked(value: Any) -> GeneratedNames:
    if not isinstance(value, dict):
        raise DataError(f"expected a JSON object, found {type(value).__name__}")
    for field in ("user", "domain", "generator"):
        if not isinstance(value.get(field), str) or not value[field]:
            raise DataError(f"field {field!r} must be a string, not empty, found {value.get(field)!r:.60}")
    names = value.get("names")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n.strip() for n in names):
        raise DataError(
            f"field 'names' must be a list of one or more strings, none blank, found {names!r:.60}"
        )
    record = GeneratedNames(value["user"], value["domain"], tuple(names), value["generator"])
    try:
        "".join((record.user, record.domain, record.generator, *record.names)).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"not valid Unicode: {error}") from None
    return record
