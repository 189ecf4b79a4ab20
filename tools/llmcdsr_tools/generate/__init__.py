"""Stage `generate`: a language model writes names of items of a domain that a user lacks."""

from llmcdsr_tools.generate.stage import generate

__all__ = ["generate"]
