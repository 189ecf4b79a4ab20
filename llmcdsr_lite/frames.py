"""Recommendations for a data frame, as a frame of the same library.

Histories are taken as Python's own values, and users back by their places, so pandas and Polars need nothing
else; a DuckDB relation goes through Arrow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.catalogue import Catalogue
from llmcdsr_lite.columnar import import_pyarrow
from llmcdsr_lite.errors import UsageError
from llmcdsr_lite.request import UnknownPolicy, history_rows
from llmcdsr_lite.results import BatchRecommendations

_COLUMNS = ("user", "history", "domain")  # the history must be there
_TYPES = {"pandas": "DataFrame", "polars": "DataFrame", "pyarrow": "Table", "duckdb": "DuckDBPyRelation"}
_BATCH = 256  # users scored at a time
_RECOMMENDED = np.dtype(
    [
        ("place", np.int64),  # row of the frame
        ("rank", np.int64),
        ("row", np.int64),  # of the item
        ("score", np.float32),
        ("unknown", np.int64),
        ("fallback", np.bool_),
    ]
)

Score = Callable[[list[Any], str | None], BatchRecommendations]  # of histories, and the domain of their rows


def recommend_frame(frame: Any, catalogue: Catalogue, unknown: UnknownPolicy, score: Score) -> Any:
    """Recommend for the rows of a frame; see `Recommender.recommend_frame`.

    Parameters
    ----------
    frame : pandas.DataFrame, polars.DataFrame, pyarrow.Table or duckdb.DuckDBPyRelation
    catalogue : Catalogue
    unknown : {"skip", "error"}
    score : callable
        Given histories and the domain that their rows name, or None.

    Returns
    -------
    object of the frame's library

    Raises
    ------
    UsageError
        If `frame` is of another type or lacks a column, or a row cannot be used, which the message names.
    UnknownItemError
        If an id is unknown and `unknown` is "error".
    MissingDependencyError
        If a DuckDB relation needs pyarrow, which is not installed.
    """
    library = _library(frame)
    names = _names(frame)
    if library == "duckdb":
        import_pyarrow("frame: a DuckDB relation")
        table = frame.project(", ".join(f'"{name}"' for name in names)).to_arrow_table()
        return _relation(frame, recommend_frame(table, catalogue, unknown, score))
    histories = _values(frame["history"])
    domains = _values(frame["domain"]) if "domain" in names else [None] * len(histories)
    _check_rows(catalogue, histories, domains, unknown)
    found = np.concatenate(list(_ranked(histories, domains, score)))
    found = found[np.argsort(found["place"], kind="stable")]
    column = {name: np.ascontiguousarray(found[name]) for name in _RECOMMENDED.names or ()}
    rows, places = column["row"], column["place"]
    make, text = _makers(library)
    return make(
        {
            **({"user": _taken(frame["user"], places)} if "user" in names else {"row": places}),
            "rank": column["rank"],
            "item": text(catalogue.id_of_row[rows].tolist()),
            "score": column["score"],
            "title": text([catalogue.titles[row - 1] for row in rows.tolist()]),
            "domain": text([catalogue.domains[i].name for i in catalogue.domain_indices(rows).tolist()]),
            "unknown": column["unknown"],
            "fallback": column["fallback"],
        }
    )


def _library(frame: Any) -> str:
    """Name of the library that the frame is of; a frame's library is imported already."""
    for library, name in _TYPES.items():
        module = sys.modules.get(library)
        if module is not None and isinstance(frame, getattr(module, name)):
            return library
    kind = f"{type(frame).__module__}.{type(frame).__qualname__}".removeprefix("builtins.")
    expected = "a pandas or Polars DataFrame, a pyarrow Table or a DuckDB relation"
    raise UsageError(f"frame is of the type {kind}, expected {expected}")


def _names(frame: Any) -> list[str]:
    """Columns of the frame that are used."""
    names = list(frame.column_names if hasattr(frame, "column_names") else frame.columns)
    for name in _COLUMNS:
        if names.count(name) > 1:
            raise UsageError(f"frame: the column {name!r} is there {names.count(name)} times, expected once")
    if "history" not in names:
        raise UsageError(f"frame: there is no column 'history' among {', '.join(map(repr, names)) or 'none'}")
    return [name for name in _COLUMNS if name in names]


def _values(column: Any) -> list[Any]:
    """Python values of a column, None where there is none."""
    if hasattr(column, "notna"):  # pandas, which has several things that stand for nothing
        column = column.astype(object).where(column.notna(), None)
    values: list[Any] = column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()
    return values


def _check_rows(
    catalogue: Catalogue, histories: Sequence[Any], domains: Sequence[Any], unknown: UnknownPolicy
) -> None:
    """Refuse histories and domains that cannot be used, by their rows: batches are numbered otherwise."""
    names = [domain.name for domain in catalogue.domains]
    for row, (history, domain) in enumerate(zip(histories, domains, strict=True)):
        history_rows(catalogue, f"row {row} of the column 'history'", history, unknown)
        if not (domain is None or (isinstance(domain, str) and domain in names)):
            expected = " or ".join(map(repr, names))
            raise UsageError(f"row {row} of the column 'domain' is {domain!r:.60}, expected {expected}")


def _ranked(
    histories: Sequence[Any], domains: Sequence[str | None], score: Score
) -> Iterator[npt.NDArray[Any]]:
    """Recommended items, arrays of `_RECOMMENDED`, domain after domain; those of a row are together."""
    yield _found([], score([], None))  # refuses arguments that no row needs
    for domain in dict.fromkeys(domains):
        places = [i for i, name in enumerate(domains) if name == domain]
        for start in range(0, len(places), _BATCH):
            batch = places[start : start + _BATCH]
            yield _found(batch, score([histories[i] for i in batch], domain))


def _found(places: list[int], answers: BatchRecommendations) -> npt.NDArray[Any]:
    users, ranks = np.nonzero(answers.rows)
    found = np.empty(len(users), _RECOMMENDED)
    found["place"] = np.array(places, dtype=np.int64)[users]
    found["rank"] = ranks + 1
    found["row"], found["score"] = answers.rows[users, ranks], answers.scores[users, ranks]
    found["unknown"] = np.array([len(ids) for ids in answers.unknown_items], dtype=np.int64)[users]
    found["fallback"] = answers.fallback[users]
    return found


def _taken(column: Any, places: npt.NDArray[np.int64]) -> Any:
    """Values of a column at places, of its own type, so that the answer can be joined with it."""
    if hasattr(column, "gather"):
        return column.gather(places)
    taken = column.take(places)
    return taken.reset_index(drop=True) if hasattr(taken, "reset_index") else taken


def _makers(library: str) -> tuple[Callable[[dict[str, Any]], Any], Callable[[list[str]], Any]]:
    """Makers of a frame and of a column of strings, which may be empty."""
    if library == "pandas":
        import pandas

        return pandas.DataFrame, partial(pandas.Series, dtype="str")
    if library == "polars":
        import polars

        return polars.DataFrame, partial(polars.Series, "", dtype=polars.String)
    import pyarrow

    return pyarrow.table, partial(pyarrow.array, type=pyarrow.string())


def _relation(of: Any, llmcdsr_lite_recommendations: Any) -> Any:
    """Relation of an Arrow table on the connection of another one: no other could be joined with it.

    DuckDB finds the table by the name of this variable, and keeps it.
    """
    answer = of.query("llmcdsr_lite_histories", "SELECT * FROM llmcdsr_lite_recommendations")
    return answer.set_alias("recommendations")
