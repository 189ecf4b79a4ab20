"""Texts to embeddings, and what is made of titles: encoders, and vectors of new items."""
