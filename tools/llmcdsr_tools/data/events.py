"""Interactions of any source, as integer codes and times: DuckDB reads, checks, numbers and sorts them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError, UsageError
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.data.items import ITEMS, READ, ItemTable, items_of_events, number_items
from llmcdsr_tools.data.sources import FILE, RECORD, REJECT, Opened, listing, open_source
from llmcdsr_tools.data.timestamps import Unit, time_column, time_unit
from llmcdsr_tools.data.workspace import (
    HEADER_AGAIN,
    NUL,
    OURS,
    ReadingProgress,
    Workspace,
    empty,
    open_workspace,
)

_EVENTS, _CODED, _USERS = (f"workspace.main.{name}" for name in ("events", "coded", "users"))
_USER, _ITEM, _DOMAIN, _TIME = (OURS[role] for role in ("user", "item", "domain", "timestamp"))


@dataclass(frozen=True)
class EventTable:
    """The interactions, user after user, each user's oldest first; those of one time in order of the source.

    Parameters
    ----------
    items : ItemTable
    user_codes, item_codes : int32 array (interactions,)
        `user_codes` rise.
    times : int64 or float64 array (interactions,)
        Microseconds since 1970 where the source has dates, else its numbers; int64 if all of them are whole.
    unit : {"date", "s", "ms", "us", "ns", "number"}
        What the times count.
    user_ids : list of str
        Id of every user code, in order of first appearance.
    n_others : int
        Interactions with items of domains that are not wanted.
    n_skipped : int
        Records that could not be taken, where those are skipped.
    notes : tuple of str
        What was taken for what, in sentences.
    """

    items: ItemTable
    user_codes: npt.NDArray[np.int32]
    item_codes: npt.NDArray[np.int32]
    times: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    unit: Unit
    user_ids: list[str]
    n_others: int = 0
    n_skipped: int = 0
    notes: tuple[str, ...] = ()


def read_events(
    events: Any,
    items: Any,
    settings: IngestSettings,
    *,
    rejects: Path | None = None,
    progress: ReadingProgress | None = None,
) -> EventTable:
    """Read interactions and items.

    Parameters
    ----------
    events, items : str, Path, Query, DataFrame or Arrow data
        See `sources.open_source`; without `items` the events name domain and title of their items.
    settings : IngestSettings
    rejects : Path, optional
        Where records that are skipped are written, with ``on_error="skip"``.
    progress : callable, optional
        Told from another thread, a few times a second, what is done and how many per cent of it are.

    Raises
    ------
    DataError
        If a source cannot be read, or a record cannot be taken and none is to be skipped.
    UsageError
        If a source is of a kind that cannot be read, or a condition or query is no SQL.
    """
    import duckdb

    with open_workspace(settings, rejects, progress) as workspace:
        try:
            return _read(workspace, events, items)
        except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException) as error:
            what = f"where = {settings.where!r}" if settings.where else "the query"
            raise UsageError(f"{what} is refused by DuckDB: {str(error).splitlines()[0]}") from None
        except duckdb.Error as error:
            sentence = str(error).splitlines()[0]
            raise DataError(f"{workspace.reading}: cannot be read: {sentence}") from None


def _read(workspace: Workspace, events: Any, items: Any) -> EventTable:
    connection, settings = workspace.connection, workspace.settings
    if items is not None:
        workspace.reading = str(items) if isinstance(items, (str, Path)) else "the items"
        opened_items = open_source(connection, items, "items")
        item_columns = workspace.take(opened_items, READ, {"item": True, "domain": False, "title": False})
    workspace.reading = str(events) if isinstance(events, (str, Path)) else "the events"
    opened = open_source(connection, events, "events", typed=settings.where is not None)
    roles = {"user": True, "item": True, "timestamp": True}
    if items is None:
        roles |= {"domain": False, "title": False}
    elif settings.columns.domain in opened.types:  # by an alias it would be a guess, and may be another thing
        roles |= {"domain": False}
    columns = workspace.take(opened, _EVENTS, roles, settings.where)
    if items is None:
        items_of_events(workspace, _EVENTS, columns)
        opened_items, item_columns = opened, columns
    if not workspace.number(f"SELECT count(*) FROM {_EVENTS}"):
        header = " after the header" if opened.is_text else ""
        why = header if settings.where is None else f" that meet where = {settings.where!r}"
        raise DataError(f"{opened.name}: no interactions{why}")
    workspace.doing = "checking"
    table = number_items(workspace, opened_items, item_columns)
    is_date = _code(workspace, opened, columns)
    return _fetch(workspace, opened, table, is_date=is_date)


def _code(workspace: Workspace, opened: Opened, columns: Mapping[str, str]) -> bool:
    """Give every interaction its item's code and its time, in a table; return whether times are dates."""
    time = time_column(workspace.connection, _EVENTS, _TIME, columns[_TIME], opened.name)
    file = f", {FILE}" if len(opened.files) > 1 else ""
    again = workspace.header_again(opened, {"user": _USER, "item": f"e.{_ITEM}"})
    mismatch = ""
    if _DOMAIN in columns:
        mismatch = (
            f"WHEN e.{_DOMAIN} <> i.{_DOMAIN} THEN 'item ' || shown(e.{_ITEM}) || ' with domain ' || "
            f"shown(e.{_DOMAIN}) || ', but the items have it in ' || shown(i.{_DOMAIN})"
        )
    workspace.connection.execute(
        f"""
        CREATE TABLE {_CODED} AS SELECT {RECORD}{file}, {_USER}, i.code, {time.value} AS time,
            CASE WHEN {REJECT} IS NOT NULL THEN {REJECT}
                WHEN {again} THEN {HEADER_AGAIN}
                WHEN blank({_USER}) THEN {empty("the user id", columns[_USER])}
                WHEN contains({_USER}, chr(0)) THEN {NUL}
                WHEN i.{_ITEM} IS NULL AND blank(e.{_ITEM}) THEN {empty("the item id", columns[_ITEM])}
                WHEN i.{_ITEM} IS NULL THEN 'item ' || shown(e.{_ITEM}) || ' is not in the items'
                {mismatch}
                WHEN time IS NULL THEN {time.problem} END AS problem
        FROM {_EVENTS} e LEFT JOIN {ITEMS} i ON e.{_ITEM} = i.{_ITEM}
        """
    )
    workspace.take_out_problems(opened, _CODED)
    return time.is_date


