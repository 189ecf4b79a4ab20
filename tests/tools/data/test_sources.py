"""The same events in every form that can be read give the same data set, to the byte."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from llmcdsr_lite.errors import DataError, SettingsError, UsageError
from llmcdsr_tools import Dataset, Query
from llmcdsr_tools.data.dataset_folder import save_dataset
from llmcdsr_tools.data.events import EventTable, read_events
from llmcdsr_tools.data.ingest_settings import Columns, IngestSettings

pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

ITEMS = [("tea", "food", 'Tea, "green"\tfine'), ("17", "food", ""), ("pän", "kitchen", "Pän\n24 cm")]
Row = tuple[Any, str, Any]
HEADER = ("user", "item", "timestamp")


def columns(rows: list[Row]) -> dict[str, list[Any]]:
    return {name: [row[place] for row in rows] for place, name in enumerate(HEADER)}


def text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def write_csv(folder: Path, rows: list[Row]) -> Path:
    with (folder / "e.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *([text(v) for v in row] for row in rows)])
    return folder / "e.csv"


def write_gzip(folder: Path, rows: list[Row]) -> Path:
    (folder / "e.csv.gz").write_bytes(gzip.compress(write_csv(folder, rows).read_bytes()))
    return folder / "e.csv.gz"


def write_tsv(folder: Path, rows: list[Row]) -> Path:
    lines = ["\t".join(map(text, row)) + "\n" for row in [HEADER, *rows]]
    (folder / "e.tsv").write_text("".join(lines), encoding="utf-8")
    return folder / "e.tsv"


def write_json(folder: Path, rows: list[Row]) -> Path:
    lines = [
        json.dumps(
            {k: v if isinstance(v, (int, float)) else text(v) for k, v in zip(HEADER, row, strict=True)}
        )
        for row in rows
    ]
    (folder / "e.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder / "e.jsonl"


def write_parts(folder: Path, rows: list[Row]) -> Path:
    """Two CSV files, in the order of their names."""
    (folder / "parts").mkdir()
    middle = len(rows) // 2
    for name, part in (("b", rows[middle:]), ("a", rows[:middle])):
        write_csv(folder, part).rename(folder / "parts" / f"{name}.csv")
    return folder / "parts"


def write_parquet(folder: Path, rows: list[Row]) -> Path:
    pandas.DataFrame(columns(rows)).to_parquet(folder / "e.parquet")
    return folder / "e.parquet"


def write_database(folder: Path, rows: list[Row]) -> Query:
    with duckdb.connect(str(folder / "shop.duckdb")) as connection:
        connection.register("frame", pyarrow.table(columns(rows)))
        connection.execute("CREATE TABLE sales AS SELECT * FROM frame")
    return Query("select * from sales;", folder / "shop.duckdb")


FORMS: dict[str, Callable[[Path, list[Row]], Any]] = {
    "csv": write_csv,
    "csv.gz": write_gzip,
    "tsv": write_tsv,
    "json lines": write_json,
    "folder": write_parts,
    "glob": lambda folder, rows: write_parts(folder, rows) / "*.csv",
    "parquet": write_parquet,
    "pandas": lambda folder, rows: pandas.DataFrame(columns(rows)),
    "polars": lambda folder, rows: polars.DataFrame(columns(rows)),
    "lazy polars": lambda folder, rows: polars.LazyFrame(columns(rows)),
    "arrow": lambda folder, rows: pyarrow.table(columns(rows)),
    "relation": lambda folder, rows: duckdb.connect().from_arrow(pyarrow.table(columns(rows))),
    "database": write_database,
    "query of a file": lambda folder, rows: Query(f"from '{write_parquet(folder, rows)}'"),
}


def files_of(folder: Path, events: Any, items: Any) -> dict[str, bytes]:
    """A data set's files, but for what names the source."""
    data = Dataset.from_interactions(events, items, core=0, split="leave-one-out")
    save_dataset(data, folder)
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def moment(seconds: int) -> datetime:
    return datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


USERS = st.integers(0, 3)
WHOLE = st.integers(-(2**62), 2**62)
TIMES = st.one_of(
    st.lists(WHOLE, min_size=9, max_size=12),
    st.lists(st.integers(-99, 99).map(lambda n: n / 4), min_size=9, max_size=12),
    st.lists(st.integers(-(10**8), 10**8).map(moment), min_size=9, max_size=12),
)


