"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.hgkd <verb>``."""

from __future__ import annotations

import argparse
import sys

from . import export


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.hgkd', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    text = 'pretrained student -> plain ResNet for mmpretrain, mmdet, mmseg, torchvision or timm'
    convert = verbs.add_parser('export', help=text, description=text)
    export.add_arguments(convert)
    convert.set_defaults(run=export.run)
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
