"""`Recommender.recommend_frame` on frames of four libraries, compared with `recommend_batch`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcdsr_lite import MissingDependencyError, Recommender, UnknownItemError, UsageError, frames

LIBRARIES = ("pandas", "polars", "pyarrow", "duckdb")
libraries = pytest.mark.parametrize("library", LIBRARIES)
COLUMNS = ["rank", "item", "score", "title", "domain", "unknown", "fallback"]
USERS = {
    "user": ["u1", "u2", "u1", "u4", "u5"],
    "history": [["f1", "k2"], [], ["nowhere", "k5"], [f"f{n}" for n in range(12)], ["f3"]],
    "domain": [None, "kitchen", "food", "food", None],
}


@pytest.fixture(scope="module")
def recommender(bundle_folder: Path) -> Recommender:
    return Recommender.load(bundle_folder, backend="numpy")


def frame_of(library: str, columns: dict[str, list[Any]]) -> Any:
    module = pytest.importorskip(library)
    if library == "pandas":
        index = range(10, 10 + len(columns["history"]))  # places count, not labels
        return module.DataFrame(columns, index=index)
    if library == "polars":
        types = {"user": module.String, "history": module.List(module.String), "domain": module.String}
        strict = {
            name: types[name]
            for name in columns
            if all(isinstance(v, str | list | None) for v in columns[name])
        }
        return module.DataFrame(columns, schema_overrides=strict)
    arrow = pytest.importorskip("pyarrow")
    types = {"user": arrow.string(), "history": arrow.list_(arrow.string()), "domain": arrow.string()}
    table = arrow.table({name: arrow.array(values, types[name]) for name, values in columns.items()})
    return table if library == "pyarrow" else module.connect().from_arrow(table)


def rows_of(frame: Any) -> list[dict[str, Any]]:
    """Rows of a frame of any of the libraries."""
    for name in ("to_pylist", "to_dicts", "fetch_arrow_table"):
        if hasattr(frame, name):
            made = getattr(frame, name)()
            return made if isinstance(made, list) else made.to_pylist()  # type: ignore[no-any-return]
    return frame.to_dict("records")  # type: ignore[no-any-return]


def expected_rows(
    recommender: Recommender, columns: dict[str, list[Any]], domain: Any = None, **arguments: Any
) -> Iterator[dict[str, Any]]:
    """Rows of the answer, a user at a time."""
    for n, history in enumerate(columns["history"]):
        named = columns.get("domain", [None] * (n + 1))[n] or domain
        answer = recommender.recommend(history, domain=named, **arguments)
        for rank, item in enumerate(answer, 1):
            yield {
                **({"user": columns["user"][n]} if "user" in columns else {"row": n}),
                "rank": rank,
                "item": item.id,
                "score": pytest.approx(item.score, abs=1e-5),
                "title": item.title,
                "domain": item.domain,
                "unknown": len(answer.unknown_items),
                "fallback": answer.fallback,
            }


@libraries
def test_a_row_for_each_recommended_item(recommender: Recommender, library: str) -> None:
    frame = frame_of(library, USERS)
    answer = recommender.recommend_frame(frame, k=3)
    assert type(answer) is type(frame)
    rows = rows_of(answer)
    assert rows == list(expected_rows(recommender, USERS, k=3))
    assert list(rows[0]) == ["user", *COLUMNS]
    assert {row["user"] for row in rows} == {"u1", "u2", "u5"}  # of food, u4 has seen all
    assert [row["unknown"] for row in rows if row["domain"] == "food" and row["user"] == "u1"][-1] == 1
    assert {row["fallback"] for row in rows if row["user"] == "u2"} == {True}


@libraries
def test_scores_are_those_of_a_batch(recommender: Recommender, library: str) -> None:
    columns = {"history": USERS["history"]}
    rows = rows_of(recommender.recommend_frame(frame_of(library, columns), k=4, domain="kitchen"))
    expected = recommender.recommend_batch(columns["history"], k=4, domain="kitchen")
    assert [row["item"] for row in rows] == expected.ids.ravel().tolist()
    assert [row["score"] for row in rows] == expected.scores.ravel().tolist()
    assert [row["row"] for row in rows] == np.repeat(np.arange(5), 4).tolist()
    assert list(rows[0]) == ["row", *COLUMNS]


@libraries
def test_arguments_are_those_of_recommend(recommender: Recommender, library: str) -> None:
    frame = frame_of(library, USERS)
    for arguments in (
        {"domain": ("food", "kitchen"), "exclude_seen": False},
        {"allow": ["f1", "f2", "k3", "nothing"], "exclude": ["f2"], "pseudo": "off"},
        {"exclude": ["k1", "f5"], "k": 40},
        {"allow": recommender.filter(exclude=["k2"]), "exclude": ["k3"]},
    ):
        expected = list(expected_rows(recommender, USERS, **arguments))
        for name in ("domain", "allow", "exclude"):
            if isinstance(arguments.get(name), tuple | list):
                arguments[name] = iter(arguments[name])  # type: ignore[call-overload]
        assert rows_of(recommender.recommend_frame(frame, **arguments)) == expected  # type: ignore[arg-type]


@libraries
def test_many_rows_are_scored_a_batch_at_a_time(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setattr(frames, "_BATCH", 2)
    frame = frame_of(library, {name: values * 5 for name, values in USERS.items()})
    sizes: list[int] = []
    batch = Recommender.recommend_batch

    def counted(self: Recommender, histories: Any, **arguments: Any) -> Any:
        sizes.append(len(histories))
        return batch(self, histories, **arguments)

    monkeypatch.setattr(Recommender, "recommend_batch", counted)
    rows = rows_of(recommender.recommend_frame(frame, k=2))
    assert (max(sizes), sum(sizes)) == (2, 25)
    assert rows == list(expected_rows(recommender, USERS, k=2)) * 5


@libraries
def test_no_row_and_no_item(recommender: Recommender, library: str) -> None:
    empty = recommender.recommend_frame(frame_of(library, {"user": [], "history": []}))
    assert rows_of(empty) == []
    names = empty.column_names if library == "pyarrow" else list(empty.columns)
    assert names == ["user", *COLUMNS]
    some = recommender.recommend_frame(frame_of(library, USERS))
    both = {"pandas": "dtypes", "polars": "dtypes", "pyarrow": "schema", "duckdb": "types"}[library]
    assert list(getattr(empty, both))[1:] == list(getattr(some, both))[1:]
    assert rows_of(recommender.recommend_frame(frame_of(library, USERS), allow=[])) == []
    with pytest.raises(UsageError, match="k must be at least 1"):
        recommender.recommend_frame(frame_of(library, {"history": []}), k=0)


@libraries
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history": None}, "frame: there is no column 'history' among 'user', 'domain'"),
        (
            {"history": [["f1"], None, [], [], []]},
            "row 1 of the column 'history' is None, expected a sequence of item ids",
        ),
        (
            {"history": [["f1"], [], ["f1", None], [], []]},
            "row 2 of the column 'history' holds None, expected item ids, strings or whole numbers",
        ),
        (
            {"domain": [None, "food", None, "books", None]},
            "row 3 of the column 'domain' is 'books', expected 'food' or 'kitchen'",
        ),
    ],
)
def test_rows_that_cannot_be_used(
    recommender: Recommender, library: str, change: dict[str, Any], message: str
) -> None:
    columns = {name: values for name, values in {**USERS, **change}.items() if values is not None}
    if "history" not in columns:
        module = pytest.importorskip(library)
        frame = {
            "pandas": lambda: module.DataFrame(columns),
            "polars": lambda: module.DataFrame(columns),
            "pyarrow": lambda: module.table(columns),
            "duckdb": lambda: module.sql("SELECT 'u' AS user, 'food' AS domain"),
        }[library]()
    else:
        frame = frame_of(library, columns)
    with pytest.raises(UsageError) as caught:
        recommender.recommend_frame(frame)
    assert str(caught.value) == message


@libraries
def test_unknown_ids_may_be_an_error(recommender: Recommender, library: str) -> None:
    with pytest.raises(UnknownItemError) as caught:
        recommender.recommend_frame(frame_of(library, USERS), unknown="error")
    assert str(caught.value) == "row 2 of the column 'history': item 'nowhere' is not in the catalogue"


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize(
    ("histories", "message"),
    [
        (["f1 f2"], "row 0 of the column 'history' is one string, expected a sequence of item ids"),
        ([[1.5]], "row 0 of the column 'history' holds 1.5, expected item ids, strings or whole numbers"),
        ([7], "row 0 of the column 'history' is 7, expected a sequence of item ids"),
    ],
)
def test_columns_of_other_types(
    recommender: Recommender, library: str, histories: list[Any], message: str
) -> None:
    frame = pytest.importorskip(library).DataFrame({"history": histories})
    with pytest.raises(UsageError) as caught:
        recommender.recommend_frame(frame)
    assert str(caught.value) == message


@pytest.mark.parametrize("frame", [[["f1"]], {"history": [["f1"]]}, None, "pandas"])
def test_what_is_no_frame(recommender: Recommender, frame: Any) -> None:
    message = rf"frame is of the type {type(frame).__name__}, expected a pandas or Polars DataFrame"
    with pytest.raises(UsageError, match=message):
        recommender.recommend_frame(frame)


def test_a_lazy_frame_and_a_column_that_is_there_twice(recommender: Recommender) -> None:
    polars, pandas = pytest.importorskip("polars"), pytest.importorskip("pandas")
    with pytest.raises(UsageError, match=r"frame is of the type polars\..*LazyFrame, expected"):
        recommender.recommend_frame(polars.LazyFrame(USERS))
    twice = pandas.DataFrame([["u", ["f1"], ["f2"]]], columns=["user", "history", "history"])
    with pytest.raises(UsageError, match="frame: the column 'history' is there 2 times, expected once"):
        recommender.recommend_frame(twice)


def test_pandas_values_of_other_types(recommender: Recommender, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "history": [np.array(["f1", "k2"], dtype=object), ("f3",), np.array([], dtype=object)],
            "user": pandas.array([1, None, 3], dtype="Int64"),
            "domain": ["food", float("nan"), pandas.NA],
        }
    )
    answer = recommender.recommend_frame(frame, k=2)
    assert str(answer["user"].dtype) == "Int64"
    assert answer["user"].isna().tolist() == [False, False, True, True, False, False]
    plain = {"history": [["f1", "k2"], ["f3"], []], "domain": ["food", None, None]}
    assert answer["item"].tolist() == [row["item"] for row in expected_rows(recommender, plain, k=2)]
    assert answer.index.tolist() == list(range(6))
    categories = frame.astype({"domain": "category", "user": "category"})
    again = recommender.recommend_frame(categories, k=2)
    assert again["item"].tolist() == answer["item"].tolist()
    assert str(again["user"].dtype) == "category"


def test_a_join_is_one_line(recommender: Recommender) -> None:
    pandas, polars, duckdb = (pytest.importorskip(name) for name in ("pandas", "polars", "duckdb"))
    pytest.importorskip("pyarrow")
    prices: dict[str, list[Any]] = {"item": [f"k{n}" for n in range(18)], "price": list(range(18))}
    users = {**USERS, "domain": ["kitchen"] * 5}
    expected = [
        (row["user"], row["item"], int(row["item"][1:])) for row in expected_rows(recommender, users, k=3)
    ]

    frame = recommender.recommend_frame(frame_of("pandas", users), k=3).merge(
        pandas.DataFrame(prices), on="item"
    )
    assert list(frame[["user", "item", "price"]].itertuples(index=False, name=None)) == expected
    joined = recommender.recommend_frame(frame_of("polars", users), k=3).join(
        polars.DataFrame(prices), on="item", maintain_order="left"
    )
    assert joined.select("user", "item", "price").rows() == expected
    table = recommender.recommend_frame(frame_of("pyarrow", users), k=3)
    connection = duckdb.connect()
    histories = connection.from_arrow(frame_of("pyarrow", users))
    of_histories = recommender.recommend_frame(histories, k=3)
    items = connection.sql("SELECT 'k' || n AS item, n AS price FROM range(18) t(n)")
    related = of_histories.join(items, "item")  # of the same connection
    assert sorted(related.project("user, item, price").fetchall()) == sorted(expected)
    assert of_histories.to_arrow_table().to_pylist() == table.to_pylist()
    assert recommender.recommend_frame(histories.limit(1), k=1).fetchall() != of_histories.fetchall()
    assert len(of_histories.fetchall()) == 15  # another answer does not take its place


def test_a_relation_needs_pyarrow(recommender: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    relation = pytest.importorskip("duckdb").sql("SELECT ['f1'] AS history")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"a DuckDB relation needs pyarrow .*\[parquet\]"):
        recommender.recommend_frame(relation)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_without_pyarrow(
    recommender: Recommender, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    frame = frame_of(library, USERS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert rows_of(recommender.recommend_frame(frame, k=3)) == list(expected_rows(recommender, USERS, k=3))


ITEMS = st.sampled_from([*(f"f{n}" for n in range(12)), *(f"k{n}" for n in range(18)), "nowhere", ""])
ROWS = st.lists(
    st.tuples(
        st.text("ab", max_size=2), st.lists(ITEMS, max_size=8), st.sampled_from([None, "food", "kitchen"])
    ),
    max_size=9,
)


@libraries
@given(rows=ROWS, k=st.integers(1, 35))
@settings(max_examples=40, deadline=None)
def test_any_histories(
    recommender: Recommender, library: str, rows: list[tuple[str, list[str], str | None]], k: int
) -> None:
    columns = {name: [row[n] for row in rows] for n, name in enumerate(("user", "history", "domain"))}
    answer = rows_of(recommender.recommend_frame(frame_of(library, columns), k=k))
    made: list[tuple[Any, ...]] = []
    for user, history, domain in rows:
        one = recommender.recommend_batch([history], domain=domain, k=k)
        known = one.rows[0] > 0
        made += [
            (user, item, len(one.unknown_items[0]), bool(one.fallback[0]))
            for item in one.ids[0][known].tolist()
        ]
    assert [(row["user"], row["item"], row["unknown"], row["fallback"]) for row in answer] == made
