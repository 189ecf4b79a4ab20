"""A baseline of the benchmark: RePlay's SASRec, compiled by OpenVINO, of the same sizes.

Its weights are random (its layers are not quite those of a bundle), so its time and memory can be compared
and its answers cannot. Only a child process of the benchmark imports it, and only where RePlay is.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from replay.data import FeatureHint, FeatureSource, FeatureType
    from replay.data.nn import TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.models.nn.sequential.compiled import SasRecCompiled
    from replay.models.nn.sequential.sasrec import SasRec

from runtime_bench.job import Job
from runtime_bench.torch_baseline import domain_ranges, padded_rows, top_items

ITEM = "item_id"


class ReplaySubject:
    """The compiled model with the same ids in and out as the runtime.

    RePlay takes a model that is compiled for one size of a batch; those for batches are compiled on first
    use. It scores all items; where one domain is wanted, its part of the scores is taken.
    """

    search_name = "exact"

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        folder = Path(job.bundle)
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        item_ids = json.loads((folder / "item_ids.json").read_text(encoding="utf-8"))
        self.ids = [None, *item_ids]
        self.row_of_id = {item_id: row for row, item_id in enumerate(item_ids, 1)}
        self.ranges = domain_ranges(description, len(self.ids))
        self.threads = job.threads
        sizes = description["model"]
        self.max_length: int = sizes["max_length"]
        self.model = _random_model(len(item_ids), sizes)
        self.compiled: dict[int, Any] = {}
        self._compiled(1)

    def recommend_batch(self, histories: Sequence[Sequence[str]], domain: str | None) -> tuple[Any, Any]:
        """See `Subject.recommend_batch`."""
        known = [[self.row_of_id[item] for item in history] for history in histories]
        rows = torch.from_numpy(padded_rows(known, self.max_length))
        real = rows > 0
        items = torch.where(real, rows - 1, len(self.row_of_id))  # RePlay counts from 0, padding comes last
        batch = {"feature_tensor": {ITEM: items}, "padding_mask": real}
        scores = self._compiled(len(histories)).predict(batch)  # (n, items)
        start, stop = self.ranges[domain]
        best, columns = top_items(scores[:, start - 1 : stop - 1], known, start, stop)
        ids = [[self.ids[column + start] for column in row] for row in columns.tolist()]
        return ids, best.numpy()

    def recommend(self, history: Sequence[str], domain: str | None) -> Sequence[tuple[str, float]]:
        """See `Subject.recommend`."""
        ids, scores = self.recommend_batch([history], domain)
        return list(zip(ids[0], scores[0].tolist(), strict=True))

    def _compiled(self, size: int) -> Any:
        if size not in self.compiled:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.compiled[size] = SasRecCompiled.compile(
                    self.model, mode="batch", batch_size=size, num_threads=self.threads
                )
        return self.compiled[size]


def _random_model(n_items: int, sizes: dict[str, Any]) -> Any:
    item = TensorFeatureInfo(
        name=ITEM,
        feature_type=FeatureType.CATEGORICAL,
        is_seq=True,
        feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, ITEM)],
        cardinality=n_items,
        embedding_dim=sizes["hidden"],
    )
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # RePlay's notes on what it will rename
        return SasRec(
            TensorSchema([item]),
            block_count=sizes["n_blocks"],
            head_count=sizes["n_heads"],
            hidden_size=sizes["hidden"],
            max_seq_len=sizes["max_length"],
            dropout_rate=0.0,
        ).eval()
