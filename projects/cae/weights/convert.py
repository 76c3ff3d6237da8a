"""Checkpoints of CAE between this plugin, the authors' releases, timm and transformers: ``convert``, ``export``."""

from __future__ import annotations

import argparse
import os

import torch
from torch import Tensor

from mmplugins.utils.atomic import replacing
from mmplugins.utils.weights import read_weights

from .huggingface import write_folder
from .layouts import encoder_of, from_ours, layout_of, to_ours


def write_weights(state: dict[str, Tensor], path: str | os.PathLike, layout: str, num_heads: int | None = None) -> int:
    """Write weights with our names as those of another layout, the way its readers expect them; return how many."""
    if layout == 'hf':
        return write_folder(state, path, num_heads)
    state = from_ours(state, layout)
    key = {'ours': 'state_dict', 'timm': None}.get(layout, 'model')
    state = {name: value.clone() for name, value in state.items()}  # views would save all of their storage
    with replacing(path) as temporary:
        torch.save({key: state} if key else state, temporary)
    return len(state)


def add_arguments(parser: argparse.ArgumentParser, layouts: tuple[str, ...]) -> None:
    """Arguments of both verbs."""
    parser.add_argument('source', help='checkpoint of CAE (ours, the authors’), timm, MAE, DINO, BEiT, CLIP')
    parser.add_argument('target', help='file to write; with --to hf a folder')
    parser.add_argument('--to', choices=layouts, default='ours', help='names of the result (default: ours)')
    parser.add_argument('--num-heads', type=int, help='for --to hf, where it is not that of CAE’s sizes')


def run_convert(args: argparse.Namespace) -> None:
    """Convert a whole model, an encoder, or a classifier."""
    state = read_weights(args.source)
    found = layout_of(state)
    count = write_weights(to_ours(state, found), args.target, args.to, args.num_heads)
    print(f'{args.source} ({found}) -> {args.target} ({args.to}): {count} weights')


def run_export(args: argparse.Namespace) -> None:
    """Write the encoder only."""
    count = write_weights(encoder_of(to_ours(read_weights(args.source))), args.target, args.to, args.num_heads)
    print(f'{args.source} -> {args.target} ({args.to}, encoder only): {count} weights')
