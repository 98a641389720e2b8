"""Measurements: `python -m benchmarks.NAME` prints one JSON line; its peers are measured in the same run, in turn."""
