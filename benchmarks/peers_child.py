"""Train one peer and rank: run by peers.py in an environment that has it, ``FOLDER MODEL``.

Reads ``train.npz`` (rows, offsets) and ``queries.npz`` (rows, offsets, targets, start, stop: the item rows
of the target's domain) of FOLDER, and writes ``MODEL.npz``: rank (n,) of every target in its domain, `K`
where it is not among the first `K`; top (n, 10), the first ten item rows; seconds of
training; milliseconds of a request.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

K = 1000
BATCH = 1000  # histories at a time: implicit takes 23 GiB and more for some thousands
FACTORS = 128  # of implicit's ALS, as in shared figures
SASREC = {
    "n_blocks": 2,
    "n_heads": 1,
    "n_factors": 64,
    "session_max_len": 50,
    "dropout_rate": 0.2,
    "lr": 1e-3,
}
LOSSES = {"rectools-gbce": ("gBCE", 32), "rectools-softmax": ("softmax", 1)}


def main() -> None:
    folder, model = Path(sys.argv[1]), sys.argv[2]
    epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 12
    train, queries = np.load(folder / "train.npz"), np.load(folder / "queries.npz")
    peer: Any = ImplicitALS() if model == "implicit-als" else RecTools(*LOSSES[model], epochs)
    start = time.perf_counter()
    peer.fit(train["rows"], train["offsets"])
    seconds = time.perf_counter() - start
    n = len(queries["targets"])
    top = np.zeros((n, K), dtype=np.int64)
    for first, last in np.unique(np.stack([queries["start"], queries["stop"]], axis=1), axis=0):
        chosen = np.flatnonzero(queries["start"] == first)
        for part in np.array_split(chosen, -(-len(chosen) // BATCH)):
            histories = [queries["rows"][queries["offsets"][i] : queries["offsets"][i + 1]] for i in part]
            top[part] = peer.recommend(histories, np.arange(first, last))
    hits = top == queries["targets"][:, None]
    rank = np.where(hits.any(axis=1), hits.argmax(axis=1), K)
    one = queries["rows"][: queries["offsets"][1]]
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        peer.recommend([one], np.arange(queries["start"][0], queries["stop"][0]))
        times.append(1000 * (time.perf_counter() - begin))
    with (folder / f".{model}.npz").open("wb") as file:
        np.savez(file, rank=rank, top=top[:, :10], seconds=seconds, milliseconds=np.median(times))
    (folder / f".{model}.npz").rename(folder / f"{model}.npz")


class ImplicitALS:
    """implicit's alternating least squares; a new user's factors are solved for."""

    def fit(self, rows: Any, offsets: Any) -> None:
        """Train on histories, one after another."""
        import scipy.sparse as sp
        from implicit.als import AlternatingLeastSquares

        self.n_rows = int(rows.max()) + 1
        users = sp.csr_matrix((np.ones(len(rows), np.float32), rows, offsets))
        self.model = AlternatingLeastSquares(factors=FACTORS, random_state=0, num_threads=1)
        self.model.fit(users, show_progress=False)

    def recommend(self, histories: list[Any], items: Any) -> Any:
        """The first `K` of the items for each history: rows (n, K), zero where there are fewer."""
        import scipy.sparse as sp

        offsets = np.concatenate([[0], np.cumsum([len(h) for h in histories])])
        rows = np.concatenate(histories)
        known = rows < self.n_rows
        weights = np.where(known, 1.0, 0.0).astype(np.float32)
        users = sp.csr_matrix(
            (weights, np.where(known, rows, 0), offsets), shape=(len(histories), self.n_rows)
        )
        users.sum_duplicates()
        found, _ = self.model.recommend(
            np.arange(len(histories)),
            users,
            N=min(K, len(items)),
            filter_already_liked_items=False,
            recalculate_user=True,
            items=items[items < self.n_rows],
        )
        return padded(found)


class RecTools:
    """RecTools' SASRec."""

    def __init__(self, loss: str, n_negatives: int, epochs: int) -> None:
        self.settings = {**SASREC, "loss": loss, "n_negatives": n_negatives, "epochs": epochs}

    def fit(self, rows: Any, offsets: Any) -> None:
        """Train on histories, one after another."""
        import torch
        from rectools.models import SASRecModel

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.known = np.unique(rows)
        histories = [rows[a:b] for a, b in itertools.pairwise(offsets)]
        self.model = SASRecModel(
            **self.settings,
            get_trainer_func=trainer,
            get_trainer_func_kwargs={"max_epochs": self.settings["epochs"]},
        )
        self.model.fit(dataset(histories))

    def recommend(self, histories: list[Any], items: Any) -> Any:
        """The first `K` of the items for each history: rows (n, K), zero where there are fewer."""
        names = np.arange(len(histories))
        found = self.model.recommend(
            users=names,
            dataset=dataset(histories),
            k=min(K, len(items)),
            filter_viewed=False,
            items_to_recommend=np.intersect1d(items, self.known),
            on_unsupported_targets="ignore",
        )
        top = np.zeros((len(histories), K), dtype=np.int64)
        top[found["user_id"].to_numpy(), found["rank"].to_numpy() - 1] = found["item_id"].to_numpy()
        return top


def dataset(histories: list[Any]) -> Any:
    """Histories as RecTools takes them, one day between items."""
    import pandas as pd
    from rectools import Columns
    from rectools.dataset import Dataset

    lengths = [len(h) for h in histories]
    place = np.concatenate([np.arange(n) for n in lengths])
    frame = pd.DataFrame(
        {
            Columns.User: np.repeat(np.arange(len(histories)), lengths),
            Columns.Item: np.concatenate(histories),
            Columns.Weight: 1.0,
            Columns.Datetime: pd.Timestamp("2020-01-01") + pd.to_timedelta(place, unit="D"),
        }
    )
    return Dataset.construct(frame)


def trainer(max_epochs: int) -> Any:
    """A trainer that leaves no files and shows nothing."""
    from pytorch_lightning import Trainer

    return Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def padded(found: Any) -> Any:
    """Rows (n, k) as (n, K), zero where there are fewer."""
    top = np.zeros((len(found), K), dtype=np.int64)
    top[:, : found.shape[1]] = found
    return top


if __name__ == "__main__":
    main()
