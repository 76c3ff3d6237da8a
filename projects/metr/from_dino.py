"""``python -m mmplugins.metr from-dino``: a published DINO as the start of METR.

Backbone, neck, encoder, decoder, box branches and the proposals' memory transform are taken over. The CEM, the text
bank, the classifiers and the queries of a category start anew: DINO has nothing of the kind.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from ..utils.atomic import replacing
from .positions import matched
from .to_dino import DROPPED, POSITIONS, load_state_dict


def convert(state_dict: dict[str, Tensor], metr: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a DINO that METR takes over.

    Args:
        state_dict: Of mmdet's DINO.
        metr: The detector that is to start from them.

    Raises:
        ValueError: A weight does not fit: the config has another backbone, width or number of layers.
    """
    expected = {key: value.shape for key, value in metr.state_dict().items() if not key.startswith(DROPPED)}
    kept = {key: value for key, value in state_dict.items() if not key.startswith(DROPPED)}
    if POSITIONS in kept and POSITIONS in expected:
        kept[POSITIONS] = matched(kept[POSITIONS], expected[POSITIONS][1])
    wrong = [key for key, value in kept.items() if expected.get(key) != value.shape]
    absent = [key for key in expected if key not in kept]
    if wrong or absent:
        raise ValueError(
            f'this DINO is not the base of the config: {wrong[:5]} do not fit, {absent[:5]} are missing from it'
        )
    return kept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument('config', help='config of the METR that is to be trained')
    parser.add_argument('checkpoint', help="of mmdet's DINO")
    parser.add_argument('--out', required=True, help='file of the weights, for `load_from`')


def run(args: argparse.Namespace) -> None:
    """Convert, write, say what was taken and what starts anew."""
    init_default_scope('mmdet')
    metr = MODELS.build(copy.deepcopy(Config.fromfile(args.config).model))
    state_dict = load_state_dict(args.checkpoint)
    weights = convert(state_dict, metr)
    out = Path(args.out).resolve()
    with replacing(out) as temporary:
        torch.save(dict(state_dict=weights, meta={}), temporary)
    anew = sorted({key.split('.')[0] if '.' in key else key for key in metr.state_dict() if key not in weights})
    print(f'{len(weights)} weights of DINO: {out}; load_from="{out}"')
    print(f'start anew: weights of {", ".join(anew)}; of bbox_head the classifiers')
    if POSITIONS in weights and weights[POSITIONS].shape != state_dict[POSITIONS].shape:
        print(f"{POSITIONS} lost every second frequency: it is of onedl-mmdetection's DINO, the paper has the others")
    if metr.bbox_head.share_layers:
        print('the layers share one box branch, that of the last layer of DINO; bbox_head.share_layers=False keeps all')
