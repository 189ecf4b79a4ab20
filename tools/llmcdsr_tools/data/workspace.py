"""A DuckDB database in memory, where one call of `ingest` reads, checks and sorts its sources.

More events than fit go to a temporary folder. Tables of ours stand in its schema `workspace.main`,
apart from those of a database that a query reads.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.data.ingest_settings import Columns, IngestSettings
from llmcdsr_tools.data.problems import SHOWN, Problem, refuse, take_rejects, write_problems
from llmcdsr_tools.data.sources import FILE, RECORD, Opened, listing, literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ALIASES: dict[str, tuple[str, ...]] = {
    "user": ("user_id", "userid", "customer_id", "customer", "customerid"),
    "item": ("item_id", "itemid", "product_id", "productid", "asin", "sku", "article_id"),
    "domain": ("category", "department"),
    "timestamp": ("time", "date", "datetime", "event_time", "created_at", "ts"),
    "title": ("name", "item_name", "product_name", "description"),
}
OURS = {role: f"llmcdsr_{role}" for role in ALIASES}
"""What each column is called in tables of ours; a source's own condition may use any other name."""

ReadingProgress = Callable[[str, float], None]
"""Takes what is being done, and how many per cent of it are."""

HEADER_AGAIN = "'the header line again; were files joined without taking it off?'"
NUL = "'holds a NUL byte; is this a text file?'"
_FLOATS = ("FLOAT", "DOUBLE", "DECIMAL")
_NO_TEXT = ("BLOB", "STRUCT", "MAP", "UNION", "BIT")


class Workspace:
    """The database, and what befell so far.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
    settings : IngestSettings
    rejects : Path, optional
        File for records that are skipped, if the settings say so.

    Attributes
    ----------
    notes : list of str
        What was taken for what.
    reading : str
        Name of the source that is being read, for messages.
    doing : str
        What the running query does, for a progress line.
    n_skipped : int
        Records that were skipped.
    """

    def __init__(
        self, connection: DuckDBPyConnection, settings: IngestSettings, rejects: Path | None
    ) -> None:
        self.connection = connection
        self.settings = settings
        self.rejects = rejects
        self.notes: list[str] = []
        self.reading = ""
        self.doing = ""
        self._with_rejects: set[str] = set()  # sources with lines that DuckDB could not read
        self.n_skipped = 0

    def number(self, query: str) -> int:
        """The one number that a query answers with."""
        (number,) = self.connection.execute(query).fetchone() or (0,)
        return int(number)

    def take(
        self,
        opened: Opened,
        table: str,
        roles: Mapping[str, bool],
        where: str | None = None,
    ) -> dict[str, str]:
        """Keep the wanted columns of a source as a table.

        Parameters
        ----------
        opened : Opened
        table : str
            To make.
        roles : mapping of str to bool
            The columns, and whether each must be there.
        where : str, optional
            Condition that records must meet.

        Returns
        -------
        dict of str to str
            Type of each column that it has, by its name in the table.
        """
        self.reading = opened.name
        self.doing = f"reading {opened.name}"
        names = self._names(opened, roles)
        take_rejects(self.connection, 0)  # of a look at the header
        ours = {OURS[role]: name for role, name in names.items()}
        self.connection.execute(f"CREATE TABLE {table} AS {opened.select(ours, where)}")
        problems, count = take_rejects(self.connection, None if self._skips else SHOWN)
        self._handle(opened, problems, count)
        if count:
            self._with_rejects.add(opened.name)
        types = {ours: "VARCHAR" if opened.is_text else opened.types[name] for ours, name in ours.items()}
        for column, kind in types.items():
            if column != OURS["timestamp"] and kind != "VARCHAR":
                text = _as_text(opened, column, kind)
                self.connection.execute(f"ALTER TABLE {table} ALTER {column} TYPE VARCHAR USING {text}")
        return types

    def _names(self, opened: Opened, roles: Mapping[str, bool]) -> dict[str, str]:
        """The source's name of each column: the one that is set, or where none is, a usual one."""
        names = {}
        for role, required in roles.items():
            wanted = getattr(self.settings.columns, role)
            if str(wanted).lower() in opened.repeated:
                raise DataError(f"{opened.place}: more than one column is named {wanted!r}")
            if wanted in opened.types or (opened.kind == "json" and not opened.types):
                names[role] = wanted
                continue
            usual = (role, *ALIASES[role]) if wanted == getattr(Columns(), role) else ()
            near = [column for column in opened.types if column.lower() in usual]
            if len(near) == 1 and near[0].lower() not in opened.repeated:
                names[role] = near[0]
                self.notes.append(f"{opened.name}: column {near[0]!r} is taken as {role}")
            elif required or near:
                which = f"; name one of {listing(near)}" if near else ""
                found = listing(opened.types)
                raise DataError(f"{opened.place}: no column is named {wanted!r}; found {found}{which}")
        return names

    def header_again(self, opened: Opened, columns: Mapping[str, str]) -> str:
        """Whether a record is the header of its file, in SQL; `columns` are roles and what holds them."""
        if opened.kind not in ("csv", "tsv"):
            return "false"
        names = self.settings.columns
        return " AND ".join(f"{column} = {literal(getattr(names, role))}" for role, column in columns.items())

    def take_out_problems(self, opened: Opened, table: str, first: str = "0") -> None:
        """Refuse or write down the records of a table whose column `problem` is set.

        Parameters
        ----------
        opened : Opened
            Where they come from.
        table : str
        first : str
            In SQL, an earlier record that the problem speaks of, or 0.
        """
        count = self.number(f"SELECT count(*) FROM {table} WHERE problem IS NOT NULL")
        if not count:
            return
        several = len(opened.files) > 1
        place = f"{RECORD} - min({RECORD}) OVER (PARTITION BY {FILE}) + 1" if several else RECORD
        rows = self.connection.execute(
            f"SELECT problem, place, {first}, {FILE if several else literal('')} "
            f"FROM (SELECT *, {place} AS place FROM {table}) "
            f"WHERE problem IS NOT NULL ORDER BY {RECORD} {'' if self._skips else f'LIMIT {SHOWN}'}"
        ).fetchall()
        problems = [
            Problem(message, record, first=before, file=file) for message, record, before, file in rows
        ]
        self._handle(opened, problems, count)

    @property
    def _skips(self) -> bool:
        return self.settings.on_error == "skip"

    def _handle(self, opened: Opened, problems: Sequence[Problem], count: int) -> None:
        if not self._skips:
            refuse(opened, problems, count)
        elif self.rejects is not None and problems:
            complete = opened.name not in self._with_rejects
            write_problems(self.rejects, opened, problems, more=self.n_skipped > 0, complete=complete)
        self.n_skipped += count


