"""What the data sets of a config hold, and which of their names share a row."""

from __future__ import annotations

import argparse
import os
from collections import Counter

from mmdet.registry import DATASETS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from ..data.datasets import MultiVocabConcatDataset, innermost
from ..text.vocabulary import Vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the part."""
    parser.add_argument('config', help='config of a training on several sets')


def run(args: argparse.Namespace) -> None:
    """Print counts of the training and validation sets, then every name that several sets share.

    Parsed samples are kept where the config says ``cache_dir``, so that the training finds them.

    Raises:
        ValueError: The config trains or validates on another data set than :class:`MultiVocabConcatDataset`, or does
            not train.
    """
    cfg = Config.fromfile(args.config)
    register_all_modules()
    if cfg.get('train_dataloader') is None:
        raise ValueError(f'{args.config} has no train_dataloader: give the config of a training')
    for loader in ('train_dataloader', 'val_dataloader'):
        if cfg.get(loader) is None:
            print(f'{loader}: none')
            continue
        dataset = DATASETS.build(cfg[loader].dataset)
        if not isinstance(dataset, MultiVocabConcatDataset):
            raise ValueError(f'{loader} of {args.config} is a {type(dataset).__name__}, no MultiVocabConcatDataset')
        print(f'{loader}: {len(dataset)} samples of {len(dataset.vocabulary)} names')
        for name, part in zip(dataset.dataset_names, dataset.datasets, strict=True):
            print(f'  {name}: {count(part)}')
    print(shared_names(dataset.vocabulary))


def count(dataset: BaseDataset) -> str:
    """Return the counts of a data set, inside any wrappers, in words."""
    inner = innermost(dataset)
    boxes, absent = Counter(), 0
    for index in range(len(inner)):
        info = inner.get_data_info(index)
        boxes.update(instance['bbox_label'] for instance in info['instances'])
        absent += not os.path.isfile(info['img_path'])
    names = len(inner.metainfo['classes'])
    text = (
        f'{len(inner)} images, {absent} of them in no folder, {sum(boxes.values())} boxes, '
        f'{names} names, {names - len(boxes)} of them without a box'
    )
    if len(dataset) != len(inner):
        text += f'; {len(dataset)} samples after repetition'
    return text


def shared_names(vocabulary: Vocabulary) -> str:
    """Return every name that several sets share, with the sets, and what to do about names of two meanings."""
    sets = {}
    for dataset in vocabulary.datasets:
        for row in vocabulary.rows(dataset):
            sets.setdefault(row, []).append(dataset)
    shared = {vocabulary.names[row]: names for row, names in sorted(sets.items()) if len(names) > 1}
    if not shared:
        return 'no name is shared by several sets'
    lines = [f'  {name}: {", ".join(names)}' for name, names in shared.items()]
    return '\n'.join(
        [
            f'{len(shared)} names are shared by several sets and have one row each. Does each mean one thing?',
            *lines,
            "If not, give one set's name another: `aliases=dict(<set>={'<name>': '<name> (<meaning>)'})`.",
        ]
    )
