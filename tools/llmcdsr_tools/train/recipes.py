"""Settings of a training run, and the recipes that they begin from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import numpy as np

from llmcdsr_lite.model.parameters import SASRecConfig
from llmcdsr_tools.setting_fields import (
    Blocks,
    Bounds,
    Count,
    Criterion,
    Heads,
    Hidden,
    Loss,
    Natural,
    NonNegative,
    Positive,
    Share,
    check_choice,
    check_settings,
    model_config,
)

if TYPE_CHECKING:
    from llmcdsr_tools.data.dataset import Dataset

Recipe = Literal["best", "official"]
ItemStart = Literal["titles", "random"]
InnerOptimizer = Literal["none", "sgd", "adam", "fresh-adam"]
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
        Shared negatives of each domain, for sampled-softmax. A domain with fewer items gives all.
    n_epochs : int
        At most so many.
    patience : int
        Training stops when no domain's measure on validation has risen for so many epochs.
    batch_size : int
        Sequences a step; 0 leaves it to the data: some 1,024 items.
    learning_rate : float
        Of Adam.
    hidden : int
        Hidden size.
    n_blocks : int
        Blocks of attention and feed-forward.
    n_heads : int
        Heads of attention; they divide the hidden size.
    max_length : int
        Longest history that the model takes; 0 leaves it to the data, see `for_data`.
    dropout : float
        Rate in training.
    item_start : {"titles", "random"}
        Where items start if neither text embeddings nor pre-trained vectors nor a model to start from are
        given: from word vectors of their titles, or at random.
    windows : bool
        Train on all of a long history, in windows of the longest, rather than on its newest part alone.
    average_epochs : float
        Keep the average of the weights over about so many epochs; 0 for the last weights. What is kept is
        validated.
    text_deviation : float
        Root mean square of item embeddings that start from text.
    cold_sequences : bool
        Train on users of several domains in their cold form, too: one domain hidden, its next item the
        target. See `TrainingSequences.cold`.
    pretrained_items : bool
        Start the items from the item vectors of pre-training; without it meta-learning finds no direction.
        Otherwise they and the pooled vectors live in unrelated spaces, and the gradient that meta-learning
        hands from the one to the other is noise (measured by `benchmarks/meta_signal.py`).
    inner_optimizer : {"auto", "none", "sgd", "adam", "fresh-adam"}
        The virtual step of meta-learning, which trains the poolers; auto: adam, the best on validation, with
        names and pre-trained items, else none. ``none`` leaves the poolers at zero, so that a pooled vector
        is the mean of the names; the others need names. See `inner_steps`, and docs/results.md.
    inner_learning_rate : float
        Of the inner optimizer sgd. Adam's is `learning_rate`.
    pooler_learning_rate : float
        Of the poolers' Adam.
    n_augmented : int
        Sequences with pseudo items a step, where there are names.
    n_overlapped : int
        Users of several domains a step, for the meta loss.
    recall_k : int
        Pseudo items a sequence.
    criterion : {"ndcg", "sampled-hr"}
        What is best on validation: NDCG@10 in the whole domain, or HR@10 among 999 drawn negatives. See
        `EpochMetrics`.
    seed : int
        Of everything that is drawn.
    """

    loss: Loss = "sampled-softmax"
    n_negatives: Count = 8192
    n_epochs: Count = 200
    patience: Count = 4
    batch_size: Natural = 0
    learning_rate: Positive = 1e-3
    hidden: Hidden = 64
    n_blocks: Blocks = 2
    n_heads: Heads = 1
    max_length: Annotated[int, Bounds(0, 10_000)] = 0
    dropout: Share = 0.3
    item_start: ItemStart = "titles"
    windows: bool = True
    average_epochs: NonNegative = 1.25
    text_deviation: Positive = 0.05
    cold_sequences: bool = False
    pretrained_items: bool = False
    inner_optimizer: InnerOptimizerChoice = "auto"
    inner_learning_rate: Positive = 0.1
    pooler_learning_rate: Positive = 1e-3
    n_augmented: Count = 32
    n_overlapped: Count = 128
    recall_k: Count = 10
    criterion: Criterion = "ndcg"
    seed: Natural = 0

    def __post_init__(self) -> None:
        check_settings(self)
        model_config(self, 1, self.max_length or 1)  # refuses sizes that do not go together

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
