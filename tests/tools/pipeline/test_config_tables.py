from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from llmcdsr_lite.errors import DataError
from llmcdsr_tools.pipeline.config_tables import check_keys, read_table


@dataclass(frozen=True)
class Inner:
    word: str = "w"


@dataclass(frozen=True)
class Settings:
    count: int
    rate: float = 0.5
    flag: bool = False
    name: str | None = None
    loss: Literal["bce", "softmax"] = "bce"
    pair: tuple[str, str] | None = None
    rates: tuple[float, ...] = ()
    file: Path | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise DataError(f"count must be at least 0, found {self.count}")


def read(toml: str) -> Any:
    return read_table(Settings, tomllib.loads(toml), "f.toml [t]", Path("/base"))


def test_what_is_left_out_keeps_its_default() -> None:
    assert read("count = 3") == Settings(3)


def test_every_kind_of_value() -> None:
    found = read(
        'count = 1\nrate = 2\nflag = true\nname = "n"\nloss = "softmax"\npair = ["a", "b"]\n'
        'rates = [1, 0.5]\nfile = "x/y"\ninner = {word = "v"}'
    )
    assert found == Settings(
        1, 2.0, True, "n", "softmax", ("a", "b"), (1.0, 0.5), Path("/base/x/y"), Inner("v")
    )
    assert type(found.rate) is float
    assert all(type(r) is float for r in found.rates)
    assert read('count = 1\nfile = "/elsewhere"').file == Path("/elsewhere")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("", "f.toml [t]: key 'count' is missing"),
        ("count = 1\ncuont = 2", "f.toml [t]: unknown key 'cuont'; did you mean 'count'?"),
        ("count = 1\nRATE = 2.0", "unknown key 'RATE'"),
        ("count = 1.0", "f.toml [t] count: expected a whole number, found 1.0"),
        ("count = true", "expected a whole number, found True"),
        ('count = 1\nrate = "fast"', "f.toml [t] rate: expected a number, found 'fast'"),
        ("count = 1\nrate = true", "expected a number, found True"),
        ("count = 1\nflag = 1", "expected true or false, found 1"),
        ("count = 1\nname = 5", "expected a string, found 5"),
        ('count = 1\nloss = "hinge"', "f.toml [t] loss: expected one of 'bce', 'softmax', found 'hinge'"),
        ("count = 1\nloss = 1", "expected one of 'bce', 'softmax', found 1"),
        ('count = 1\npair = ["a"]', "expected a list of 2, found ['a']"),
        ('count = 1\npair = "ab"', "expected a list, found 'ab'"),
        ("count = 1\npair = [1, 2]", "f.toml [t] pair: expected a string, found 1"),
        ("count = 1\nfile = 3", "expected a path, found 3"),
        ('count = 1\nfile = ""', "expected a path, found ''"),
        ("count = 1\ninner = 3", "f.toml [t] inner: expected a table, found 3"),
        ("count = 1\ninner = {wrod = 'x'}", "f.toml [t] inner: unknown key 'wrod'; did you mean 'word'?"),
        ("count = -1", "f.toml [t]: count must be at least 0, found -1"),
    ],
)
def test_what_cannot_be_meant_is_named(toml: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        read(toml)
    assert message in str(caught.value)


def test_the_nearest_key_is_named_however_far() -> None:
    with pytest.raises(DataError, match="unknown key 'zzz'; did you mean 'a'"):
        check_keys({"zzz": 1}, ["a"], "f")
    check_keys({"a": 1}, ["a", "b"], "f")
