"""Run the experiments behind the claims of a plugin: ``python tools/claims.py <plugin>``; see tools/experiments."""

from experiments.frame.experiment import build_parser, run
from experiments.frame.rooms import load

if __name__ == '__main__':
    arguments = build_parser().parse_args()
    run(load(arguments.plugin, 'claims').EXPERIMENT, arguments)
