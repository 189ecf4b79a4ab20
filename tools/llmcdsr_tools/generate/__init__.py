"""Stage `generate`: a language model writes names of items of the other domain."""

from llmcdsr_tools.generate.stage import generate

__all__ = ["generate"]
