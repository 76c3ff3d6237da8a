"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.metr <verb>``."""

from __future__ import annotations

import argparse
import sys

from . import embed_names, to_dino


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.metr', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    embed = verbs.add_parser('embed-names', help='names -> file of embeddings', description=embed_names.__doc__)
    embed_names.add_arguments(embed)
    embed.set_defaults(run=embed_names.run)
    help_to_dino = 'METR checkpoint -> config and weights of a plain mmdet detector'
    convert = verbs.add_parser('to-dino', help=help_to_dino, description=help_to_dino)
    to_dino.add_arguments(convert)
    convert.set_defaults(run=to_dino.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb; what the user can put right is said in one line, without a traceback."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, KeyError, OSError, ImportError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error  # str() of a KeyError puts it in quotes
        print(f'{args.verb}: {text}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
