"""``python -m llmcdsr_tools``: the command ``llmcdsr``."""

from llmcdsr_tools.cli import main

main()
