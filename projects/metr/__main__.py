"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.metr <verb>``."""

from __future__ import annotations

import argparse
import sys

from mmplugins.utils.verbs import run_verb

from . import from_dino, to_dino
from .prepare import verb as prepare
from .text import embed_names


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.metr', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    embed = verbs.add_parser('embed-names', help='names -> file of embeddings', description=embed_names.__doc__)
    embed_names.add_arguments(embed)
    embed.set_defaults(run=embed_names.run)
    data = verbs.add_parser(
        'prepare', help='published annotations -> what a training reads', description=prepare.__doc__
    )
    prepare.add_arguments(data)
    help_to_dino = 'METR checkpoint -> config and weights of a plain mmdet detector'
    convert = verbs.add_parser('to-dino', help=help_to_dino, description=help_to_dino)
    to_dino.add_arguments(convert)
    convert.set_defaults(run=to_dino.run)
    help_from_dino = "checkpoint of mmdet's DINO -> what METR starts from"
    start = verbs.add_parser('from-dino', help=help_from_dino, description=help_from_dino)
    from_dino.add_arguments(start)
    start.set_defaults(run=from_dino.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    return run_verb(build_parser(), argv, also=(KeyError,))


if __name__ == '__main__':
    sys.exit(main())
