"""How a bundle is made, a module or a folder a stage.

``ingest`` (`data`), ``neighbours`` or ``generate``, ``embed``, ``embed_names``, ``pretrain``, ``train``,
``evaluate``, ``export``, ``refit``, ``index``; ``fit`` (`pipeline`) is all of them. What the stages share
stands beside them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcdsr_tools.data.dataset import Dataset
    from llmcdsr_tools.data.dataset_folder import load_dataset
    from llmcdsr_tools.data.sources import Query
    from llmcdsr_tools.pipeline.fitting import FitResult, fit
    from llmcdsr_tools.word_vectors import WordEncoder

__all__ = ["Dataset", "FitResult", "Query", "WordEncoder", "fit", "load_dataset"]

_MODULES = {  # importing the package imports none of these
    "Dataset": "data.dataset",
    "FitResult": "pipeline.fitting",
    "Query": "data.sources",
    "WordEncoder": "word_vectors",
    "fit": "pipeline.fitting",
    "load_dataset": "data.dataset_folder",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
