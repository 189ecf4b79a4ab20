"""``python -m llmcdsr_tools.demo models``."""

from llmcdsr_tools.demo.model import main

main()
