"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.cae <verb>``."""

from __future__ import annotations

import argparse
import sys

from . import convert


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.cae', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    text = 'checkpoint of the authors or of timm -> ours, or ours -> theirs'
    verb = verbs.add_parser('convert', help=text, description=text)
    convert.add_arguments(verb)
    layouts = ('ours', 'authors', 'authors-old', 'timm')
    verb.add_argument('--to', choices=layouts, default='ours', help='names of the result (default: ours)')
    verb.set_defaults(run=convert.run_convert)
    text = 'pretraining checkpoint -> its encoder, for probes, fine-tuning, mmdet, mmseg, or timm'
    verb = verbs.add_parser('export', help=text, description=text)
    convert.add_arguments(verb)
    verb.add_argument('--to', choices=('ours', 'authors', 'timm'), default='ours', help='names (default: ours)')
    verb.set_defaults(run=convert.run_export)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb; what the user can put right is said in one line, without a traceback."""
    args = build_parser().parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f'{args.verb}: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
