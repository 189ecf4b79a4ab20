"""What the commands of several stages share: options, types of options, and the hint at a missing extra."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from llmcdsr_lite.cli.commands import FilePath
from llmcdsr_lite.errors import MissingDependencyError, install_hint
from llmcdsr_tools.setting_fields import SettingField, setting_fields, usable_threads

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


def settings_options(
    kind: type[Any],
    *,
    only: Collection[str] = (),
    without: Collection[str] = (),
    suffix: str = "",
    recipes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Callable[..., Any]:
    """Options for the fields of a settings dataclass, named as these.

    Parameters
    ----------
    kind : type
        The dataclass.
    only, without : collection of str
        Fields to make options for, all by default, and fields to leave out. One whose value is a dataclass,
        a tuple or the like is left out, too.
    suffix : str
        Of every option's name.
    recipes : mapping of str to mapping, optional
        Defaults in place of the dataclass's own, by recipe. An option that is not given is then None, for
        the recipe to decide.
    """

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for field in reversed(setting_fields(kind)):
            if field.name in without or (only and field.name not in only) or field.kind not in _SIMPLE:
                continue
            function = _option(field, suffix, recipes)(function)
        return function

    return add


_SIMPLE = (bool, int, float, str, Path)


def _option(
    field: SettingField, suffix: str, recipes: Mapping[str, Mapping[str, Any]] | None
) -> Callable[..., Any]:
    flag, text, default = field.flag + suffix, field.text, field.default
    if recipes is not None:
        others = [
            f"; {name}: {_shown(own[field.name])}" for name, own in recipes.items() if field.name in own
        ]
        text = f"{text}  [default: {_shown(default)}{''.join(others)}]".strip()
        default = None
    if field.kind is bool:
        flag += f"/--no-{flag.removeprefix('--')}"
    return click.option(
        flag,
        field.name,
        type=_option_type(field),
        default=None if default is MISSING else default,
        required=default is MISSING,
        show_default=recipes is None and default is not None,
        help=text,
    )


def _option_type(field: SettingField) -> Any:
    if field.choices:
        return click.Choice(field.choices)
    if field.bounds is not None:
        bounds = field.bounds
        low, high = (None if math.isinf(end) else end for end in (bounds.low, bounds.high))
        if field.kind is int:
            return click.IntRange(None if low is None else int(low), None if high is None else int(high))
        return Number(low, high, bounds.low_open, bounds.high_open)
    return {Path: FilePath, float: Number()}.get(field.kind, field.kind)


def _shown(value: Any) -> str:
    """A default as it is typed."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


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
