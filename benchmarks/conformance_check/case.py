"""A case file of the conformance check: its arrays, its model, its padded batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.errors import DataError
from llmcdsr_lite.model.packing import PackedSequences, pack
from llmcdsr_lite.model.parameters import SASRecConfig, SASRecParameters
from llmcdsr_tools.checkpoint import read_arrays

Array = npt.NDArray[Any]

# Where each array of a block lives in the official model.
_BLOCK_NAMES = {
    "attention_norm_weight": "attention_layernorms.{}.weight",
    "attention_norm_bias": "attention_layernorms.{}.bias",
    "output_weight": "attention_layers.{}.out_proj.weight",
    "output_bias": "attention_layers.{}.out_proj.bias",
    "feed_forward_norm_weight": "forward_layernorms.{}.weight",
    "feed_forward_norm_bias": "forward_layernorms.{}.bias",
    "inner_weight": "forward_layers.{}.conv1.weight",
    "inner_bias": "forward_layers.{}.conv1.bias",
    "outer_weight": "forward_layers.{}.conv2.weight",
    "outer_bias": "forward_layers.{}.conv2.bias",
}


class Case:
    """Arrays of one case file, by name.

    Raises
    ------
    DataError
        If the file cannot be read, or an array that is asked for is not in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: set[str] = set()
        try:
            self._arrays = read_arrays(path)
        except DataError as error:
            raise DataError(f"{path}: cannot be read as an .npz file: {error}") from None

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            raise DataError(f"{self.path}: has no array {name!r}")
        self._read.add(name)
        return self._arrays[name]

    def unread(self, group: str) -> tuple[str, ...]:
        """Arrays of a group that nobody has asked for."""
        return tuple(n for n in self._arrays if n.startswith(f"{group}/") and n not in self._read)

    def groups(self) -> list[str]:
        """Groups in file order: the first part of the names, without the model itself."""
        names = dict.fromkeys(name.partition("/")[0] for name in self._arrays)
        return [n for n in names if n != "param" and not n.startswith("config.")]

    def scalar(self, name: str) -> int:
        """Value of an integer scalar."""
        return int(self[name])


def parameters_of(case: Case, prefix: str = "param/") -> SASRecParameters:
    """The model of a case file, or its gradient under another `prefix`."""
    config = SASRecConfig(
        n_items=case.scalar("config.items_a") + case.scalar("config.items_b"),
        hidden=case.scalar("config.hidden"),
        n_blocks=case.scalar("config.blocks"),
        n_heads=case.scalar("config.heads"),
        max_length=case.scalar("config.maxlen"),
        dropout=0.0,
        padding_keys=True,
    )
    parameters = SASRecParameters.zeros(config, np.float64)
    parameters.item_embedding[:] = case[prefix + "item_emb.weight"]
    for name, array in parameters.arrays.items():
        array[:] = _official(case, prefix, name, config.hidden).reshape(array.shape)
    return parameters


def _official(case: Case, prefix: str, name: str, hidden: int) -> Array:
    """The official array for one of ours; ``in_proj`` stacks query, key and value."""
    if not name.startswith("blocks."):
        return case[
            prefix
            + {
                "position_embedding": "pos_emb.weight",
                "norm_weight": "last_layernorm.weight",
                "norm_bias": "last_layernorm.bias",
            }[name]
        ]
    _, block, field = name.split(".")
    if field in _BLOCK_NAMES:
        return case[prefix + _BLOCK_NAMES[field].format(block)]
    stacked = case[f"{prefix}attention_layers.{block}.in_proj_{field.rpartition('_')[2]}"]
    return stacked[:hidden] if field.startswith("query") else stacked[hidden:]


def pack_padded(padded: Array) -> tuple[PackedSequences, Array]:
    """Pack left-padded sequences (n, length); also the flat index of every token."""
    lengths = np.count_nonzero(padded, axis=1)
    starts = np.arange(1, len(padded) + 1) * padded.shape[1] - lengths
    return pack(padded.ravel(), starts, lengths, padded.shape[1])
