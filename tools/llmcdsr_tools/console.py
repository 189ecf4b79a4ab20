"""The console command: says what is missing where the package was installed with NumPy alone."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, if click is there to do it."""
    try:
        import click  # noqa: F401
    except ModuleNotFoundError:
        sys.exit("llmcdsr: the command line needs click: pip install click (the Python API does not)")
    from llmcdsr_tools.cli.commands import main as run

    run()
