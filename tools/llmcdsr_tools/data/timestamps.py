"""The column of timestamps: numbers of one unit, or dates, so that they order interactions as is meant.

A source has numbers or dates, never both: in which unit its numbers count says the column as a whole, if
anything does, and not a single one. Whole numbers are exact up to 64 bits, nanoseconds since 1970 included;
dates count in microseconds since 1970, in UTC where they name no zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from llmcdsr_lite.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Unit = Literal["date", "s", "ms", "us", "ns", "number"]
MAX_EXACT = 1 << 53  # whole numbers up to here are exact in float64
_FLOATS = ("FLOAT", "DOUBLE", "DECIMAL")
_WHOLES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_EMPTY = "'the timestamp is empty'"
_NUMBER = "'[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?'"
# of numbers that count time since 1970, from 1973 on and to the year 5138, no two units overlap
_UNITS: tuple[tuple[Unit, float], ...] = (("s", 1e8), ("ms", 1e11), ("us", 1e14), ("ns", 1e17))


@dataclass(frozen=True)
class TimeColumn:
    """How a column's values become numbers.

    Parameters
    ----------
    value : str
        In SQL, BIGINT or DOUBLE; NULL for what is no timestamp, or not of the column's kind.
    problem : str
        In SQL, why the value is NULL.
    is_date : bool
    """

    value: str
    problem: str
    is_date: bool


def time_column(connection: DuckDBPyConnection, table: str, column: str, kind: str, name: str) -> TimeColumn:
    """Decide what a column of timestamps holds.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
    table, column : str
        Where it stands.
    kind : str
        Its type, in DuckDB's words.
    name : str
        Of the source, for messages.

    Raises
    ------
    DataError
        If it is of a type that is no time, or has numbers that cannot be kept exactly together.
    """
    if kind.startswith(("DATE", "TIMESTAMP")):
        instant = f"CAST({column} AS TIMESTAMPTZ)" if kind == "DATE" else column
        return TimeColumn(f"epoch_us({instant})", _EMPTY, is_date=True)
    if kind.removeprefix("U").startswith(_WHOLES):
        return TimeColumn(f"TRY_CAST({column} AS BIGINT)", _shown(column, "is beyond 64 bits"), is_date=False)
    if kind.startswith(_FLOATS):
        number = f"TRY_CAST({column} AS DOUBLE)"
        whole = not _any(connection, table, f"NOT ({number} = trunc({number}) AND abs({number}) < 9e18)")
        value = (
            f"TRY_CAST({number} AS BIGINT)" if whole else f"CASE WHEN isfinite({number}) THEN {number} END"
        )
        return TimeColumn(value, _shown(column, "is not finite"), is_date=False)
    if not kind.startswith("VARCHAR"):
        raise DataError(f"{name}: timestamps are of type {kind}, expected numbers, dates or text")
    return _text_column(connection, table, column, name)


def _text_column(connection: DuckDBPyConnection, table: str, column: str, name: str) -> TimeColumn:
    instant = f"epoch_us(TRY_CAST({column} AS TIMESTAMPTZ))"
    date = f"CASE WHEN regexp_matches({column}, '^[0-9]{{4}}-') THEN {instant} END"
    is_number = f"regexp_full_match({column}, {_NUMBER})"
    neither = _shown(column, "is neither a number nor an ISO 8601 date")
    first = connection.execute(
        f"SELECT {is_number}, ({date}) IS NOT NULL FROM {table} WHERE {column} IS NOT NULL AND "
        f"({is_number} OR ({date}) IS NOT NULL) LIMIT 1"
    ).fetchone()
    if first is not None and first[1]:
        among = _shown(column, "is a number among dates; expected numbers alone or dates alone")
        return TimeColumn(date, f"CASE WHEN {is_number} THEN {among} ELSE {neither} END", is_date=True)
    among = _shown(column, "is a date among numbers; expected numbers alone or dates alone")
    otherwise = f"WHEN ({date}) IS NOT NULL THEN {among} ELSE {neither} END"
    integer = f"TRY_CAST({column} AS BIGINT)"  # takes fractions, too, and rounds them
    plain = (
        f"coalesce(CAST({integer} AS VARCHAR) = {column}, false)"  # the fast way to say nearly all of them
    )
    whole = f"({plain} OR translate({column}, '0123456789', '') IN ('', '-', '+'))"
    odd = f"NOT {plain} AND NOT {whole}"
    if not (_any(connection, table, odd) and _any(connection, table, f"{odd} AND {is_number}")):
        value = f"CASE WHEN {plain} THEN {integer} WHEN {whole} THEN {integer} END"
        beyond = _shown(column, "is beyond 64 bits")
        return TimeColumn(value, f"CASE WHEN {is_number} THEN {beyond} {otherwise}", is_date=False)
    beyond = f"{whole} AND abs(TRY_CAST({column} AS HUGEINT)) > {MAX_EXACT}"
    large = connection.execute(f"SELECT {column} FROM {table} WHERE {beyond} LIMIT 1").fetchone()
    if large is not None:
        raise DataError(
            f"{name}: timestamps: {large[0]!r:.60} is a whole number beyond 2**53, and others have a "
            "fraction or exponent, which cannot be kept exactly together; use whole numbers alone"
        )
    number = f"TRY_CAST({column} AS DOUBLE)"
    value = f"CASE WHEN {is_number} AND isfinite({number}) THEN {number} END"
    infinite = _shown(column, "is not finite")
    return TimeColumn(value, f"CASE WHEN {is_number} THEN {infinite} {otherwise}", is_date=False)


def _any(connection: DuckDBPyConnection, table: str, condition: str) -> bool:
    """Whether a condition holds for a record."""
    return connection.execute(f"SELECT 1 FROM {table} WHERE {condition} LIMIT 1").fetchone() is not None


def _shown(column: str, sentence: str) -> str:
    """A message about a value, in SQL."""
    shown = f"'timestamp ' || shown(CAST({column} AS VARCHAR)) || ' {sentence}'"
    return f"CASE WHEN blank(CAST({column} AS VARCHAR)) THEN {_EMPTY} ELSE {shown} END"


def time_unit(low: float, high: float, *, is_date: bool) -> Unit:
    """What numbers from `low` to `high` count: time since 1970 where all of them fit one unit."""
    if is_date:
        return "date"
    for unit, start in _UNITS:
        if start <= low and high < start * 1000:
            return unit
    return "number"
