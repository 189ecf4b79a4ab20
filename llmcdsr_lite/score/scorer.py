"""Scoring columns of users and histories, wherever a cluster's workers are.

`Scorer` is what an engine ships to its workers: a path and settings. The adapters for Ray Data
(`llmcdsr_lite.score.ray_data`) and Spark (`llmcdsr_lite.score.spark`) hand it their batches.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.bundle.folder import CONFIG
from llmcdsr_lite.errors import DataError
from llmcdsr_lite.model.backends import BackendName
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.request import check_choice
from llmcdsr_lite.score.batches import ScoreSettings, check_domain
from llmcdsr_lite.score.columns import answer_columns
from llmcdsr_lite.score.histories import BadRecord, HistoryRecord, checked_record
from llmcdsr_lite.search.choice import SearchName

INPUT_COLUMNS = ("user", "history", "domain")  # domain is optional
OUTPUT_COLUMNS = ("user", "items", "scores", "unknown", "fallback", "error")


@dataclass(frozen=True)
class Scorer:
    """Scores batches of columns; when pickled, it is nothing but these parameters.

    The bundle is loaded on first use in a process, with one thread, and once for all scorers there that
    name the same folder; again only if the folder was replaced in the meantime.

    Parameters
    ----------
    folder : str or Path
        Bundle folder, as the workers see it.
    domain : str, optional
        Recommend from this domain where a row names none.
    k : int
        Items a user.
    exclude_seen : bool, optional
        Leave out the items of the history; None does as the bundle has it.
    pseudo : {"auto", "off"}
        Pseudo items as the bundle's settings have it, or none.
    on_error : {"fail", "skip"}
        Stop at the first bad row, or answer it with its fault in the column error and without items.
    backend, search
        As in `Recommender.load`.
    batch_size : int
        Users scored at a time, however many come at once.

    Examples
    --------
    >>> scorer = Scorer("models/demo", domain="kitchenware", k=2)
    >>> answer = scorer({"user": ["u1"], "history": [["g-coffee-dark-roast-whole-bean"]]})
    >>> answer["items"][0]  # doctest: +SKIP
    ['k-coffee-gooseneck-pour-over-kettle', 'k-coffee-ceramic-pour-over-dripper']
    """

    folder: str | Path
    domain: str | None = None
    k: int = 10
    exclude_seen: bool | None = None
    pseudo: Literal["auto", "off"] = "auto"
    on_error: Literal["fail", "skip"] = "fail"
    backend: BackendName = "onnx"
    search: SearchName = "auto"
    batch_size: int = 256

    def __post_init__(self) -> None:
        self._settings()  # refuses what cannot be meant
        check_choice("backend", self.backend, get_args(BackendName))
        check_choice("search", self.search, get_args(SearchName))

    def _settings(self) -> ScoreSettings:
        return ScoreSettings(
            self.k,
            self.domain,
            self.exclude_seen,
            self.on_error,
            batch_size=self.batch_size,
            pseudo=self.pseudo,
        )

    def load(self) -> Recommender:
        """The recommender of this process, loaded now if it was not yet.

        Returns
        -------
        Recommender

        Raises
        ------
        BundleError
            If the bundle is incomplete, damaged or unsafe.
        UsageError
            If it has no domain of the scorer's name.
        """
        recommender = _load_once(self.folder, self.backend, self.search)
        if self.domain is not None:
            recommender.items.domain(self.domain)
        return recommender

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
        """Score a batch.

        Parameters
        ----------
        columns : mapping of str to n values
            ``user`` (strings or whole numbers), ``history`` (lists of such item ids, oldest first) and, if
            rows name their own, ``domain`` (strings or None). Others are passed over.

        Returns
        -------
        dict of str to array (n,)
            Aligned with the input: ``user`` (str), ``items`` (list of ids, best first), ``scores`` (list
            of float), ``unknown`` (ids of the history that are not in the catalogue), ``fallback`` (no
            known item: the most popular ones) and ``error`` (str, or None where there is none).

        Raises
        ------
        DataError
            If a column is missing or of another length, or a row, which it names, is bad and `on_error` is
            "fail".
        """
        recommender = self.load()
        rows = list(_rows(columns, recommender.domains))
        answer = _no_answers(len(rows))
        for start in range(0, len(rows), self.batch_size):
            good = [row for row in rows[start : start + self.batch_size] if isinstance(row, HistoryRecord)]
            places = [row.line for row in good]
            for name, column in answer_columns(recommender, good, self._settings()).items():
                answer[name][places] = column
        for row in rows:
            if isinstance(row, BadRecord):
                if self.on_error == "fail":
                    raise DataError(row.reason)
                answer["error"][row.line] = row.reason
        for place, user in enumerate(_values(columns["user"])):
            answer["user"][place] = None if user is None else str(user)
        return answer


def _rows(columns: Mapping[str, Any], domains: Collection[str]) -> Iterator[HistoryRecord | BadRecord]:
    """Rows of a batch, counted from 0; what is wrong with a bad one names it."""
    if "user" not in columns or "history" not in columns:
        raise DataError(f"the columns are {sorted(columns)}, expected user and history")
    users, histories = _values(columns["user"]), _values(columns["history"])
    wanted = _values(columns["domain"]) if "domain" in columns else [None] * len(users)
    lengths = {"user": len(users), "history": len(histories), "domain": len(wanted)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"the columns have {lengths} values, expected as many in each")
    for place, (user, history, domain) in enumerate(zip(users, histories, wanted, strict=True)):
        record = check_domain(checked_record(place, user, _list(history), domain), domains)
        if isinstance(record, BadRecord):
            record = BadRecord(place, f"row {place} of the batch, user {user!r:.60}: {record.reason}")
        yield record


def _values(column: Any) -> list[Any]:
    """Values of an array or sequence, NumPy's own scalars as Python's."""
    return list(column.tolist() if hasattr(column, "tolist") else column)


def _list(history: Any) -> Any:
    """A list where the engine has an array or a tuple; anything else as it is."""
    if isinstance(history, np.ndarray) and history.ndim == 1:
        return history.tolist()
    return list(history) if isinstance(history, tuple) else history


def _no_answers(n: int) -> dict[str, npt.NDArray[Any]]:
    users, items, scores, errors = np.full((4, n), None, dtype=object)
    for row in range(n):
        items[row], scores[row] = [], []
    unknown, fallback = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=bool)
    return dict(zip(OUTPUT_COLUMNS, (users, items, scores, unknown, fallback, errors), strict=True))


_lock = threading.Lock()
_loaded: dict[tuple[str, str, str], tuple[list[int], Recommender]] = {}


def _load_once(folder: str | Path, backend: BackendName, search: SearchName) -> Recommender:
    """The recommender of a folder, one for each process."""
    key = (os.path.abspath(folder), backend, search)
    with _lock:
        stamp = _stamp(Path(folder) / CONFIG)
        if key not in _loaded or _loaded[key][0] != stamp:
            _loaded.pop(key, None)  # before the new one takes its memory, too
            _loaded[key] = stamp, Recommender.load(folder, backend=backend, search=search)
        return _loaded[key][1]


def _stamp(config: Path) -> list[int]:
    """Identity of a bundle's configuration file, another one if the bundle is replaced."""
    try:
        status = config.stat()
    except OSError:
        return []  # loading tells what is wrong
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _forget() -> None:
    """Begin anew in a forked process: neither a session nor a lock that a thread holds survives a fork."""
    global _lock
    _lock = threading.Lock()
    _loaded.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
