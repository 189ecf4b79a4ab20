"""``python -m llmcdsr_tools.conformance FILE...``."""

from llmcdsr_tools.conformance.check import main

main()
