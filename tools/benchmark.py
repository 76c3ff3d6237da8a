"""Measure a plugin against its peers: ``python tools/benchmark.py <plugin>``; see tools/experiments."""

import importlib

from experiments.frame.benchmark import build_parser, run

if __name__ == '__main__':
    arguments = build_parser().parse_args()
    run(importlib.import_module(f'experiments.{arguments.plugin}.benchmark').BENCHMARK, arguments)
