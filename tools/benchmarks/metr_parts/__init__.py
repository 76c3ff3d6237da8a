"""Parts of ``tools/benchmarks/metr.py``."""
