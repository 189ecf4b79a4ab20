"""What pre-training is set to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from llmcdsr_lite.errors import SettingsError
from llmcdsr_lite.reference.parameters import SASRecConfig
from llmcdsr_tools.objectives import Loss
from llmcdsr_tools.setting_checks import (
    check_choice,
    check_counts,
    check_positive,
    check_seed,
    model_config,
)


@dataclass(frozen=True)
class PretrainSettings:
    """What pre-training is done with; the official recipe has the loss ``bce`` and starts items at random.

    Parameters
    ----------
    loss : {"bce", "sampled-softmax"}
        Recommendation loss.
    n_negatives : int
        Shared negatives, for the sampled softmax.
    contrastive_weight : float
        Of the contrastive loss beside the recommendation loss.
    temperature : float
        Of the contrastive loss.
    n_epochs : int
        At most so many for each domain.
    patience : int
        A domain is done when its validation HR@10 has not risen for so many epochs.
    batch_size : int
        Sequences a step.
    learning_rate : float
    hidden, n_blocks, n_heads, max_length, dropout
        See `SASRecConfig`.
    text_initialization : bool
        Start the items from the principal components of their titles, as `train` does.
    text_deviation : float
        Root mean square of item embeddings that start from text.
    held_out : float
        Share of each domain's items that the contrastive loss leaves out; how well their titles find
        them says what the projection is worth for text it has not seen.
    seed : int
    """

    loss: Loss = "sampled-softmax"
    n_negatives: int = 256
    contrastive_weight: float = 0.1
    temperature: float = 1.0
    n_epochs: int = 200
    patience: int = 5
    batch_size: int = 128
    learning_rate: float = 1e-3
    hidden: int = 64
    n_blocks: int = 2
    n_heads: int = 1
    max_length: int = 50
    dropout: float = 0.5
    text_initialization: bool = True
    text_deviation: float = 0.05
    held_out: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, ("n_negatives", "n_epochs", "patience", "batch_size"))
        check_positive(self, ("learning_rate", "temperature", "text_deviation"))
        if not 0 <= self.contrastive_weight < math.inf:
            raise SettingsError(
                f"contrastive_weight must be at least 0 and finite, found {self.contrastive_weight}"
            )
        if not 0 <= self.held_out < 1:
            raise SettingsError(f"held_out must be in [0, 1), found {self.held_out}")
        check_seed(self.seed)
        check_choice("loss", self.loss, get_args(Loss))
        self.model_config(1)

    def model_config(self, n_items: int) -> SASRecConfig:
        """Sizes of the model for a domain of `n_items`."""
        return model_config(self, n_items)
