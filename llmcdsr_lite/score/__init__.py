"""Scoring in bulk: history files, in one process or several, and the columns that Ray and Spark hand out."""

from llmcdsr_lite.score.job import ScoreSettings, ScoreSummary, score_histories

__all__ = ["ScoreSettings", "ScoreSummary", "score_histories"]
