"""Checkpoints of CAE between this plugin, the authors' releases and timm: ``convert`` and ``export``."""

from __future__ import annotations

import argparse
import os

import torch
from torch import Tensor

from mmplugins.utils.atomic import replacing
from mmplugins.utils.weights import read_weights

from .layouts import encoder_of, from_ours, layout_of, to_ours


def write_weights(state: dict[str, Tensor], path: str | os.PathLike, layout: str) -> None:
    """Write weights the way readers of the layout expect them."""
    key = {'ours': 'state_dict', 'timm': None}.get(layout, 'model')
    state = {name: value.clone() for name, value in state.items()}  # views would save all of their storage
    with replacing(path) as temporary:
        torch.save({key: state} if key else state, temporary)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of both verbs."""
    parser.add_argument('source', help='checkpoint: ours, the authors’ (either release), or a ViT of timm')
    parser.add_argument('target', help='file to write')


def run_convert(args: argparse.Namespace) -> None:
    """Convert a whole checkpoint, or an encoder."""
    state = read_weights(args.source)
    found = layout_of(state)
    result = from_ours(to_ours(state, found), args.to)
    write_weights(result, args.target, args.to)
    print(f'{args.source} ({found}) -> {args.target} ({args.to}): {len(result)} weights')


def run_export(args: argparse.Namespace) -> None:
    """Write the encoder only."""
    result = from_ours(encoder_of(to_ours(read_weights(args.source))), args.to)
    write_weights(result, args.target, args.to)
    print(f'{args.source} -> {args.target} ({args.to}, encoder only): {len(result)} weights')
