"""Cross-domain sequential recommendation on a plain CPU: no GPU, no PyTorch.

>>> from llmcdsr_lite import Recommender
>>> recommender = Recommender.load("models/demo")
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

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
from llmcdsr_lite.request import ItemFilter
from llmcdsr_lite.results import (
    BatchRecommendations,
    Explanation,
    Influence,
    PseudoItem,
    Recommendation,
    Recommendations,
)
from llmcdsr_lite.version import __version__

if TYPE_CHECKING:
    from llmcdsr_lite.score import ScoreSettings, score_histories
    from llmcdsr_lite.score.scorer import Scorer
    from llmcdsr_lite.text.encoder import TextEncoder

logging.getLogger("llmcdsr_lite").addHandler(logging.NullHandler())  # silent, unless the application asks

__all__ = [
    "BatchRecommendations",
    "BundleError",
    "DataError",
    "Explanation",
    "Influence",
    "ItemFilter",
    "LlmcdsrError",
    "MissingDependencyError",
    "NewItem",
    "PseudoItem",
    "Recommendation",
    "Recommendations",
    "Recommender",
    "ScoreSettings",
    "Scorer",
    "TextEncoder",
    "UnknownItemError",
    "UsageError",
    "WorkerError",
    "__version__",
    "score_histories",
]

_LAZY = {  # by their modules: importing the package does not import these
    "ScoreSettings": "score",
    "Scorer": "score.scorer",
    "TextEncoder": "text.encoder",
    "score_histories": "score",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
