"""How a bundle is made, a module or a folder a stage.

``ingest``, ``neighbours`` or ``generate``, ``embed``, ``embed_names``, ``pretrain``, ``train``, ``evaluate``,
``export``, ``index``; ``fit`` is all of them. What the stages share stands beside them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmcdsr_tools.dataset import Dataset, load_dataset

__all__ = ["Dataset", "load_dataset"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmcdsr_tools import dataset

    return getattr(dataset, name)
