"""Scoring history files: batches of records, their lines, processes, the output, and the job over them."""

from llmcdsr_lite.score.job import ScoreSettings, ScoreSummary, score_histories

__all__ = ["ScoreSettings", "ScoreSummary", "score_histories"]
