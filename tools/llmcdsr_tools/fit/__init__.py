"""The whole pipeline, `fit`: from interactions to a bundle and a report, as one configuration says."""

from llmcdsr_tools.fit.stage import fit

__all__ = ["fit"]
