"""What docs/fit.md says, as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from llmcdsr_tools.cli.commands import cli
from llmcdsr_tools.cli.pipeline import fit, pretrain
from llmcdsr_tools.pipeline.config_file import load_config
from llmcdsr_tools.word_vectors import DIMENSION, N_BUCKETS

DOCS = (Path(__file__).parents[3] / "docs" / "fit.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE)


def test_the_configuration_is_one(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "fit.toml").write_text(text, encoding="utf-8")
    assert load_config(tmp_path / "fit.toml").data.items == tmp_path / "items.csv"


def test_the_commands_are_ones_and_their_options_too() -> None:
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
    assert {line[1] for line in lines} == {"fit", "pretrain"}
    assert {fit, pretrain} <= set(cli.commands.values())
    known = {option for command in (fit, pretrain) for p in command.params for option in p.opts}
    assert {word for line in lines for word in line if word.startswith("-")} <= known


def test_numbers_are_those_of_the_code() -> None:
    assert f"{N_BUCKETS:,}" in DOCS
    assert f"reduced to {DIMENSION} by" in DOCS
