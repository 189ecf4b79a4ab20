"""The whole pipeline, `fit`: from interactions to a bundle and a report, as one configuration says."""

from llmcdsr_tools.pipeline.fitting import FitResult, fit

__all__ = ["FitResult", "fit"]