# each takes a second: few of them, one in `make test`, and no time to shrink
@settings(max_examples=settings().max_examples // 16, phases=[Phase.explicit, Phase.generate])
@given(st.data(), TIMES, st.booleans())
def test_every_form_gives_the_same_bytes(data: st.DataObject, times: list[Any], numbered: bool) -> None:
    users = [0, 0, 0, 0, *(data.draw(USERS) for _ in times[4:])]
    items = [
        "tea",
        "17",
        "pän",
        *(data.draw(st.sampled_from([item for item, _, _ in ITEMS])) for _ in times[3:]),
    ]
    rows = [(u if numbered else f"ü {u}", i, t) for u, i, t in zip(users, items, times, strict=True)]
    item_frame = polars.DataFrame(ITEMS, schema=["item", "domain", "title"], orient="row")
    found = {}
    for name, make in FORMS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = files_of(Path(folder, "dataset"), make(Path(folder), rows), item_frame)
    assert all(files == found["csv"] for files in found.values()), [
        (name, key) for name, files in found.items() for key in files if files[key] != found["csv"][key]
    ]


def read(events: Any, items: Any = None, **how: Any) -> EventTable:
    return read_events(events, items, IngestSettings(**how))


def triples(table: EventTable) -> list[tuple[str, str, Any]]:
    arrays = (table.user_codes.tolist(), table.item_codes.tolist(), table.times.tolist())
    return [(table.user_ids[u], table.items.ids[i], t) for u, i, t in zip(*arrays, strict=True)]


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.text(
                st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=4
            ).filter(lambda user: user.strip() != "" and not user.isspace() and "\r" not in user),
            st.sampled_from(["a", "b"]),
            st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from(["csv", "json lines"]),
)
def test_no_interaction_is_lost_or_changed(rows: list[Row], form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = read(FORMS[form](Path(folder), rows))
    users = list(dict.fromkeys(user for user, _, _ in rows))
    assert table.user_ids == users
    assert triples(table) == sorted(rows, key=lambda row: (users.index(row[0]), row[2]))  # sorted is stable


def test_numbers_are_ids_also_where_gaps_made_them_floats() -> None:
    frame = pandas.DataFrame({"user": [1, 2, 1], "item": [10, None, 12], "timestamp": [1.0, 2.0, 3.0]})
    with pytest.raises(DataError, match="the events, row 1: the item id is empty or not a whole number"):
        read(frame)
    with pytest.raises(DataError, match="row 0: the user id is empty or not a whole number"):
        read(frame.dropna().assign(user=[1.5, 2.0]))
    table = read(frame.dropna())
    assert triples(table) == [("1", "10", 1), ("1", "12", 3)]
    assert table.times.dtype == "int64"


def test_one_table_says_what_its_items_are(tmp_path: Path) -> None:
    frame = pandas.DataFrame(
        {
            "customer_id": ["ann", "ben", "ann", "ann"],
            "ASIN": ["tea", "pan", "pan", "tea"],
            "date": pandas.to_datetime(["2024-01-02", "2024-01-01", "2024-01-03", "2024-01-04"]),
            "category": ["food", "kitchen", "kitchen", "food"],
            "name": [None, " ", "Pan", "Tea"],
        }
    )
    table = read(frame)
    assert (table.items.ids, table.items.titles) == (["tea", "pan"], ["Tea", "Pan"])
    assert (table.items.domains, table.items.stops) == (("food", "kitchen"), (1, 2))
    assert [user for user, _, _ in triples(table)] == ["ann", "ann", "ann", "ben"]
    assert table.unit == "date"
    assert table.notes == tuple(
        f"the events: column {column!r} is taken as {role}"
        for column, role in zip(frame.columns, ("user", "item", "timestamp", "domain", "title"), strict=True)
    )
    untitled = read(frame[["customer_id", "ASIN", "date"]])
    assert untitled.items.domains == ("items",)
    assert "the items have no text to be found by" in untitled.notes[-1]
    with pytest.raises(DataError, match=r"no column is named 'user'; found 'a', 'b', 'item', 'timestamp'$"):
        read(pandas.DataFrame({"a": [1], "b": [1], "item": [1], "timestamp": [1]}))
    both = pandas.DataFrame({"user_id": [1], "customer_id": [1], "item": [1], "timestamp": [1]})
    with pytest.raises(DataError, match=r"no column is named 'user'.*name one of 'user_id', 'customer_id'"):
        read(both)
    assert triples(read(both, columns=Columns(user="customer_id"))) == [("1", "1", 1)]


@pytest.mark.parametrize("form", ["csv", "tsv", "json lines", "parquet", "pandas", "database"])
def test_a_condition_chooses_interactions(tmp_path: Path, form: str) -> None:
    frame = pandas.DataFrame(
        {
            "user": ["u"] * 4,
            "item": ["a", "b", "c", "d"],
            "timestamp": [1, 2, 3, 4],
            "event": ["purchase", "view", "purchase", "purchase"],
            "the price": [9.5, 20.0, 10.5, 11.0],
        }
    )
    writers: dict[str, Callable[[Path], Any]] = {
        "csv": lambda path: frame.to_csv(path / "e.csv", index=False),
        "tsv": lambda path: frame.to_csv(path / "e.tsv", index=False, sep="\t"),
        "json lines": lambda path: frame.to_json(path / "e.jsonl", orient="records", lines=True),
        "parquet": lambda path: frame.to_parquet(path / "e.parquet"),
    }
    source: Any = frame
    if form in writers:
        writers[form](tmp_path)
        (source,) = tmp_path.iterdir()
    elif form == "database":
        with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
            connection.execute("CREATE TABLE sales AS SELECT * FROM frame")
        source = Query("select * from sales", tmp_path / "shop.duckdb")
    found = read(source, where="event = 'purchase' and \"the price\" > 10")
    assert triples(found) == [("u", "c", 3), ("u", "d", 4)]
    with pytest.raises(UsageError, match=r"where = 'colour = 1' is refused by DuckDB: .*colour"):
        read(source, where="colour = 1")
    with pytest.raises(DataError, match="no interactions that meet where = \"event = 'sale'\""):
        read(source, where="event = 'sale'")


def test_domains_are_chosen_and_the_others_counted(tmp_path: Path) -> None:
    items = pandas.DataFrame(
        {"item": list("abcdef"), "domain": ["x", "y", "x", "z", "y", "x"], "title": list("ABCDEF")}
    )
    events = pandas.DataFrame({"user": [1, 1, 2, 2, 2], "item": list("abdea"), "timestamp": range(5)})
    table = read(events, items, domains=("y", "x"))
    assert (table.items.ids, table.items.stops) == (["b", "e", "a", "c", "f"], (2, 5))
    assert (table.items.n_others, table.n_others) == (1, 1)
    assert len(table.times) == 4
    assert read(events, items, min_items=2).items.domains == ("x", "y")
    events = pandas.concat(
        [events, pandas.DataFrame({"user": [1, 2] * 4, "item": ["a"] * 8, "timestamp": 9})]
    )
    data = Dataset.from_interactions(events, items, domains=("y", "x"), core=0, split="leave-one-out")
    assert "1 items and 1 interactions of other domains were left out" in data.describe()


@pytest.mark.parametrize(
    ("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9), ("number", 0)]
)
def test_the_unit_of_numbers_is_told_by_the_column(tmp_path: Path, unit: str, scale: int) -> None:
    times = [(1_700_000_000 + 86400 * day) * scale if scale else day for day in range(40)]
    rows = [(n % 4, "ab"[n % 2], time) for n, time in enumerate(times)]
    assert read(write_csv(tmp_path, rows)).unit == unit
    data = Dataset.from_interactions(tmp_path / "e.csv", core=0, duplicates="drop") if scale else None
    if data is not None:
        assert data.test_positions == "every"
        assert len(data.train.rows) == 32  # the newest fifth is held out
    else:
        with pytest.raises(DataError, match="hold-out split") as caught:
            Dataset.from_interactions(tmp_path / "e.csv", core=0, valid_share=0.5, test_share=0.5)
        assert "time split" not in str(caught.value)


def test_duplicates_are_counted_and_may_be_dropped() -> None:
    frame = pandas.DataFrame({"user": [1] * 6, "item": list("aababa"), "timestamp": [1, 1, 1, 2, 2, 2]})
    kept = Dataset.from_interactions(frame, core=0, split="leave-one-out")
    dropped = Dataset.from_interactions(frame, core=0, split="leave-one-out", duplicates="drop")
    assert [len(d.test.rows) for d in (kept, dropped)] == [6, 4]
    assert "2 interactions repeat one of the same user, item and time; they were kept" in kept.notes
    assert "2 interactions repeat one of the same user, item and time; they were dropped" in dropped.notes


@pytest.mark.parametrize("times", [[1, None], [1.5, None], ["1", None], ["1.5", ""], ["2024-01-01", ""]])
def test_a_timestamp_that_is_missing_is_called_empty(times: list[Any]) -> None:
    table = pyarrow.table({"user": ["u", "u"], "item": ["a", "b"], "timestamp": times})
    with pytest.raises(DataError, match="the events, row 1: the timestamp is empty"):
        read(table)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"events: expected a path, a Query, or a frame or table .* found list"
    ):
        read([1, 2])
    with pytest.raises(DataError, match=r"none\.duckdb: cannot be read: no such file"):
        read(Query("select 1", tmp_path / "none.duckdb"))
    with pytest.raises(UsageError, match=r"the query is refused by DuckDB: .*nothing"):
        read(Query("select * from nothing"))
    with pytest.raises(DataError, match=r"\*\.csv: no file has a name like that"):
        read(tmp_path / "*.csv")
    with pytest.raises(UsageError, match=r"columns is 'user', expected a mapping such as"):
        Dataset.from_interactions(tmp_path / "e.csv", columns="user")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="domains must be a sequence of names, found 'food'"):
        Dataset.from_interactions(tmp_path / "e.csv", domains="food")
    with pytest.raises(UsageError, match="unexpected keyword argument 'spilt'"):
        Dataset.from_interactions(tmp_path / "e.csv", spilt="time")
    (tmp_path / "a.csv").write_text("user,item,timestamp\nu,i,1\n")
    (tmp_path / "b.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="files of several formats, csv and json; expected one"):
        read(tmp_path)
    (tmp_path / "b.jsonl").unlink()
    (tmp_path / "b.csv").write_text("user,timestamp,item\nu,1,i\n")
    with pytest.raises(DataError, match=r"b\.csv:1: columns 'user', 'timestamp', 'item', but .*a\.csv has"):
        read(tmp_path)
    frame = pandas.DataFrame({"user": [b"1"], "item": ["x"], "timestamp": [1]})
    with pytest.raises(DataError, match="user is of type BLOB, expected text or numbers"):
        read(frame)
    with pytest.raises(DataError, match="timestamps are of type BOOLEAN, expected numbers, dates or text"):
        read(pandas.DataFrame({"user": ["1"], "item": ["x"], "timestamp": [True]}))


@pytest.mark.parametrize("names", [("user", "user"), ("User", "user"), ("user_id", "User_ID")])
@pytest.mark.parametrize("library", ["pandas", "arrow", "parquet"])
def test_no_column_is_chosen_of_several_with_one_name(
    names: tuple[str, str], library: str, tmp_path: Path
) -> None:
    """DuckDB renames all but the first of them."""
    header, row = [*names, "item", "timestamp"], ["a", "b", "tea", 1]
    frame: Any = pandas.DataFrame([row], columns=header)
    if library != "pandas":
        lists = [pyarrow.array([value]) for value in ([{"item": 1, "user": 2}], *row)]
        frame = pyarrow.table(lists, names=["nested", *header])
    if library == "parquet":
        pytest.importorskip("pyarrow.parquet").write_table(frame, tmp_path / "e.parquet")
        frame = tmp_path / "e.parquet"
    with pytest.raises(DataError, match=r": (more than one|no) column is named 'user'"):
        read(frame)


def test_a_query_reads_no_table_of_ours_and_writes_nothing(tmp_path: Path) -> None:
    query = write_database(tmp_path, [("u", "a", 1), ("u", "b", 2)])
    before = (tmp_path / "shop.duckdb").read_bytes()
    assert len(read(query).times) == 2
    for sql in ("drop table sales", "select 1); drop table sales; select (1"):
        with pytest.raises((UsageError, DataError)):
            read(replace(query, sql=sql))
    assert (tmp_path / "shop.duckdb").read_bytes() == before
