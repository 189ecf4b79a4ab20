"""Settings of the stages, said once: type, default, bounds and help of each are those of a dataclass's field.

`setting_fields` reads them from the annotations and the numpydoc docstring; the options of the commands
(`cli.options.settings_options`) and the TOML tables of `fit` (`pipeline.config_tables`) are made from it.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import os
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from llmcdsr_lite.errors import SettingsError, UsageError
from llmcdsr_lite.model.parameters import SASRecConfig

_TYPES: dict[Any, tuple[Any, str]] = {
    bool: (bool, "True or False"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "text"),
}

Made = TypeVar("Made")
Loss = Literal["bce", "sampled-softmax"]
Criterion = Literal["ndcg", "sampled-hr"]


@dataclass(frozen=True)
class Bounds:
    """Range of a number; nan and what is infinite are in none."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return math.isfinite(value) and above and below

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f"{'above' if self.low_open else 'at least'} {self.low:g}"
        high = "" if self.high == math.inf else f"{'below' if self.high_open else 'at most'} {self.high:g}"
        return " and ".join(part for part in (low, high) if part) or "finite"


@dataclass(frozen=True)
class Flag:
    """Name of a field's command line option, where it is not the field's own."""

    name: str


Count = Annotated[int, Bounds(1)]
Natural = Annotated[int, Bounds(0)]
Positive = Annotated[float, Bounds(0, low_open=True)]
NonNegative = Annotated[float, Bounds(0)]
Share = Annotated[float, Bounds(0, 1, high_open=True)]
# sizes of a SASRec model: above these, a typing error and not a model
Hidden = Annotated[int, Bounds(1, 8192)]
Blocks = Annotated[int, Bounds(1, 64)]
Heads = Annotated[int, Bounds(1, 256)]
Length = Annotated[int, Bounds(1, 10_000)]


@dataclass(frozen=True)
class SettingField:
    """One field of a settings dataclass.

    Parameters
    ----------
    name, flag : str
        Of the field, and of its command line option.
    kind : type
        Of its values; the fields of a nested dataclass are not looked into.
    default : object
        `dataclasses.MISSING` if it must be given.
    choices : tuple of str
        All values there are; empty unless the type is a `Literal`.
    bounds : Bounds or None
    optional : bool
        Whether it may be None.
    text : str
        First sentence of its description in the docstring; empty where Python runs without docstrings.
    """

    name: str
    flag: str
    kind: Any
    default: Any
    choices: tuple[str, ...]
    bounds: Bounds | None
    optional: bool
    text: str


def setting_fields(cls: type[Any]) -> tuple[SettingField, ...]:
    """Fields of a settings dataclass, in order."""
    hints, texts = get_type_hints(cls, include_extras=True), _descriptions(cls)
    return tuple(_setting_field(f, hints[f.name], texts.get(f.name, "")) for f in fields(cls))


def _setting_field(field: Any, hint: Any, text: str) -> SettingField:
    extras: tuple[Any, ...] = ()
    optional = get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)
    if optional and len(get_args(hint)) == 2:
        (hint,) = (a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is Annotated:
        hint, *extra = get_args(hint)
        extras = tuple(extra)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    default = field.default if field.default_factory is MISSING else field.default_factory()
    flag = next((e.name for e in extras if isinstance(e, Flag)), "")
    return SettingField(
        field.name,
        flag or "--" + field.name.removeprefix("n_").replace("_", "-"),
        str if choices else hint,
        default,
        choices,
        next((e for e in extras if isinstance(e, Bounds)), None),
        optional,
        text,
    )


def _descriptions(cls: type[Any]) -> dict[str, str]:
    """First sentence on each parameter of a numpydoc docstring, without its markup."""
    blocks = re.findall(
        r"^(\w+(?:, \w+)*)(?: : .*)?\n((?:[ ]{4}.*\n?)+)", inspect.cleandoc(cls.__doc__ or ""), re.MULTILINE
    )
    texts: dict[str, str] = {}
    for names, block in blocks:
        sentence, *_ = re.split(r"(?<=\.)\s", " ".join(block.split()), maxsplit=1)
        texts |= dict.fromkeys(names.split(", "), sentence.replace("`", ""))
    return texts


def from_keywords(make: Callable[..., Made], given: Mapping[str, Any], known: Collection[str]) -> Made:
    """Settings from the keywords of a call, each of which must be known.

    Raises
    ------
    UsageError
        If one is not.
    """
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise UsageError(f"got an unexpected keyword argument {name!r}; {hint}")
    return make(**given)


def check_settings(settings: Any) -> None:
    """Refuse a value of another type than its field's, out of its bounds, or none of its choices.

    NumPy's numbers become Python's, which can be written as JSON.

    Raises
    ------
    SettingsError
        For the first such field, in order.
    """
    for field in setting_fields(type(settings)):
        value = getattr(settings, field.name)
        if value is None and field.optional:
            continue
        if field.choices:
            check_choice(field.name, value, field.choices)
        elif field.kind in _TYPES:
            abstract, expected = _TYPES[field.kind]
            if not isinstance(value, abstract) or (field.kind is not bool and isinstance(value, bool)):
                raise SettingsError(f"{field.name} must be {expected}, found {value!r:.60}")
            if not isinstance(value, (bool, int, float, str)):
                object.__setattr__(settings, field.name, field.kind(value))
        if field.bounds is not None and value not in field.bounds:
            finite = "" if math.isfinite(value) else " and finite"
            raise SettingsError(f"{field.name} must be {field.bounds}{finite}, found {value}")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse what is none of the choices."""
    if value not in choices:
        raise SettingsError(f"{name} must be one of {', '.join(choices)}, found {value!r}")


def usable_threads(threads: int) -> int:
    """So many of the threads as there are processors for this process: more would wait for each other."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return min(threads, len(os.sched_getaffinity(0)))
    return min(threads, os.cpu_count() or 1)


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


def model_config(settings: ModelSizes, n_items: int, max_length: int | None = None) -> SASRecConfig:
    """Sizes of the model for `n_items`; `max_length` in place of that of the settings, where it is given.

    Raises
    ------
    SettingsError
        If they do not go together.
    """
    s, length = settings, settings.max_length if max_length is None else max_length
    try:
        return SASRecConfig(n_items, s.hidden, s.n_blocks, s.n_heads, length, s.dropout)
    except ValueError as error:
        raise SettingsError(str(error)) from None
