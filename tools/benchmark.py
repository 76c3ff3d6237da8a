"""Measure a plugin against its peers: ``python tools/benchmark.py <plugin>``; see tools/experiments."""

from experiments.frame.benchmark import build_parser, run
from experiments.frame.rooms import load

if __name__ == '__main__':
    arguments = build_parser().parse_args()
    run(load(arguments.plugin, 'benchmark').BENCHMARK, arguments)
