"""The runtime's commands; those of the training side are in `llmcdsr_tools.cli`."""
