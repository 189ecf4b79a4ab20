"""Command lines run in the tests' process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from llmcdsr_tools.cli.commands import cli


def run(*arguments: str | Path, **options: Any) -> Result:
    result = CliRunner().invoke(cli, [str(a) for a in arguments], **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def ok(*arguments: str | Path, **options: Any) -> str:
    result = run(*arguments, **options)
    assert result.exit_code == 0, result.stderr
    return result.stdout
