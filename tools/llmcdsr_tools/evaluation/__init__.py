"""Evaluation: how well held-out items are ranked, by models and by baselines of a few lines."""
