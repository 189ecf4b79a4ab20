"""Scoring history files: settings, batches of records, output lines, processes, and the job over them."""

from llmcdsr_lite.score.job import score_histories
from llmcdsr_lite.score.settings import ScoreSettings, ScoreSummary

__all__ = ["ScoreSettings", "ScoreSummary", "score_histories"]
