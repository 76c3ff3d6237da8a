"""``python -m mmplugins.hgkd export``: the encoder of a pretrained student as a plain ResNet.

Not in the papers. The student's layers keep the names of mmpretrain's ``ResNet``, so no weight is changed; what is
done here is to leave out what belongs to the pretraining, to check that the rest fills a ResNet of the target without
a hole, and to write it in the layout that the target reads. Running statistics of batch norm come from visible sites;
``--bn-images`` estimates them anew on whole images, for detectors that freeze batch norm.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...utils.atomic import replacing
from ..weights import read_checkpoint
from .layers import plain_norm

PREFIX = 'backbone.'
# Target: what stands before the names, and the key in the file. mmdet and mmseg read `init_cfg(prefix='backbone.')`.
LAYOUTS = {
    'mmpretrain': (PREFIX, 'state_dict'),
    'mmdet': (PREFIX, 'state_dict'),
    'mmseg': (PREFIX, 'state_dict'),
    'torchvision': ('', None),
    'timm': ('', None),
}
SPARSE_ONLY = ('backend', 'enable_sync_bn', 'init_cfg')  # what a plain ResNet lacks, or must not do


def dense_config(backbone: ConfigDict | dict) -> ConfigDict:
    """Return the config of mmpretrain's ``ResNet`` that is the dense twin of a student's backbone.

    Args:
        backbone: Of type ``HGKDSparseResNet`` or ``SparseResNet``.

    Raises:
        ValueError: It is of another type.
    """
    kind = backbone.get('type', '').rpartition('.')[2]
    if kind not in ('HGKDSparseResNet', 'SparseResNet'):
        raise ValueError(f'only a sparse ResNet can be exported, the backbone of the config is a {kind!r}')
    cfg = ConfigDict({key: value for key, value in copy.deepcopy(backbone).items() if key not in SPARSE_ONLY})
    norm = plain_norm(cfg.get('norm_cfg') or dict(type='BN'))
    # The same weights; in training mode on a CPU, as for `--bn-images`, only BN computes.
    cfg.update(type='ResNet', norm_cfg={**norm, 'type': 'BN' if norm['type'] == 'SyncBN' else norm['type']})
    return cfg


def backbone_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the encoder of a student, with the names of a ResNet.

    Raises:
        ValueError: There are none.
    """
    weights = {key.removeprefix(PREFIX): value for key, value in state_dict.items() if key.startswith(PREFIX)}
    if not weights:
        raise ValueError(f'no weight starts with {PREFIX!r}: this is no checkpoint of a pretraining')
    return weights


def fill(backbone: dict, weights: dict[str, Tensor]) -> nn.Module:
    """Build the dense ResNet and load weights into it strictly; it is returned in eval mode.

    Raises:
        ValueError: Weights are missing, too many, or of another shape.
    """
    init_default_scope('mmpretrain')
    resnet = MODELS.build(copy.deepcopy(backbone))
    try:
        resnet.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f'config and checkpoint do not belong together: {error}') from error
    resnet.eval()
    return resnet


@torch.no_grad()
def estimate_bn(resnet: nn.Module, images: int, cfg: Config) -> int:
    """Replace the running statistics of all batch norms by the mean of those of batches of whole images.

    Not in the papers. Each layer's batch statistics are averaged with equal weight over the batches, so that neither
    momentum nor the masked ones of the pretraining remain. Variances are averaged, those between batches left out.

    Args:
        resnet: Changed in place; in eval mode afterwards.
        images: At least so many are read, whole batches, at most one epoch.
        cfg: Config of the pretraining, for its training images and data preprocessor.

    Returns:
        The number of images read.
    """
    norms = [module for module in resnet.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    preprocessing = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    preprocessor = MODELS.build({'type': 'SelfSupDataPreprocessor', **preprocessing})
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average
    resnet.train()
    for norm in norms:
        norm.train()  # also where the config froze it
    seen = 0
    for batch in loader:
        inputs = preprocessor(batch)['inputs']
        inputs = inputs[0] if isinstance(inputs, list) else inputs
        resnet(inputs)
        seen += len(inputs)
        if seen >= images:
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    resnet.eval()
    return seen


def as_torchvision(backbone: dict, weights: dict[str, Tensor], host: str) -> None:
    """Check that weights fill the ResNet of torchvision or timm, all but its classifier.

    Raises:
        ImportError: timm is not installed.
        ValueError: They do not: another width, stem or norm than these ResNets have.
    """
    name = f'resnet{backbone["depth"]}'
    if host == 'timm':
        try:
            import timm
        except ImportError as error:
            raise ImportError('exporting for timm checks the result with it: pip install timm') from error
        model = timm.create_model(name, pretrained=False, num_classes=0)
    else:
        import torchvision

        model = getattr(torchvision.models, name)(weights=None)
        model.fc = nn.Identity()
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f'this backbone is no {name} of {host}: {str(error)[:400]}') from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument('config', help='config of the pretraining')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('--out', required=True, help='file to write, x.pth')
    parser.add_argument('--layout', choices=sorted(LAYOUTS), default='mmpretrain', help='default: %(default)s')
    text = 'estimate batch norm on so many whole training images (default: keep the statistics of visible sites)'
    parser.add_argument('--bn-images', type=int, default=0, help=text)


def run(args: argparse.Namespace) -> None:
    """Export, check, write, say how to use it."""
    if Path(args.out).suffix != '.pth':
        raise ValueError(f'--out must end in .pth, got {args.out}')
    cfg = Config.fromfile(args.config)
    checkpoint = read_checkpoint(args.checkpoint)
    backbone = dense_config(cfg.model.backbone)
    weights = backbone_weights(checkpoint['state_dict'])  # the averages, if EMAHook ran: mmengine puts them there
    resnet = fill(backbone, weights)
    seen = 0
    if args.bn_images:
        seen = estimate_bn(resnet, args.bn_images, cfg)
        weights = resnet.state_dict()
    if args.layout in ('torchvision', 'timm'):
        as_torchvision(backbone, weights, args.layout)
    prefix, key = LAYOUTS[args.layout]
    weights = {prefix + name: value for name, value in weights.items()}
    meta = dict(
        arch=backbone.to_dict(),
        source=Path(args.checkpoint).name,
        mask_ratio=cfg.model.get('mask_ratio', 0.6),
        engine=cfg.model.backbone.get('backend', 'auto'),
        distill=checkpoint['meta'].get('distill'),
        bn_images=seen,
    )
    with replacing(args.out) as temporary:
        torch.save({key: weights, 'meta': meta} if key else weights, temporary)
    print(f'{len(weights)} weights of a ResNet-{backbone["depth"]} for {args.layout}: {Path(args.out).resolve()}')
    if seen:
        print(f'batch norm estimated on {seen} whole images')
    if key:
        print(f"init_cfg=dict(type='Pretrained', checkpoint='{Path(args.out).resolve()}', prefix='{PREFIX}')")
