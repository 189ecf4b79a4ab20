from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from llmcdsr_lite.errors import SettingsError, UsageError
from llmcdsr_tools.cli.options import settings_of, settings_options
from llmcdsr_tools.data.ingest_settings import IngestSettings
from llmcdsr_tools.generate.generate_settings import GenerateSettings, PromptSettings, ServerSettings
from llmcdsr_tools.pretrain.pretrain_settings import PretrainSettings
from llmcdsr_tools.setting_fields import (
    Bounds,
    Count,
    Flag,
    Positive,
    Share,
    check_settings,
    from_keywords,
    setting_fields,
)
from llmcdsr_tools.train.recipes import TrainSettings

ALL = (TrainSettings, PretrainSettings, IngestSettings, ServerSettings, PromptSettings, GenerateSettings)


@dataclass(frozen=True)
class Tea:
    """Tea as it is made.

    Parameters
    ----------
    n_cups : int
        Of one pot, `heat` aside. More is not
        tea.
    heat : float, optional
        Degrees.
    share, rest : float
        Of milk.
    kind : {"green", "black"}
        Colour.
    sweet : bool
        With sugar.
    leaf : Path, optional
    """

    n_cups: Count = 2
    heat: Annotated[float, Bounds(50, 100)] | None = None
    share: Share = 0.5
    rest: Positive = 1.0
    kind: Literal["green", "black"] = "green"
    sweet: Annotated[bool, Flag("--sugar")] = False
    leaf: Path | None = None

    def __post_init__(self) -> None:
        check_settings(self)


def make(line: str, **how: Any) -> tuple[Result, dict[str, Any]]:
    given: dict[str, Any] = {}

    @click.command()
    @settings_options(Tea, **how)
    def command(**options: Any) -> None:
        given.update(options)

    return CliRunner().invoke(command, line.split()), given


def test_fields_say_what_the_class_says() -> None:
    by_name = {f.name: f for f in setting_fields(Tea)}
    assert list(by_name) == [f.name for f in fields(Tea)]
    assert by_name["n_cups"].text == "Of one pot, heat aside."
    assert by_name["n_cups"].flag == "--cups"
    assert by_name["sweet"].flag == "--sugar"
    assert (by_name["share"].text, by_name["rest"].text, by_name["leaf"].text) == ("Of milk.", "Of milk.", "")
    assert by_name["heat"].optional
    assert by_name["heat"].kind is float
    assert by_name["heat"].bounds == Bounds(50, 100)
    assert by_name["kind"].choices == ("green", "black")


def test_options_give_the_defaults_of_the_class() -> None:
    result, options = make("")
    assert result.exit_code == 0
    assert settings_of(Tea, options) == Tea()


def test_options_are_typed_and_within_bounds() -> None:
    line = "--cups 3 --heat 70 --kind black --sugar --leaf a/b --share 0.25"
    result, options = make(line)
    assert result.exit_code == 0
    assert settings_of(Tea, options) == Tea(3, 70.0, 0.25, kind="black", sweet=True, leaf=Path("a/b"))
    for wrong in ("--cups 0", "--heat 49", "--heat nan", "--share 1", "--rest 0", "--kind red", "--cups 1.5"):
        assert make(wrong)[0].exit_code == 2, wrong


def test_a_recipe_decides_what_is_not_given() -> None:
    how = {"recipes": {"strong": {"n_cups": 1, "sweet": True}}, "without": ("leaf",)}
    result, options = make("--rest 2", **how)
    assert result.exit_code == 0
    assert {name: value for name, value in options.items() if value is not None} == {"rest": 2.0}
    assert "leaf" not in options
    text = " ".join(make("--help", **how)[0].output.split())
    assert "Of one pot, heat aside. [default: 2; strong: 1]" in text
    assert "With sugar. [default: no; strong: yes]" in text


def test_names_may_have_an_ending() -> None:
    result, options = make("--cups-of-tea 5", suffix="-of-tea", only=("n_cups",))
    assert (result.exit_code, options) == (0, {"n_cups": 5})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_cups": 0}, "n_cups must be at least 1, found 0"),
        ({"n_cups": "3"}, "n_cups must be a whole number, found '3'"),
        ({"n_cups": 2.5}, "n_cups must be a whole number, found 2.5"),
        ({"n_cups": True}, "n_cups must be a whole number, found True"),
        ({"share": "0.5"}, "share must be a number, found '0.5'"),
        ({"rest": None}, "rest must be a number, found None"),
        ({"sweet": "no"}, "sweet must be True or False, found 'no'"),
        ({"heat": 101.0}, "heat must be at least 50 and at most 100, found 101.0"),
        ({"share": 1.0}, "share must be at least 0 and below 1, found 1.0"),
        ({"rest": math.inf}, "rest must be above 0 and finite, found inf"),
        ({"kind": "red"}, "kind must be one of green, black, found 'red'"),
    ],
)
def test_what_is_out_of_bounds_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Tea(**values)
    assert str(caught.value) == message


def test_numbers_of_numpy_become_pythons() -> None:
    tea = Tea(np.int64(3), np.float32(75), share=0)  # type: ignore[arg-type]
    assert json.dumps([tea.n_cups, tea.heat, tea.share]) == "[3, 75.0, 0]"


def test_an_unknown_keyword_is_answered_with_the_nearest() -> None:
    known = [field.name for field in fields(Tea)]
    assert from_keywords(Tea, {"n_cups": 3}, known) == Tea(3)
    with pytest.raises(UsageError, match="unexpected keyword argument 'cups'; did you mean 'n_cups'"):
        from_keywords(Tea, {"cups": 3}, known)
    with pytest.raises(UsageError, match="unexpected keyword argument 'milk'; known are heat, kind, leaf"):
        from_keywords(Tea, {"milk": 3}, known)


@given(
    st.floats(-10, 10) | st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(-3, 0),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
)
def test_bounds_are_those_of_the_inequality(
    value: float, low: int, high: int, low_open: bool, high_open: bool
) -> None:
    above = low < value if low_open else low <= value
    below = value < high if high_open else value <= high
    assert (value in Bounds(low, high, low_open, high_open)) == (above and below)


@pytest.mark.parametrize("cls", ALL)
def test_every_setting_has_help(cls: type[Any]) -> None:
    """A field that the docstring forgets would be an option without help."""
    assert all(
        field.text.endswith(".") for field in setting_fields(cls) if field.name not in ("prompt", "columns")
    )
