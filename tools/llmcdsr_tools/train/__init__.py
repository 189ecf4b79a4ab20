"""Stage `train`: SASRec on the histories of a data set, with pseudo items and meta-learning if asked to."""

from llmcdsr_tools.train.settings import TrainSettings
from llmcdsr_tools.train.stage import TrainResult, train

__all__ = ["TrainResult", "TrainSettings", "train"]
