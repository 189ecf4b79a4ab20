"""The mix of experts: what is added to the scores of the sequence model, and with what weight."""
