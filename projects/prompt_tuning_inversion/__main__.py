"""Edit images by prompts: ``python -m mmplugins.prompt_tuning_inversion <verb>``."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from mmplugins.utils.verbs import run_verb

from .pairs.lists import read_pairs
from .verbs.app import CSS, build_app
from .verbs.arguments import TUNED, add_editor_arguments, build_editor, unknown_words
from .verbs.batch import BatchRun
from .verbs.editing import edit_batch, make_loader, settings_of
from .verbs.report import identify, save_sample, summary_line


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs; each sets ``run`` to the function that does the job."""
    parser = argparse.ArgumentParser(prog='python -m mmplugins.prompt_tuning_inversion', description=__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    edit = verbs.add_parser('edit', help='one image, one prompt, several strengths')
    invert = verbs.add_parser('invert', help='only stage 1: fill the cache and look at the reconstruction')
    batch = verbs.add_parser('batch', help='a list of images with prompts, with a page that shows all')
    for one in (edit, invert):
        one.add_argument('--image', required=True)
        one.add_argument('--source-prompt', help='what is in the image; needed by null-text and --init source')
    edit.add_argument('--prompt', required=True, help='what the edited image should show')
    invert.add_argument('--prompt', default='', help='of the edit; needed with --init target or --tokens content')
    batch.add_argument('pairs', help='our JSON, mapping_file.json of PIE-Bench, or a folder of images and text files')
    batch.add_argument('--image-root', help='folder that paths in the JSON start from')
    batch.add_argument('--prompt', help='for the images of a folder that have no text file')
    batch.add_argument('--batch-size', type=int, default=1, help='images that are tuned together (default 1)')
    app = verbs.add_parser('app', help='a page in the browser')
    app.add_argument('--host', default='127.0.0.1', help='address to serve at (default 127.0.0.1: this machine alone)')
    app.add_argument('--port', type=int, help='default: the first free one from 7860 on')
    for one in (edit, invert, batch):
        one.add_argument('--out', default='pti_out', help='folder of the results (default pti_out)')
    for verb, run in ((edit, run_edit), (invert, run_invert), (batch, run_batch), (app, run_app)):
        add_editor_arguments(verb)
        verb.set_defaults(run=run)
    return parser


def say_model(args: argparse.Namespace, prompts: list[str]) -> None:
    """Say that the tiny model is used and what it cannot know."""
    if args.model == 'tiny':
        print('model: tiny (digits in six colors, 32 x 32); give --model FOLDER for Stable Diffusion')
    unknown = sorted({word for prompt in prompts for word in unknown_words(args.model, prompt)})
    if unknown:
        print(f'the tiny model does not know: {", ".join(unknown)}', file=sys.stderr)


def run_edit(args: argparse.Namespace) -> None:
    """Edit one image."""
    run_one(args, edits=True)


def run_invert(args: argparse.Namespace) -> None:
    """Invert one image."""
    if not args.prompt:
        if args.method in ('pti', 'ddim') and args.init == 'target':
            raise ValueError('--init target starts from the prompt of the edit: give --prompt, or leave --init out')
        if args.method in TUNED and args.tokens == 'content':
            raise ValueError('--tokens content tunes those of the prompt of the edit: give --prompt, or leave it out')
    run_one(args, edits=False)


def run_one(args: argparse.Namespace, edits: bool) -> None:
    """Invert an image, edit it if asked to, write the files."""
    say_model(args, [args.prompt])
    editor = build_editor(args)
    pair = dict(img_path=args.image, prompt=args.prompt, source_prompt=args.source_prompt)
    identity = identify(pair, settings_of(editor, args), editor.etas if edits else ())
    item = make_loader(editor, args)(dict(pair, sample_id=Path(args.image).stem, edit_type=''))
    (made,) = edit_batch(editor, [item], args, edits)
    report = save_sample(item['data_samples'], Path(args.out), dict(identity, **made))
    print(summary_line(report))
    print(f'written to {args.out}: compare.png, report.json')


def run_batch(args: argparse.Namespace) -> None:
    """Edit a list of images."""
    if args.batch_size < 1:
        raise ValueError(f'--batch-size must be at least 1, got {args.batch_size}')
    pairs = read_pairs(args.pairs, args.image_root, args.prompt)
    say_model(args, [pair['prompt'] for pair in pairs])
    failed = BatchRun(build_editor(args), pairs, args).run()
    print(f'{len(pairs) - len(failed)} of {len(pairs)} images edited: {Path(args.out, "index.html")}')
    if failed:
        raise ValueError(f'not edited: {", ".join(failed)}; the next run tries them again')


def run_app(args: argparse.Namespace) -> None:
    """Serve the page until it is interrupted."""
    say_model(args, [])
    build_app(args).launch(server_name=args.host, server_port=args.port, css=CSS)


def main(argv: list[str] | None = None) -> int:
    """Run one verb, with warnings as plain lines, and return the exit status."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: print(f'warning: {message}', file=sys.stderr)
            return run_verb(build_parser(), argv, also=(FloatingPointError,))
    except KeyboardInterrupt:
        print('interrupted; no unfinished inversion is in the cache', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
