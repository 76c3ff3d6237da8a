"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.dsnet <verb>``."""

import argparse
import sys

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
    """Run one verb; what the user can put right is said in one line, without a traceback."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        print(f'{args.verb}: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
