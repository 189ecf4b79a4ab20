"""Checks that the settings of several stages share; each names the field, what was found and expected."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Protocol

from llmcdsr_lite.errors import SettingsError
from llmcdsr_lite.reference.parameters import SASRecConfig


class ModelSizes(Protocol):
    """Settings that say how large a SASRec model is."""

    @property
    def hidden(self) -> int: ...  # noqa: D102
    @property
    def n_blocks(self) -> int: ...  # noqa: D102
    @property
    def n_heads(self) -> int: ...  # noqa: D102
    @property
    def max_length(self) -> int: ...  # noqa: D102
    @property
    def dropout(self) -> float: ...  # noqa: D102


def check_counts(settings: object, names: Sequence[str]) -> None:
    """Refuse a count below 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise SettingsError(f"{name} must be at least 1, found {getattr(settings, name)}")


def check_positive(settings: object, names: Sequence[str]) -> None:
    """Refuse what is not above 0 and finite."""
    for name in names:
        if not 0 < getattr(settings, name) < math.inf:
            raise SettingsError(f"{name} must be above 0 and finite, found {getattr(settings, name)}")


def check_seed(seed: int) -> None:
    """Refuse what NumPy does not take as a seed."""
    if seed < 0:
        raise SettingsError(f"seed must be at least 0, found {seed}")


def usable_threads(threads: int) -> int:
    """So many of the threads as there are processors for this process: more would wait for each other."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return min(threads, len(os.sched_getaffinity(0)))
    return min(threads, os.cpu_count() or 1)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, found {value!r}")


def model_config(settings: ModelSizes, n_items: int) -> SASRecConfig:
    """Sizes of the model for `n_items`.

    Raises
    ------
    SettingsError
        If they do not go together.
    """
    try:
        return SASRecConfig(
            n_items,
            settings.hidden,
            settings.n_blocks,
            settings.n_heads,
            settings.max_length,
            settings.dropout,
        )
    except ValueError as error:
        raise SettingsError(str(error)) from None
