"""Run the experiments behind the claims of a plugin: ``python tools/claims.py <plugin>``; see tools/experiments."""

import importlib

from experiments.frame.experiment import build_parser, run

if __name__ == '__main__':
    arguments = build_parser().parse_args()
    run(importlib.import_module(f'experiments.{arguments.plugin}.claims').EXPERIMENT, arguments)
