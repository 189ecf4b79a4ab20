"""The NumPy models: each formula once, forward and backward beside each other."""
