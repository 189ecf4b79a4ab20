"""Stage `export`: a trained run becomes a bundle, with what pseudo items and new items need."""

from llmcdsr_tools.export.stage import export

__all__ = ["export"]
