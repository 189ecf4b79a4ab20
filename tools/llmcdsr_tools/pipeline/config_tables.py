"""Tables of a TOML file to dataclasses: unknown keys, missing keys and wrong types are refused by name."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from llmcdsr_lite.errors import DataError, LlmcdsrError

Settings = TypeVar("Settings")

_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a string", Path: "a path"}


def read_table(cls: type[Settings], table: Mapping[str, Any], where: str, folder: Path) -> Settings:
    """Make a dataclass from a table; what the table does not have keeps its default.

    Parameters
    ----------
    cls : type
        A dataclass whose fields are numbers, strings, paths, literals, tuples, or dataclasses of these.
    table : mapping
        As `tomllib` reads it.
    where : str
        File and table, for messages.
    folder : Path
        What relative paths are relative to.

    Raises
    ------
    DataError
        If a key is not known, one is missing, or a value cannot be meant.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if f.init}  # type: ignore[arg-type]
    check_keys(table, known, where)
    values = {}
    for name, field in known.items():
        if name in table:
            values[name] = _convert(table[name], hints[name], f"{where} {name}", folder)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise DataError(f"{where}: key {name!r} is missing")
    try:
        return cls(**values)
    except LlmcdsrError as error:
        raise DataError(f"{where}: {error}") from None


def read_tables(
    kinds: Sequence[type[Any]], table: Mapping[str, Any], where: str, folder: Path
) -> tuple[Any, ...]:
    """Make several dataclasses from one table, each from the keys that are its fields; see `read_table`."""
    fields_of = [{f.name for f in fields(kind)} for kind in kinds]
    check_keys(table, sorted(set().union(*fields_of)), where)
    return tuple(
        read_table(kind, {k: v for k, v in table.items() if k in own}, where, folder)
        for kind, own in zip(kinds, fields_of, strict=True)
    )


def check_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that is not known, and name the nearest that is.

    Raises
    ------
    DataError
        For the first such key.
    """
    names = list(known)
    for key in table:
        if key not in names:
            near = difflib.get_close_matches(key, names, 1, cutoff=0.0)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{where}: unknown key {key!r}{hint} Known are {', '.join(sorted(names))}")


def _convert(value: Any, hint: Any, where: str, folder: Path) -> Any:
    """Check a value against a type, and bring it to that type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (hint,) = (a for a in arguments if a is not type(None))  # TOML has no null: absent means None
        return _convert(value, hint, where, folder)
    if origin is Literal:
        if type(value) is not str or value not in arguments:
            raise DataError(f"{where}: expected one of {', '.join(map(repr, arguments))}, found {value!r}")
        return value
    if origin is tuple:
        return _convert_list(value, arguments, where, folder)
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise DataError(f"{where}: expected a table, found {value!r}")
        return read_table(hint, value, where, folder)
    if hint is float and type(value) is int:
        return float(value)
    if hint is Path and type(value) is str and value:
        return folder / value
    if hint is Path or type(value) is not hint:
        raise DataError(f"{where}: expected {_NAMES.get(hint, str(hint))}, found {value!r}")
    return value


def _convert_list(value: Any, arguments: tuple[Any, ...], where: str, folder: Path) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list, found {value!r}")
    of = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
    if len(value) != len(of):
        raise DataError(f"{where}: expected a list of {len(of)}, found {value!r}")
    return tuple(_convert(v, hint, where, folder) for v, hint in zip(value, of, strict=True))
