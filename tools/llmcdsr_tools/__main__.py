"""``python -m llmcdsr_tools``: the command ``llmcdsr``."""

from llmcdsr_tools.console import main

main()
