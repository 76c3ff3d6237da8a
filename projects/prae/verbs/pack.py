"""The verb ``pack``: mmdet's tools ask for one checkpoint, an ensemble has several."""

from __future__ import annotations

import argparse

from ...utils.atomic import replacing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pack``."""
    parser.add_argument('config', help='config with an EnsembleDetector')
    parser.add_argument('-o', '--out', required=True, help='checkpoint to write')


def run(args: argparse.Namespace) -> None:
    """Write the weights of all members of an ensemble, and its class names, as one checkpoint for mmdet's tools."""
    import torch
    from mmdet.registry import MODELS
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    cfg = Config.fromfile(args.config)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model)
    if not hasattr(model, 'load_members'):
        raise ValueError(f'{args.config} has a {type(model).__name__}, not an EnsembleDetector')
    model.load_members()
    meta = dict(dataset_meta=model.dataset_meta, cfg=cfg.pretty_text)
    with replacing(args.out) as temporary:
        torch.save(dict(meta=meta, state_dict=model.state_dict()), temporary)
    print(f'{len(model.members)} detectors written to {args.out}')
