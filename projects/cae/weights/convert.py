"""Checkpoints of CAE between this plugin, the authors' releases, timm and transformers: ``convert``, ``export``."""

from __future__ import annotations

import argparse
import os

import torch

from mmplugins.utils.atomic import replacing

from .huggingface import write_folder
from .layouts import encoder_of, from_ours, to_ours
from .parts import State
from .start import read_model


def write_weights(state: State, path: str | os.PathLike, layout: str, num_heads: int | None = None) -> int:
    """Write weights with our names as those of another layout, the way its readers expect them; return how many.

    In a file of ours ``meta`` notes ``num_heads``, if it is known: no weight shows it.
    """
    if layout == 'hf':
        return write_folder(state, path, num_heads)
    state = from_ours(state, layout)
    state = {name: value.clone() for name, value in state.items()}  # views would save all of their storage
    contents = {'timm': state, 'ours': dict(state_dict=state, meta=dict(num_heads=num_heads) if num_heads else {})}
    with replacing(path) as temporary:
        torch.save(contents.get(layout, dict(model=state)), temporary)
    return len(state)


def add_arguments(parser: argparse.ArgumentParser, layouts: tuple[str, ...]) -> None:
    """Arguments of both verbs."""
    parser.add_argument('source', help='checkpoint of CAE (ours, the authors’), timm, MAE, DINO, BEiT, CLIP')
    parser.add_argument('target', help='file to write; with --to hf a folder')
    parser.add_argument('--to', choices=layouts, default='ours', help='names of the result (default: ours)')
    parser.add_argument('--num-heads', type=int, help='of the model, where neither the file nor its size tells it')


def run_convert(args: argparse.Namespace) -> None:
    """Convert a whole model, an encoder, or a classifier."""
    state, layout, num_heads = read_model(args.source, to_ours, args.num_heads)
    count = write_weights(state, args.target, args.to, num_heads)
    print(f'{args.source} ({layout}) -> {args.target} ({args.to}): {count} weights')


def run_export(args: argparse.Namespace) -> None:
    """Write the encoder only."""
    state, layout, num_heads = read_model(args.source, encoder_of, args.num_heads)
    count = write_weights(state, args.target, args.to, num_heads)
    print(f'{args.source} ({layout}) -> {args.target} ({args.to}, encoder only): {count} weights')
