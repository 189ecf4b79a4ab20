"""What a training run is set to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np

from llmcdsr_lite.errors import SettingsError
from llmcdsr_lite.reference.parameters import SASRecConfig
from llmcdsr_tools.dataset import Dataset
from llmcdsr_tools.objectives import Loss
from llmcdsr_tools.run import Criterion
from llmcdsr_tools.setting_checks import (
    check_choice,
    check_counts,
    check_positive,
    check_seed,
    model_config,
)
from llmcdsr_tools.train.inner_steps import InnerOptimizer

Recipe = Literal["best", "official"]
ItemStart = Literal["titles", "random"]
InnerOptimizerChoice = Literal["auto", "none", "sgd", "adam", "fresh-adam"]

_WHOLE = 0.95  # share of histories that the model takes in whole, within these bounds
_SHORTEST, _LONGEST = 50, 200
_TOKENS = 1024


@dataclass(frozen=True)
class TrainSettings:
    """What a run is trained with; the defaults are the recipe that ranks best, `OFFICIAL` has the paper's.

    Parameters
    ----------
    loss : {"bce", "sampled-softmax"}
        Binary cross-entropy with one negative a position, or softmax with shared negatives.
    n_negatives : int
        Shared negatives of each domain, for the sampled softmax; a domain with fewer items gives all.
    n_epochs : int
        At most so many epochs.
    patience : int
        Training stops when no domain's measure on validation has risen for so many epochs.
    batch_size : int
        Sequences a step; 0 leaves it to the data, see `for_data`.
    learning_rate : float
    hidden, n_blocks, n_heads, dropout
        See `SASRecConfig`.
    max_length : int
        Longest history that the model takes; 0 leaves it to the data, see `for_data`.
    item_start : {"titles", "random"}
        Where item embeddings start if neither text embeddings nor pre-trained vectors are given: from word
        vectors of the titles, or at random.
    windows : bool
        Train on all of a long history, in windows of `max_length`, rather than on its newest part alone.
    average_epochs : float
        Validate and keep the average of the weights over about so many epochs, in place of the last weights;
        0 for these.
    text_deviation : float
        Root mean square of item embeddings that start from text.
    pretrained_items : bool
        Start item embeddings from the item vectors of pre-training. Otherwise they and the pooled
        vectors live in unrelated spaces, and the gradient that meta-learning hands from the one to the
        other is noise (measured by `benchmarks/meta_signal.py`).
    cold_sequences : bool
        Train on overlapped users in their cold cross-domain form, too (`TrainingSequences.cold`):
        the next item of a domain out, the items of others in.
    inner_optimizer : {"auto", "none", "sgd", "adam", "fresh-adam"}
        The virtual step of meta-learning, see `inner_steps`; ``none`` leaves the poolers at zero, so that
        a pooled vector is the mean of the names. The others need names. ``auto`` is ``adam``, which won on
        validation (docs/results.md), where there are names and `pretrained_items` is set, else ``none``.
    inner_learning_rate : float
        Of the virtual step with ``sgd``; Adam's is `learning_rate`.
    pooler_learning_rate : float
        Of the poolers' Adam.
    n_augmented : int
        Augmented sequences a step, where there are names.
    n_overlapped : int
        Overlapped users a step, for the meta loss.
    recall_k : int
        Pseudo items inserted into an augmented sequence.
    criterion : {"ndcg", "sampled-hr"}
        What is best on validation, see `EpochMetrics`.
    seed : int
    """

    loss: Loss = "sampled-softmax"
    n_negatives: int = 8192
    n_epochs: int = 200
    patience: int = 4
    batch_size: int = 0
    learning_rate: float = 1e-3
    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 1
    max_length: int = 0
    dropout: float = 0.3
    item_start: ItemStart = "titles"
    windows: bool = True
    average_epochs: float = 1.25
    text_deviation: float = 0.05
    cold_sequences: bool = False
    pretrained_items: bool = False
    inner_optimizer: InnerOptimizerChoice = "auto"
    inner_learning_rate: float = 0.1
    pooler_learning_rate: float = 1e-3
    n_augmented: int = 32
    n_overlapped: int = 128
    recall_k: int = 10
    criterion: Criterion = "ndcg"
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, ("n_negatives", "n_epochs", "patience"))
        check_counts(self, ("n_augmented", "n_overlapped", "recall_k"))
        check_positive(self, ("learning_rate", "text_deviation"))
        check_positive(self, ("inner_learning_rate", "pooler_learning_rate"))
        if self.batch_size < 0:
            raise SettingsError(f"batch_size must be at least 0, found {self.batch_size}")
        if not (math.isfinite(self.average_epochs) and self.average_epochs >= 0):
            raise SettingsError(f"average_epochs is {self.average_epochs}, expected 0 or more")
        check_seed(self.seed)
        check_choice("loss", self.loss, get_args(Loss))
        check_choice("criterion", self.criterion, get_args(Criterion))
        check_choice("item_start", self.item_start, get_args(ItemStart))
        check_choice("inner_optimizer", self.inner_optimizer, get_args(InnerOptimizerChoice))

    def chosen_inner_optimizer(self, has_names: bool) -> InnerOptimizer:
        """The inner optimiser itself, for a training with or without names."""
        if self.inner_optimizer == "auto":
            return "adam" if has_names and self.pretrained_items else "none"
        return self.inner_optimizer

    def for_data(self, data: Dataset) -> TrainSettings:
        """The same settings, with those that the data decide.

        `max_length` holds `_WHOLE` of the histories as they are, within `_SHORTEST` and `_LONGEST`; a batch
        has some `_TOKENS` items, and at most 128 sequences, as the official one.
        """
        lengths = data.train.lengths
        max_length, batch_size = self.max_length, self.batch_size
        if not max_length:
            wanted = int(np.quantile(lengths, _WHOLE, method="inverted_cdf")) if len(lengths) else 0
            max_length = min(max(wanted, _SHORTEST), _LONGEST)
        if not batch_size:
            mean = float(np.minimum(lengths, max_length).mean()) if len(lengths) else 1.0
            batch_size = min(max(round(_TOKENS / max(mean, 1.0)), 16), 128)
        return replace(self, max_length=max_length, batch_size=batch_size)

    def model_config(self, n_items: int) -> SASRecConfig:
        """Sizes of the model for a catalogue of `n_items`, once `max_length` is decided."""
        return model_config(self, n_items)


OFFICIAL: Mapping[str, Any] = MappingProxyType(
    {
        "loss": "bce",
        "patience": 10,
        "batch_size": 128,
        "max_length": 50,
        "dropout": 0.5,
        "item_start": "random",
        "windows": False,
        "average_epochs": 0.0,
        "criterion": "sampled-hr",
    }
)


def recipe_settings(recipe: Recipe = "best", **given: Any) -> TrainSettings:
    """Settings of a recipe, but for those that are given.

    Parameters
    ----------
    recipe : {"best", "official"}
        What ranks best, or the paper's.
    **given
        Fields of `TrainSettings`.
    """
    check_choice("recipe", recipe, get_args(Recipe))
    return TrainSettings(**{**(OFFICIAL if recipe == "official" else {}), **given})
