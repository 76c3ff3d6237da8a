"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.its_maml <verb>``."""

from __future__ import annotations

import argparse
import sys

from mmplugins.utils.verbs import run_verb

from .verbs import evaluation, predict, report, sweep, view


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.its_maml', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    for name, module in dict(test=evaluation, predict=predict, sweep=sweep, report=report, view=view).items():
        verb = verbs.add_parser(name, help=module.__doc__.splitlines()[0], description=module.__doc__)
        module.add_arguments(verb)
        verb.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    return run_verb(build_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
