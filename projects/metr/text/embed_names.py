"""Turn class names into a file of embeddings, once, with a language model from local files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np

from .backends import BACKENDS, default_template, encode_texts
from .embeddings import NameEmbeddings, check_distinct, load_embeddings, save_embeddings
from .vocabulary import normalize_name

BUILTIN = {
    'coco': ('coco',),
    'voc': ('voc',),
    'objects365': ('objects365v1', 'objects365v2'),
    'openimages': ('oid_v6', 'oid_challenge'),
}
"""Dataset to the names by which ``mmdet.evaluation.get_classes`` knows its versions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb ``embed-names``."""
    names = parser.add_argument_group('names: any of these, together')
    names.add_argument('--names', nargs='+', default=[], metavar='NAME', help='class names')
    names.add_argument('--names-file', nargs='+', default=[], metavar='TXT', help='text files, one name a line')
    names.add_argument('--annotations', nargs='+', default=[], metavar='JSON', help='COCO files: their categories')
    names.add_argument('--builtin', nargs='+', default=[], choices=sorted(BUILTIN), help='class names known to mmdet')
    model = parser.add_argument_group('language model')
    model.add_argument('--backend', default='minilm', choices=sorted(BACKENDS), help='default: minilm')
    model.add_argument('--model', metavar='FOLDER', help='files of the model, for backends that carry none')
    model.add_argument('--template', help='what the model reads; default "a {name}" for clip, else "{name}"')
    output = parser.add_argument_group('file')
    output.add_argument('--out', required=True, metavar='NPZ', help='file to write')
    output.add_argument('--append', metavar='NPZ', help='file (or name of a packaged one) whose embeddings are kept')
    output.add_argument('--dtype', default='float16', choices=('float16', 'float32'), help='default: float16')


def run(args: argparse.Namespace) -> None:
    """Embed the names and write the file.

    Raises:
        ValueError: If there is no name, the template has no ``{name}``, two names get one vector, or the file to
            append to has another backend or template.
    """
    template = args.template if args.template is not None else default_template(args.backend)
    if '{name}' not in template:
        raise ValueError(f'--template must contain {{name}}, got {template!r}')
    names = collect_names(args)
    old = _file_to_append_to(args.append, args.backend, template) if args.append else None
    new = [name for name in names if old is None or name not in old]
    if not new and old is None:
        raise ValueError('no names: give --names, --names-file, --annotations or --builtin')
    parts = [] if old is None else [old.embeddings]
    if new:
        # replace, not format: a template may hold other braces
        texts = [template.replace('{name}', name) for name in new]
        parts.append(encode_texts(args.backend, texts, model=args.model).astype(args.dtype))
    if len({part.shape[1] for part in parts}) > 1:
        raise ValueError(f'{args.append} has {parts[0].shape[1]} channels, this model {parts[1].shape[1]}')
    values = np.concatenate(parts).astype(args.dtype)
    all_names = (old.names if old else ()) + tuple(new)
    check_distinct(all_names, values, args.out)
    save_embeddings(args.out, NameEmbeddings(all_names, values, args.backend, template, source=args.out))
    print(f'{args.out}: {len(all_names)} names ({len(new)} new), {values.shape[1]} channels, backend {args.backend}')


def collect_names(args: argparse.Namespace) -> list[str]:
    """Return all names that the options give: normalized, each once, in the order of the options."""
    names = [*args.names]
    for path in args.names_file:
        with open(path, encoding='utf-8') as file:
            names += file.read().splitlines()
    for path in args.annotations:
        names += _categories(path)
    names += _builtin_names(args.builtin)
    normalized = (normalize_name(name) for name in names)
    return list(dict.fromkeys(name for name in normalized if name))


def _categories(path: str) -> list[str]:
    """Return the category names of a COCO annotation file."""
    with open(path, encoding='utf-8') as file:
        try:
            return [category['name'] for category in json.load(file)['categories']]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{path} is not a COCO annotation file: {error}') from error


def _builtin_names(datasets: Sequence[str]) -> list[str]:
    """Return the class names of datasets that mmdet knows, all versions of each."""
    if not datasets:
        return []
    from mmdet.evaluation import get_classes  # takes seconds to import

    return [name for dataset in datasets for version in BUILTIN[dataset] for name in get_classes(version)]


def _file_to_append_to(path: str, backend: str, template: str) -> NameEmbeddings:
    """Load the file to append to; vectors of two models or templates are not comparable."""
    old = load_embeddings(path)
    if (old.backend, old.template) != (backend, template):
        raise ValueError(
            f'{path} was made with --backend {old.backend} --template "{old.template}", '
            f'this call has --backend {backend} --template "{template}"'
        )
    return old
