"""Benchmark of the runtime: every configuration in a process of its own, baselines in the same run."""
