"""Recommendations for a Ray Data dataset, by a pool of actors."""

from __future__ import annotations

from typing import Any

from llmcdsr_lite.score.columns import answer_schema
from llmcdsr_lite.score.scorer import INPUT_COLUMNS, Scorer


def recommend_dataset(dataset: Any, scorer: Scorer, *, max_actors: int = 1, batch_size: int = 1024) -> Any:
    """Score a dataset of the columns user, history and, optionally, domain.

    Parameters
    ----------
    dataset : ray.data.Dataset
    scorer : Scorer
    max_actors : int
        Ray starts one actor and adds others as long as there is work and a CPU for them. A fixed number
        could take every CPU, and the job would wait forever for one to read with.
    batch_size : int
        Rows that an actor is handed at a time.

    Returns
    -------
    ray.data.Dataset
        A row for each row, with the columns that `Scorer` answers with. Users come back as strings.
    """
    return dataset.map_batches(
        ScoringActor,
        fn_constructor_args=(scorer,),
        batch_format="pyarrow",
        batch_size=batch_size,
        concurrency=(1, max_actors),
        num_cpus=1,
    )


class ScoringActor:
    """Scores Arrow tables.

    Parameters
    ----------
    scorer : Scorer
        Its bundle is loaded now: an actor that cannot is not given any rows.
    """

    def __init__(self, scorer: Scorer) -> None:
        scorer.load()
        self._scorer = scorer

    def __call__(self, table: Any) -> Any:
        """Score a pyarrow.Table, see `Scorer.__call__`."""
        import pyarrow

        names = [name for name in INPUT_COLUMNS if name in table.column_names]
        answer = self._scorer({name: table.column(name).to_pylist() for name in names})
        schema = answer_schema().append(pyarrow.field("error", pyarrow.string()))
        return pyarrow.table({name: column.tolist() for name, column in answer.items()}, schema)
