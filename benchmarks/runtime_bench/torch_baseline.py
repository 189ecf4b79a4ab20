"""A baseline of the benchmark: the same architecture and weights in PyTorch, eager.

Written as one would who serves the model with PyTorch and cares: no dropout, padding only to the longest
history of the batch, PyTorch's fused attention, ``torch.topk``. Only a child process of the benchmark
imports it, and only where PyTorch is installed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcdsr_lite.model.parameters import BlockParameters, SASRecConfig, SASRecParameters
from runtime_bench.job import Job, K


class Block(nn.Module):
    """One block; shapes as in `llmcdsr_lite.model.sasrec`."""

    def __init__(self, arrays: BlockParameters, config: SASRecConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        hidden = config.hidden
        self.attention_norm = _norm(arrays.attention_norm_weight, arrays.attention_norm_bias, config)
        self.query = _linear(arrays.query_weight, arrays.query_bias)
        self.key = _linear(arrays.key_value_weight[:hidden], arrays.key_value_bias[:hidden])
        self.value = _linear(arrays.key_value_weight[hidden:], arrays.key_value_bias[hidden:])
        self.output = _linear(arrays.output_weight, arrays.output_bias)
        self.feed_forward_norm = _norm(arrays.feed_forward_norm_weight, arrays.feed_forward_norm_bias, config)
        self.inner = _linear(arrays.inner_weight, arrays.inner_bias)
        self.outer = _linear(arrays.outer_weight, arrays.outer_bias)

    def forward(self, x: Tensor, visible: Tensor) -> Tensor:
        """Map x (n, length, H) to the same shape; `visible` (n, 1, length, length) is added to the logits."""
        normalized = self.attention_norm(x)
        query, key, value = (
            made.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (n, heads, length, H / heads)
            for made in (self.query(normalized), self.key(x), self.value(x))
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=visible)
        y = self.output(mixed.transpose(1, 2).flatten(-2)) + normalized
        y = self.feed_forward_norm(y)
        made: Tensor = y + self.outer(functional.relu(self.inner(y)))
        return made


class SASRec(nn.Module):
    """The model of a bundle."""

    def __init__(self, parameters: SASRecParameters) -> None:
        super().__init__()
        config = parameters.config
        self.scale = config.hidden**0.5
        self.items = _parameter(parameters.item_embedding)  # (items + 1, H)
        self.positions = _parameter(parameters.position_embedding)  # (max_length, H)
        self.blocks = nn.ModuleList(Block(arrays, config) for arrays in parameters.blocks)
        self.norm = _norm(parameters.norm_weight, parameters.norm_bias, config)

    def forward(self, rows: Tensor) -> Tensor:
        """Item rows (n, length), padded with zeros on the left, to user representations (n, H)."""
        length = rows.shape[1]
        real = rows > 0  # (n, length)
        causal = torch.ones(length, length).tril().bool()
        seen = (causal & real[:, None, :])[:, None]  # (n, 1, length, length)
        visible = torch.where(seen, 0.0, -1e9)  # finite: padded queries see nothing
        x = self.items[rows] * self.scale + self.positions[-length:]
        for block in self.blocks:
            x = block(x, visible)
        made: Tensor = self.norm(x[:, -1])
        return made


class TorchSubject:
    """The model with the same ids in and out as the runtime."""

    search_name = "exact"

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        folder = Path(job.bundle)
        description = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        table, dense = np.load(folder / "item_vectors.npy"), np.load(folder / "dense.npy")
        config = SASRecConfig(len(table) - 1, dropout=0.0, **description["model"])
        self.model = SASRec(SASRecParameters(config, table, dense)).eval()
        self.max_length = config.max_length
        self.ids = [None, *json.loads((folder / "item_ids.json").read_text(encoding="utf-8"))]
        self.row_of_id = {item_id: row for row, item_id in enumerate(self.ids) if row}
        self.ranges = domain_ranges(description, len(table))

    @torch.inference_mode()
    def recommend_batch(self, histories: Sequence[Sequence[str]], domain: str | None) -> tuple[Any, Any]:
        """See `Subject.recommend_batch`."""
        known = [[self.row_of_id[item] for item in history] for history in histories]
        rows = padded_rows(known, min(self.max_length, max(map(len, known))))
        start, stop = self.ranges[domain]
        scores = self.model(torch.from_numpy(rows)) @ self.model.items[start:stop].T  # (n, items)
        best, columns = top_items(scores, known, start, stop)
        ids = [[self.ids[column + start] for column in row] for row in columns.tolist()]
        return ids, best.numpy()

    def recommend(self, history: Sequence[str], domain: str | None) -> Sequence[tuple[str, float]]:
        """See `Subject.recommend`."""
        ids, scores = self.recommend_batch([history], domain)
        return list(zip(ids[0], scores[0].tolist(), strict=True))


def top_items(scores: Tensor, known: list[list[int]], start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Best scores and their columns, items of the history left out: scores (n, stop - start) to (n, K)."""
    for i, rows in enumerate(known):
        scores[i, [row - start for row in rows if start <= row < stop]] = -torch.inf
    return torch.topk(scores, min(K, scores.shape[1]))


def padded_rows(known: list[list[int]], length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The newest rows of every history, padded with zeros on the left: (n, length)."""
    rows = np.zeros((len(known), length), dtype=np.int64)
    for i, history in enumerate(known):
        newest = history[-length:]
        rows[i, length - len(newest) :] = newest
    return rows


def domain_ranges(description: dict[str, Any], n_rows: int) -> dict[str | None, tuple[int, int]]:
    """Rows ``start <= row < stop`` of all domains (None) and of each."""
    ranges: dict[str | None, tuple[int, int]] = {None: (1, n_rows)}
    stop = 1
    for domain in description["domains"]:
        ranges[domain["name"]] = (stop, stop := stop + domain["items"])
    return ranges


def _parameter(array: np.ndarray[Any, Any]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(array), requires_grad=False)


def _linear(weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any]) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = _parameter(weight), _parameter(bias)
    return layer


def _norm(weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any], config: SASRecConfig) -> nn.LayerNorm:
    layer = nn.LayerNorm(config.hidden, eps=config.epsilon)
    layer.weight, layer.bias = _parameter(weight), _parameter(bias)
    return layer
