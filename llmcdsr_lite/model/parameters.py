"""The arrays of a SASRec model: the item embedding, and all others as views of one flat vector.

One flat vector makes the optimiser's step a handful of array operations instead of hundreds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from llmcdsr_lite.model.layers import FloatArray


@dataclass(frozen=True)
class SASRecConfig:
    """Sizes and constants of a SASRec model.

    Parameters
    ----------
    n_items : int
        Items of all domains; the item embedding has one row more, row 0 for padding.
    hidden : int
        Hidden size H.
    n_blocks, n_heads : int
        `n_heads` divides `hidden`.
    max_length : int
        Longest sequence, the number of positions.
    dropout : float
        Rate used in training, ``0 <= dropout < 1``.
    epsilon : float
        Of the layer norms.
    padding_keys : bool
        Let padding take part in attention as the official code does (see `PaddingKey`).
    """

    n_items: int
    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 1
    max_length: int = 50
    dropout: float = 0.5
    epsilon: float = 1e-8
    padding_keys: bool = False

    def __post_init__(self) -> None:
        if min(self.n_items, self.hidden, self.n_blocks, self.n_heads, self.max_length) < 1:
            raise ValueError(f"n_items, hidden, n_blocks, n_heads and max_length must be at least 1: {self}")
        if self.hidden % self.n_heads:
            raise ValueError(f"n_heads must divide hidden, found {self.n_heads} and {self.hidden}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), found {self.dropout}")


@dataclass(frozen=True)
class BlockParameters:
    """Arrays of one block, views of the flat vector."""

    attention_norm_weight: FloatArray  # (H,)
    attention_norm_bias: FloatArray  # (H,)
    query_weight: FloatArray  # (H, H)
    query_bias: FloatArray  # (H,)
    key_value_weight: FloatArray  # (2H, H)
    key_value_bias: FloatArray  # (2H,)
    output_weight: FloatArray  # (H, H)
    output_bias: FloatArray  # (H,)
    feed_forward_norm_weight: FloatArray  # (H,)
    feed_forward_norm_bias: FloatArray  # (H,)
    inner_weight: FloatArray  # (H, H)
    inner_bias: FloatArray  # (H,)
    outer_weight: FloatArray  # (H, H)
    outer_bias: FloatArray  # (H,)


def _shape(name: str, hidden: int) -> tuple[int, ...]:
    """Shape of a field of `BlockParameters`."""
    rows = 2 * hidden if name.startswith("key_value") else hidden
    is_matrix = name.endswith("_weight") and "norm" not in name
    return (rows, hidden) if is_matrix else (rows,)


def dense_shapes(config: SASRecConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every array in the flat vector, in order."""
    yield "position_embedding", (config.max_length, config.hidden)
    for block in range(config.n_blocks):
        for field in fields(BlockParameters):
            yield f"blocks.{block}.{field.name}", _shape(field.name, config.hidden)
    yield "norm_weight", (config.hidden,)
    yield "norm_bias", (config.hidden,)


def dense_size(config: SASRecConfig) -> int:
    """Length of the flat vector."""
    return sum(math.prod(shape) for _, shape in dense_shapes(config))


class SASRecParameters:
    """All arrays of a model, or of its gradient.

    Parameters
    ----------
    config : SASRecConfig
    item_embedding : float array (n_items + 1, H)
        Row 0 is padding and zero.
    dense : float array (`dense_size(config)`,)
        Everything else, flat; the attributes below are views of it.

    Attributes
    ----------
    arrays : dict of str to float array
        The views by name, in the order of the flat vector.
    position_embedding : float array (max_length, H)
    blocks : tuple of BlockParameters
    norm_weight, norm_bias : float arrays (H,)
        Of the last layer norm.

    Raises
    ------
    ValueError
        If an array does not have the shape that `config` asks for.
    """

    def __init__(self, config: SASRecConfig, item_embedding: FloatArray, dense: FloatArray) -> None:
        expected = (config.n_items + 1, config.hidden)
        if item_embedding.shape != expected:
            raise ValueError(f"item_embedding has shape {item_embedding.shape}, expected {expected}")
        if dense.shape != (dense_size(config),):
            raise ValueError(f"dense has shape {dense.shape}, expected ({dense_size(config)},)")
        self.config = config
        self.item_embedding = item_embedding
        self.dense = dense
        self.arrays: dict[str, FloatArray] = {}
        start = 0
        for name, shape in dense_shapes(config):
            stop = start + math.prod(shape)
            self.arrays[name] = dense[start:stop].reshape(shape)
            start = stop
        self.position_embedding = self.arrays["position_embedding"]
        self.norm_weight = self.arrays["norm_weight"]
        self.norm_bias = self.arrays["norm_bias"]
        self.blocks = tuple(
            BlockParameters(**{f.name: self.arrays[f"blocks.{b}.{f.name}"] for f in fields(BlockParameters)})
            for b in range(config.n_blocks)
        )

    @property
    def members(self) -> tuple[SASRecParameters, ...]:
        """The model itself, as the only member of an ensemble."""
        return (self,)

    @classmethod
    def zeros(cls, config: SASRecConfig, dtype: npt.DTypeLike = np.float32) -> SASRecParameters:
        """All arrays zero."""
        table = np.zeros((config.n_items + 1, config.hidden), dtype=dtype)
        return cls(config, table, np.zeros(dense_size(config), dtype=dtype))

    @classmethod
    def initial(
        cls, config: SASRecConfig, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32
    ) -> SASRecParameters:
        """Initialise as the official code does.

        Xavier normal for every matrix (Glorot and Bengio, 2010: standard deviation
        ``sqrt(2 / (rows + columns))``, query, key and value counted as one matrix), layer norms at
        one and zero, the biases of attention at zero, those of the feed-forward layers uniform within
        ``1 / sqrt(H)``.
        """
        hidden = config.hidden
        parameters = cls.zeros(config, dtype)
        table = parameters.item_embedding
        table[1:] = rng.normal(0, (2 / sum(table.shape)) ** 0.5, size=(config.n_items, hidden))
        for name, array in parameters.arrays.items():
            field = name.rpartition(".")[2]
            if array.ndim == 2:
                in_projection = field in ("query_weight", "key_value_weight")
                fans = 4 * hidden if in_projection else sum(array.shape)
                array[:] = rng.normal(0, (2 / fans) ** 0.5, size=array.shape)
            elif field.endswith("norm_weight"):
                array[:] = 1
            elif field in ("inner_bias", "outer_bias"):
                array[:] = rng.uniform(-(hidden**-0.5), hidden**-0.5, size=array.shape)
        return parameters

    def zeros_like(self) -> SASRecParameters:
        """Zeros for a gradient: the dense part, and an item embedding that is one shared zero."""
        table = np.broadcast_to(self.item_embedding.dtype.type(0), self.item_embedding.shape)
        return SASRecParameters(self.config, table, np.zeros_like(self.dense))

    def copy(self) -> SASRecParameters:
        """Copy every array."""
        return SASRecParameters(self.config, self.item_embedding.copy(), self.dense.copy())
