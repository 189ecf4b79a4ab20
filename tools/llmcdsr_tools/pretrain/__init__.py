"""Stage `pretrain`: item vectors and a projection of text into their space, for each domain."""

from llmcdsr_tools.pretrain.settings import PretrainSettings
from llmcdsr_tools.pretrain.stage import pretrain

__all__ = ["PretrainSettings", "pretrain"]
