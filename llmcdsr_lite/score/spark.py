"""Recommendations for a Spark DataFrame, by `mapInPandas`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.score.scorer import INPUT_COLUMNS, Scorer

SCHEMA = (
    "user string, items array<string>, scores array<float>, unknown bigint, fallback boolean, error string"
)


def recommend_dataframe(dataframe: Any, scorer: Scorer) -> Any:
    """Score a DataFrame of the columns user, history and, optionally, domain.

    Parameters
    ----------
    dataframe : pyspark.sql.DataFrame
    scorer : Scorer
        Each Python worker loads its bundle once; Spark keeps workers from task to task, unless
        ``spark.python.worker.reuse`` is off.

    Returns
    -------
    pyspark.sql.DataFrame
        A row for each row, with the columns that `Scorer` answers with. Users come back as strings.

    Raises
    ------
    DataError
        If there is no column user or history.
    """
    names = [name for name in INPUT_COLUMNS if name in dataframe.columns]
    if names[:2] != ["user", "history"]:
        raise DataError(f"the columns are {sorted(dataframe.columns)}, expected user and history")
    # Whole numbers become strings here: pandas would make floats of them beside a null.
    columns = [dataframe["user"].cast("string"), *(dataframe[name] for name in names[1:])]
    return dataframe.select(*columns).mapInPandas(partial(score_frames, scorer), SCHEMA)


def score_frames(scorer: Scorer, frames: Iterable[Any]) -> Iterator[Any]:
    """Score pandas DataFrames, one after the other.

    Parameters
    ----------
    scorer : Scorer
    frames : iterable of pandas.DataFrame

    Yields
    ------
    pandas.DataFrame
    """
    import pandas as pd

    for frame in frames:
        columns = {name: frame[name].astype(object) for name in frame.columns}
        yield pd.DataFrame(
            scorer({name: column.where(column.notna(), None) for name, column in columns.items()})
        )
