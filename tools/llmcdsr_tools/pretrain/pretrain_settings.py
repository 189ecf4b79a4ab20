"""Settings of pre-training."""

from __future__ import annotations

from dataclasses import dataclass

from llmcdsr_lite.model.parameters import SASRecConfig
from llmcdsr_tools.setting_fields import (
    Blocks,
    Count,
    Heads,
    Hidden,
    Length,
    Loss,
    Natural,
    NonNegative,
    Positive,
    Share,
    check_settings,
    model_config,
)


@dataclass(frozen=True)
class PretrainSettings:
    """What pre-training is done with; the official recipe has the loss ``bce`` and starts items at random.

    Parameters
    ----------
    loss : {"bce", "sampled-softmax"}
        Binary cross-entropy with one negative a position, or softmax with shared negatives.
    n_negatives : int
        Shared negatives, for sampled-softmax.
    contrastive_weight : float
        Of the contrastive loss beside the recommender's.
    temperature : float
        Of the contrastive loss.
    n_epochs : int
        At most so many for each domain.
    patience : int
        A domain is done when its validation HR@10 has not risen for so many epochs.
    batch_size : int
        Sequences a step.
    learning_rate : float
        Of Adam.
    hidden : int
        Hidden size.
    n_blocks : int
        Blocks of attention and feed-forward.
    n_heads : int
        Heads of attention; they divide the hidden size.
    max_length : int
        Longest history that the model takes.
    dropout : float
        Rate in training.
    text_initialization : bool
        Start the items from the titles' principal components, as `train` does.
    text_deviation : float
        Root mean square of item embeddings that start from text.
    held_out : float
        Share of each domain's items that the contrastive loss leaves out, to measure it on. How well their
        titles find them says what the projection is worth for text it has not seen.
    seed : int
        Of everything that is drawn.
    """

    loss: Loss = "sampled-softmax"
    n_negatives: Count = 256
    contrastive_weight: NonNegative = 0.1
    temperature: Positive = 1.0
    n_epochs: Count = 200
    patience: Count = 5
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    hidden: Hidden = 64
    n_blocks: Blocks = 2
    n_heads: Heads = 1
    max_length: Length = 50
    dropout: Share = 0.5
    text_initialization: bool = True
    text_deviation: Positive = 0.05
    held_out: Share = 0.0
    seed: Natural = 0

    def __post_init__(self) -> None:
        check_settings(self)
        self.model_config(1)

    def model_config(self, n_items: int) -> SASRecConfig:
        """Sizes of the model for a domain of `n_items`."""
        return model_config(self, n_items)
