"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.dsnet <verb>``."""

import argparse
import sys

from mmplugins.utils.verbs import run_verb

from . import convert


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.dsnet', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    verb = verbs.add_parser('convert', help='public weights -> mmpretrain', description=convert.run.__doc__)
    convert.add_arguments(verb)
    verb.set_defaults(run=convert.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    return run_verb(build_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
