"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.hgkd <verb>``."""

from __future__ import annotations

import argparse
import sys

from mmplugins.utils.verbs import run_verb

from . import check
from .sparse import export


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.hgkd', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    text = 'encoder of a pretrained student -> plain network for mmpretrain, mmdet, mmseg, torchvision or timm'
    convert = verbs.add_parser('export', help=text, description=text)
    export.add_arguments(convert)
    convert.set_defaults(run=export.run)
    text = 'teacher, taps, grids, strides, what the teacher sees, and memory of a config, before it trains'
    look = verbs.add_parser('check', help=text, description=text)
    check.add_arguments(look)
    look.set_defaults(run=check.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    return run_verb(build_parser(), argv, also=(KeyError,))


if __name__ == '__main__':
    sys.exit(main())
