"""Jobs of the plugin that a user runs from anywhere: ``python -m mmplugins.cae <verb>``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmplugins.utils.verbs import run_verb

from .targets.codebook import fit_codebook
from .weights import convert

IMAGES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


def run_fit(args: argparse.Namespace) -> None:
    """Fit a codebook to the images of a folder."""
    files = sorted(path for path in args.folder.rglob('*') if path.suffix.lower() in IMAGES)
    if not files:
        raise ValueError(f'no images in {args.folder}')
    if len(args.img_size) > 2:
        raise ValueError(f'--img-size takes a height and a width, or one number for both, got {args.img_size}')
    size = tuple(args.img_size * 2 if len(args.img_size) == 1 else args.img_size)
    centers = fit_codebook(files, args.out, args.num_tokens, args.patch_size, size, args.window, seed=args.seed)
    print(f'{len(centers)} tokens of {len(files)} images -> {args.out.with_suffix(".npz")}')


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.cae', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    text = 'checkpoint of CAE, timm, BEiT of transformers and others -> ours, or ours -> theirs'
    verb = verbs.add_parser('convert', help=text, description=text)
    convert.add_arguments(verb, ('ours', 'authors', 'authors-old', 'timm', 'hf'))
    verb.set_defaults(run=convert.run_convert)
    text = 'checkpoint -> its encoder, for probes, fine-tuning, mmdet, mmseg, timm, or transformers'
    verb = verbs.add_parser('export', help=text, description=text)
    convert.add_arguments(verb, ('ours', 'authors', 'timm', 'hf'))
    verb.set_defaults(run=convert.run_export)
    text = 'images -> codebook of their patches (k-means), a target of CAE that needs no download'
    verb = verbs.add_parser('fit-codebook', help=text, description=text)
    verb.add_argument('folder', type=Path, help='images, also in folders below')
    verb.add_argument('out', type=Path, help='the .npz to write')
    verb.add_argument('--num-tokens', type=int, default=128, help='num_classes of the neck (default: 128)')
    verb.add_argument('--patch-size', type=int, default=16, help='pixels (default: 16)')
    text = 'images are resized to this first (default: 224)'
    verb.add_argument('--img-size', type=int, nargs='+', default=[224], metavar='H', help=text)
    verb.add_argument('--window', type=int, help='pixels around a patch that count (default: the patch)')
    verb.add_argument('--seed', type=int, default=0)
    verb.set_defaults(run=run_fit)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    return run_verb(build_parser(), argv)


if __name__ == '__main__':
    sys.exit(main())
