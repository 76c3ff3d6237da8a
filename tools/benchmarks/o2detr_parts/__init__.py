"""Parts of ``tools/benchmarks/o2detr.py``."""