def empty(what: str, kind: str) -> str:
    """What is wrong with an id that is blank, in SQL; `kind` is its column's type, see `_as_text`."""
    return literal(f"{what} is empty" + (" or not a whole number" if kind.startswith(_FLOATS) else ""))


@contextmanager
def open_workspace(
    settings: IngestSettings, rejects: Path | None = None, progress: ReadingProgress | None = None
) -> Iterator[Workspace]:
    """Make an empty workspace, which is gone afterwards; it never uses the network."""
    import duckdb

    with tempfile.TemporaryDirectory(prefix="llmcdsr-") as folder:
        config: dict[str, Any] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "temp_directory": folder,
            "memory_limit": "2GB",
        }
        connection = duckdb.connect(config=config)
        try:
            connection.execute("ATTACH ':memory:' AS workspace")
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute("CREATE TEMP MACRO shown(x) AS '''' || left(x, 60) || ''''")
            connection.execute(
                "CREATE TEMP MACRO blank(x) AS CASE WHEN ascii(x) BETWEEN 33 AND 126 THEN false "
                "ELSE NOT regexp_matches(coalesce(x, ''), '[^\\s\\p{Z}]') END"  # the expression is slow
            )
            workspace = Workspace(connection, settings, rejects)
            with _watched(workspace, progress):
                yield workspace
        finally:
            connection.close()


@contextmanager
def _watched(workspace: Workspace, progress: ReadingProgress | None) -> Iterator[None]:
    """Tell from a thread, a few times a second, how far the running query is."""
    if progress is None:
        yield
        return
    workspace.connection.execute("SET enable_progress_bar = true")
    workspace.connection.execute("SET enable_progress_bar_print = false")
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            percent = workspace.connection.query_progress()
            if percent >= 0:  # else no query runs, or it tells nothing
                progress(workspace.doing, percent)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _as_text(opened: Opened, column: str, kind: str) -> str:
    """Ids and titles as text, in SQL: whole numbers as they are written, also where gaps made them floats."""
    if kind.startswith(_NO_TEXT) or kind.endswith("]"):
        role = column.removeprefix("llmcdsr_")
        raise DataError(f"{opened.name}: {role} is of type {kind}, expected text or numbers")
    if not kind.startswith(_FLOATS):
        return f"CAST({column} AS VARCHAR)"
    whole = f"{column} = trunc({column}) AND abs({column}) < 9e18"
    return f"CAST(CASE WHEN {whole} THEN CAST({column} AS BIGINT) END AS VARCHAR)"
