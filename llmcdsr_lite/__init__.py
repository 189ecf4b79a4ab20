"""Cross-domain sequential recommendation on a plain CPU: no GPU, no PyTorch.

>>> from llmcdsr_lite import Recommender
>>> recommender = Recommender.load("models/demo")
"""

import logging

from llmcdsr_lite.errors import (
    BundleError,
    DataError,
    LlmcdsrError,
    MissingDependencyError,
    UnknownItemError,
    UsageError,
    WorkerError,
)
from llmcdsr_lite.new_items import NewItem
from llmcdsr_lite.recommender import Recommender
from llmcdsr_lite.results import (
    BatchRecommendations,
    Explanation,
    Influence,
    PseudoItem,
    Recommendation,
    Recommendations,
)
from llmcdsr_lite.version import __version__

logging.getLogger("llmcdsr_lite").addHandler(logging.NullHandler())  # silent, unless the application asks

__all__ = [
    "BatchRecommendations",
    "BundleError",
    "DataError",
    "Explanation",
    "Influence",
    "LlmcdsrError",
    "MissingDependencyError",
    "NewItem",
    "PseudoItem",
    "Recommendation",
    "Recommendations",
    "Recommender",
    "UnknownItemError",
    "UsageError",
    "WorkerError",
    "__version__",
]
