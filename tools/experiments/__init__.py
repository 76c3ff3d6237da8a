"""The experiments behind the numbers: a folder a plugin, written in the words of one frame.

``frame``: arms, seeds, processes, intervals, verdicts, measures and reports, the same for all. ``workloads``: small
data and training loops that several plugins use. ``<plugin>/claims.py`` holds an `Experiment`, run by ``python
tools/claims.py <plugin>``; ``<plugin>/benchmark.py`` a `Benchmark`, run by ``python tools/benchmark.py <plugin>``. The
frame imports no plugin, and a plugin's folder imports no other's.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
