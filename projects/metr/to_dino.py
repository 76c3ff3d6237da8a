"""``python -m mmplugins.metr to-dino``: pretrained METR weights for a plain mmdet DINO or Deformable DETR.

The paper says that the weights help "other DETR-like detectors" (arXiv 2304.03580, abstract). Backbone, neck, encoder,
decoder, box branches and the proposals' memory transform are kept; text bank, category extraction, classifiers,
denoising and query embedding depend on the vocabulary or on METR's groups, and the new detector starts its own. Which
parts transfer is our decision; the released code finetunes METR itself.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from torch import Tensor

from ..utils.atomic import replacing, write_text
from ..utils.checkpoint import load_without_code
from .head import FOCAL_COSTS, FOCAL_LOSS
from .positions import matched

DROPPED = ('text_bank.', 'cem.', 'bbox_head.cls_branches.', 'dn_query_generator.', 'query_embedding.')
HOSTS = {'METR': ('DINO', 'DINOHead'), 'DeformableMETR': ('DeformableDETR', 'DeformableDETRHead')}
POSITIONS = 'decoder.ref_point_head.layers.0.weight'
METR_ONLY = ('vocabulary', 'text_bank', 'cem', 'num_categories', 'mask_unannotated', 'with_cp')


def host_config(model: ConfigDict, num_classes: int, num_queries: int) -> ConfigDict:
    """Return the config of the host's detector that a METR config stands on.

    The backbone has no ``init_cfg``: its weights are among the converted ones. A DINO has denoising, because mmdet's
    does not train without: that of METR, or else 100 queries as in mmdet's configs.

    Args:
        model: ``model`` of a METR config.
        num_classes: Classes of the new label set.
        num_queries: Queries an image (DINO: 900; Deformable DETR: 300).

    Raises:
        ValueError: ``model`` is not a METR.
    """
    if model.get('type') not in HOSTS:
        raise ValueError(f'the config has a model of type {model.get("type")!r}, not one of {sorted(HOSTS)}')
    detector, head_type = HOSTS[model.type]
    head = without(model.bbox_head, 'share_layers', 'num_cls_fcs', 'prior_prob')
    head.setdefault('loss_cls', FOCAL_LOSS)
    host = dict(
        without(model, *METR_ONLY),
        type=detector,
        num_queries=num_queries,
        with_box_refine=True,
        as_two_stage=True,
        backbone=without(model.backbone, 'init_cfg'),
        bbox_head=dict(head, type=head_type, num_classes=num_classes, sync_cls_avg_factor=True),
        train_cfg=dict(assigner=dict(type='HungarianAssigner', match_costs=FOCAL_COSTS)),
        test_cfg=dict(max_per_img=min(300, num_queries * num_classes)),
    )
    if detector == 'DINO':
        dn_cfg = model.get('dn_cfg') or dict(group_cfg=dict(num_dn_queries=100))
        host['dn_cfg'] = dict(label_noise_scale=0.5, **dn_cfg)
    return ConfigDict(host)


def without(cfg: Mapping, *keys: str) -> dict:
    """Return a copy of a part of a config that lacks some keys."""
    return {key: value for key, value in cfg.items() if key not in keys}


def imports_without_metr(cfg: Config) -> dict:
    """Return ``custom_imports`` for the new config if it needs any, such as that of the backbone's plugin."""
    custom = cfg.get('custom_imports', {})
    imports = custom.get('imports', [])
    imports = [imports] if isinstance(imports, str) else imports
    others = [name for name in imports if name != 'mmplugins.metr']
    return dict(custom_imports=dict(custom, imports=others)) if others else {}


def convert(state_dict: dict[str, Tensor], model: ConfigDict) -> dict[str, Tensor]:
    """Return the weights that the host's detector takes over, checked against the built detector.

    Args:
        state_dict: Of METR.
        model: From :func:`host_config`.

    Raises:
        ValueError: A weight does not fit the host, or the host lacks one that should have come from METR: the config is
            not that of the checkpoint.
    """
    init_default_scope('mmdet')
    # A copy: building writes into the config, and what it writes cannot be built again.
    expected = {key: value.shape for key, value in MODELS.build(copy.deepcopy(model)).state_dict().items()}
    kept = {key: value for key, value in state_dict.items() if not key.startswith(DROPPED)}
    if POSITIONS in kept:
        kept[POSITIONS] = matched(kept[POSITIONS], expected[POSITIONS][1])
    wrong = [key for key, value in kept.items() if expected.get(key) != value.shape]
    absent = [key for key in expected if key not in kept and not key.startswith(DROPPED)]
    if wrong or absent:
        raise ValueError(
            f'config and checkpoint do not belong together: {wrong[:5]} do not fit, {absent[:5]} are missing'
        )
    return kept


def load_state_dict(path: str | os.PathLike) -> dict[str, Tensor]:
    """Read the weights of an mmengine checkpoint without running code from it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds more than tensors and mmengine's logs, or no ``state_dict``.
    """
    checkpoint = load_without_code(path)
    if not isinstance(checkpoint, dict) or 'state_dict' not in checkpoint:
        raise ValueError(f'{path} holds no `state_dict`; it is not a checkpoint of mmengine')
    return checkpoint['state_dict']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument('config', help='config of the METR that was trained')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('--num-classes', type=int, required=True, help='classes of the new label set')
    parser.add_argument('--num-queries', type=int, default=900, help='queries an image (default: %(default)s)')
    parser.add_argument('--out', required=True, help='file of the weights, x.pth; the model config is written to x.py')


def run(args: argparse.Namespace) -> None:
    """Convert, write both files, say how to use them."""
    cfg = Config.fromfile(args.config)
    model = host_config(cfg.model, args.num_classes, args.num_queries)
    weights = convert(load_state_dict(args.checkpoint), model)
    out = Path(args.out).resolve()
    if out.suffix != '.pth':
        raise ValueError(f'--out must end in .pth, got {args.out}')
    with replacing(out) as temporary:
        torch.save(dict(state_dict=weights, meta={}), temporary)
    # Not `load_from`: mmengine refuses a key that two files in `_base_` have, and default_runtime.py has it.
    write_text(out.with_suffix('.py'), Config(dict(model=model, **imports_without_metr(cfg))).pretty_text)
    print(f'{len(weights)} weights for {model.type}: {out}')
    print(f'model config: {out.with_suffix(".py")}; name it in `_base_` beside your data set, schedule and runtime')
    if model.type == 'DINO' and not cfg.model.get('dn_cfg'):
        print("METR had no denoising, mmdet's DINO does not train without: see `dn_cfg` there")
    print(f'and write below: load_from = {str(out)!r}')