def _fetch(workspace: Workspace, opened: Opened, items: ItemTable, *, is_date: bool) -> EventTable:
    """Read the interactions of the wanted domains back, user after user."""
    connection = workspace.connection
    workspace.doing = "sorting"
    wanted = f"{_CODED} WHERE problem IS NULL AND code IS NOT NULL"
    connection.execute(
        f"CREATE TABLE {_USERS} AS SELECT {_USER}, row_number() OVER (ORDER BY min({RECORD})) - 1 AS number "
        f"FROM {wanted} GROUP BY {_USER}"
    )
    users = connection.execute(f"SELECT {_USER} FROM {_USERS} ORDER BY number").fetchall()
    if not users:
        raise DataError(f"{opened.name}: no interaction has an item of {listing(items.domains)}")
    arrays = connection.execute(
        f"SELECT u.number::INTEGER AS user, c.code::INTEGER AS item, c.time AS time "
        f"FROM (SELECT * FROM {wanted}) c JOIN {_USERS} u USING ({_USER}) "
        f"ORDER BY u.number, c.time, c.{RECORD}"
    ).fetchnumpy()
    user_codes, item_codes, times = (np.asarray(arrays[name]) for name in ("user", "item", "time"))
    return EventTable(
        items,
        user_codes,
        item_codes,
        times,
        time_unit(times.min(), times.max(), is_date=is_date),
        [row[0] for row in users],
        workspace.number(f"SELECT count(*) FROM {_CODED} WHERE problem IS NULL AND code IS NULL"),
        workspace.n_skipped,
        tuple(workspace.notes),
    )
