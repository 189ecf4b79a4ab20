"""The best items for a user representation: exactly, in two passes, or along a graph."""
