"""The console command ``llmcdsr``: these modules add their commands."""

from __future__ import annotations

import llmcdsr_lite.cli.new_items  # noqa: F401
import llmcdsr_tools.cli.data
import llmcdsr_tools.cli.evaluation
import llmcdsr_tools.cli.export
import llmcdsr_tools.cli.generation
import llmcdsr_tools.cli.names
import llmcdsr_tools.cli.pipeline
import llmcdsr_tools.cli.search_graphs
import llmcdsr_tools.cli.training  # noqa: F401
from llmcdsr_lite.cli.commands import cli


def main() -> None:
    """Run the command line."""
    cli()
