"""What the commands of several stages share: options, types of options, and the hint at a missing extra."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, TypeVar

import click

from llmcdsr_lite.errors import MissingDependencyError, install_hint
from llmcdsr_tools.setting_checks import usable_threads

Settings = TypeVar("Settings")

overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there.")


class Number(click.FloatRange):
    """A finite number, in a range if one is given; click takes nan for a number in any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse nan and what is infinite."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


def threads_option(of: str) -> Callable[..., Any]:
    """The option --threads; `of` tells whose threads they are."""
    return click.option(
        "--threads",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        callback=lambda context, parameter, threads: usable_threads(threads),
        help=f"{of}; more than there are processors are not used.",
    )


_MODEL_SIZES = (
    ("--hidden", "hidden", 8192, 64, "Hidden size."),
    ("--blocks", "n_blocks", 64, 2, "Blocks of attention and feed-forward."),
    ("--heads", "n_heads", 256, 1, "Heads of attention; they divide the hidden size."),
    ("--max-length", "max_length", 10_000, 50, "Longest history."),
)


def model_size_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options for how large a SASRec model is, named as the fields of settings."""
    return _with_options(
        function,
        [
            (flag, name, click.IntRange(1, top), default, text)
            for flag, name, top, default, text in _MODEL_SIZES
        ],
    )


def _with_options(
    function: Callable[..., Any], options: Sequence[tuple[str, str, Any, Any, str | None]]
) -> Callable[..., Any]:
    """Add options (flag, name, type, default, help) to a command, in their order."""
    for flag, name, kind, default, text in reversed(options):
        add = click.option(flag, name, type=kind, default=default, show_default=True, help=text)
        function = add(function)
    return function


def training_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options for how a SASRec model is pre-trained, named as the fields of settings."""
    defaults = {"loss": "sampled-softmax", "n_negatives": 256, "n_epochs": 200, "patience": 5, "dropout": 0.5}
    return _with_options(model_size_options(function), _training_options(defaults))


def recipe_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options for how a SASRec model is trained: a recipe, and fields of settings in place of its own."""
    options = [(flag, name, kind, None, text) for flag, name, kind, _, text in _training_options({})]
    sizes = [(flag, name, click.IntRange(1, top), None, text) for flag, name, top, _, text in _MODEL_SIZES]
    recipe = click.option(
        "--recipe",
        type=click.Choice(["best", "official"]),
        default="best",
        show_default=True,
        help="What ranks best, or the paper's; the options below replace parts of it.",
    )
    return recipe(_with_options(function, [*options, *sizes]))


def _training_options(defaults: Mapping[str, Any]) -> list[tuple[str, str, Any, Any, str | None]]:
    """Options (flag, name, type, default, help) for how a SASRec model is trained."""
    positive, above_zero = click.IntRange(1), Number(0, min_open=True)
    losses = click.Choice(["bce", "sampled-softmax"])
    better = "bce is the official recipe; sampled-softmax ranks better."
    options = (
        ("--loss", "loss", losses, None, better),
        ("--negatives", "n_negatives", positive, None, "Of each domain, for sampled-softmax."),
        ("--epochs", "n_epochs", positive, None, "At most so many."),
        ("--patience", "patience", positive, None, "Epochs without a better validation."),
        ("--dropout", "dropout", Number(0, 1, max_open=True), None, None),
        (
            "--batch-size",
            "batch_size",
            positive,
            128,
            "Sequences a step; left out of train: some 1,024 items.",
        ),
        ("--learning-rate", "learning_rate", above_zero, 1e-3, None),
        ("--seed", "seed", click.IntRange(0), 0, None),
    )
    return [(flag, name, kind, defaults.get(name, d), text) for flag, name, kind, d, text in options]


def settings_of(kind: type[Settings], options: Mapping[str, Any]) -> Settings:
    """Settings of a dataclass, from those options that are named as its fields."""
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: options[name] for name in names if name in options})


def needs_train_extra(function: Callable[..., Any]) -> Callable[..., Any]:
    """Say which installation brings a package that is missing."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f"this command needs {error.name}: {install_hint('train')}"
            ) from None

    return run
