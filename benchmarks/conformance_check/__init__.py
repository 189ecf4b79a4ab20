"""Check of the NumPy models against numbers of the official implementation."""
