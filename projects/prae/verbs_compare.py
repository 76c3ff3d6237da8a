"""The verb ``compare``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..utils.atomic import write_text
from .compare import compare_set, make_folds, markdown
from .inputs import parse_named, read_annotations, read_detections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``compare``."""
    parser.add_argument('--ann', help='COCO annotation file, or folder of VOC XML')
    parser.add_argument('--det', action='append', metavar='NAME=FILE', help='once for each detector')
    text = 'instead of --ann and --det: a folder with gt.json[.gz] and <name>.bbox.json[.gz]'
    parser.add_argument('--folder', type=Path, help=text)
    text = 'detectors of a column, once for each; default: one column of all'
    parser.add_argument('--set', action='append', metavar='LABEL=NAME,NAME', help=text)
    parser.add_argument('--seed', type=int, default=0, help='of the halves and of the bootstrap')
    parser.add_argument('--resamples', type=int, default=200, help='of the bootstrap (default 200); 0: no intervals')
    parser.add_argument('-o', '--out', help='JSON file with all numbers')


def run(args: argparse.Namespace) -> None:
    """Fit on one half of the images and test on the other, both ways; print mAP / AP50 of plain fusion and PRAE."""
    annotation, files = _files(args)
    sets = _sets(args.set, files)
    gt = read_annotations(annotation)
    if len(gt.dataset) < 4:
        raise ValueError(f'{annotation} has {len(gt.dataset)} images; at least 4 are needed for two halves')
    used = sorted({name for names in sets.values() for name in names})
    tables = {name: read_detections(files[name], gt.dataset, name) for name in used}
    folds = make_folds(gt, tables, args.seed)
    results = {
        label: compare_set(folds, names, resamples=args.resamples, seed=args.seed) for label, names in sets.items()
    }
    if args.out:
        write_text(args.out, json.dumps(dict(sets=sets, resamples=args.resamples, results=results), indent=1) + '\n')
    print(markdown(sets, results))


def _files(args: argparse.Namespace) -> tuple[str | Path, dict]:
    """Annotation file, and name to file of each detector."""
    if args.folder is None:
        if not args.ann or not args.det:
            raise ValueError('give --ann and --det, or --folder')
        return args.ann, parse_named(args.det)
    if args.ann or args.det:
        raise ValueError('--folder goes without --ann and --det')
    if not args.folder.is_dir():
        raise FileNotFoundError(f'folder {args.folder} does not exist')
    truth = [path for path in (args.folder / 'gt.json', args.folder / 'gt.json.gz') if path.is_file()]
    files = {path.name.partition('.bbox.json')[0]: path for path in sorted(args.folder.glob('*.bbox.json*'))}
    if not truth or not files:
        raise ValueError(f'{args.folder} needs gt.json or gt.json.gz, and <name>.bbox.json or .json.gz')
    return truth[0], files


def _sets(pairs: list[str] | None, files: dict) -> dict[str, list[str]]:
    """Label of each column to its detectors."""
    if not pairs:
        return {'all': list(files)}
    sets = {label: names.split(',') for label, names in parse_named(pairs).items()}
    for label, names in sets.items():
        unknown = sorted(set(names) - set(files))
        if unknown or len(set(names)) < len(names):
            raise ValueError(f'set {label}: {unknown or "a detector twice"}; there are {sorted(files)}')
    return sets
