"""``python -m mmplugins.hgkd export``: the encoder of a pretrained student as the plain network.

Not in the papers. The student's layers keep the names of the host's network, so no weight is changed; what is done
here is to leave out what belongs to the pretraining, to check that the rest fills a plain network of the target
without a hole, and that a library's own network computes the same with it, and to write it in the layout that the
target reads. Running statistics of batch norm come from visible
sites; ``--bn-images`` estimates them anew on whole images, for detectors that freeze batch norm.
"""

from __future__ import annotations

import argparse
import copy
import re
from itertools import zip_longest
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from ...utils.atomic import replacing
from ...utils.checkpoint import load_without_code
from ...utils.weights import read_weights
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
# Networks that are the same in torchvision. EfficientNet has other logits, RegNet and ConvNeXt another order.
IN_TORCHVISION = {
    'ResNet': 'resnet{depth}',
    'ResNeXt': 'resnext{depth}_{groups}x{width_per_group}d',
    'MobileNetV2': 'mobilenet_v2',
    'MobileNetV3': 'mobilenet_v3_{arch}',
}
IN_MMPRETRAIN = dict(groups=32, width_per_group=4, arch='small')  # what is not said in a config
# Arguments of TIMMBackbone that are not options of timm's network.
NOT_TIMM = ('type', 'init_cfg', 'features_only', 'out_indices', 'pretrained', 'model_name', 'in_channels')
SAME = 1e-6  # relative difference of features in double precision
SPARSE_ONLY = ('backend', 'enable_sync_bn', 'init_cfg')  # what a plain ResNet lacks, or must not do


def dense_config(backbone: ConfigDict | dict) -> ConfigDict:
    """Return the config of the plain twin of a student's backbone, of mmpretrain.

    Args:
        backbone: Of type ``HGKDSparseResNet``, ``SparseResNet`` or ``HGKDSparseBackbone``.

    Raises:
        ValueError: It is of another type.
    """
    kind = backbone.get('type', '').rpartition('.')[2]
    if kind == 'HGKDSparseBackbone':
        cfg = ConfigDict(copy.deepcopy(backbone['backbone']))
    elif kind in ('HGKDSparseResNet', 'SparseResNet'):
        cfg = ConfigDict({key: value for key, value in copy.deepcopy(backbone).items() if key not in SPARSE_ONLY})
        cfg.update(type='ResNet', norm_cfg=plain_norm(cfg.get('norm_cfg') or dict(type='BN')))
    else:
        raise ValueError(
            f'only HGKDSparseResNet and HGKDSparseBackbone can be exported, the backbone of the config is a {kind!r}'
        )
    if cfg.get('norm_cfg', {}).get('type') == 'SyncBN':
        cfg.norm_cfg.type = 'BN'  # the same weights; in training mode on a CPU, as for `--bn-images`, only BN computes
    return cfg


def backbone_of(cfg: Config) -> ConfigDict:
    """Return the config of a masked student's backbone.

    Raises:
        ValueError: There is no masked student.
    """
    model = cfg.get('model') or {}
    kind = model.get('type', '').rpartition('.')[2]
    if kind == 'HGKDDistilledModel':
        raise ValueError(
            'a student of HGKDDistilledModel needs no export: its checkpoint loads into the plain config of the student'
        )
    if 'backbone' not in model:
        raise ValueError(f'{cfg.filename} has no model with a backbone: give the config of a pretraining with HGKD')
    return model.backbone


def backbone_weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the encoder of a student, with the names of the plain network.

    Raises:
        ValueError: There are none.
    """
    weights = {key.removeprefix(PREFIX): value for key, value in state_dict.items() if key.startswith(PREFIX)}
    if not weights:
        raise ValueError(f'no weight starts with {PREFIX!r}: this is no checkpoint of a pretraining')
    return {key.removeprefix('net.'): value for key, value in weights.items()}  # of HGKDSparseBackbone


def fill(backbone: dict, weights: dict[str, Tensor]) -> nn.Module:
    """Build the plain network and load weights into it strictly; it is returned in eval mode.

    Raises:
        ValueError: Weights are missing, too many, or of another shape.
    """
    init_default_scope('mmpretrain')
    network = MODELS.build({'_scope_': 'mmpretrain', **copy.deepcopy(backbone)})
    try:
        network.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f'config and checkpoint do not belong together: {error}') from error
    network.eval()
    return network


@torch.no_grad()
def estimate_bn(network: nn.Module, images: int, cfg: Config) -> int:
    """Replace the running statistics of all batch norms by the mean of those of batches of whole images.

    Not in the papers. Each layer's batch statistics are averaged with equal weight over the batches, so that neither
    momentum nor the masked ones of the pretraining remain. Variances are averaged, those between batches left out.

    Args:
        network: Changed in place; in eval mode before and afterwards, so that nothing is dropped at random.
        images: At least so many are read, whole batches, at most one epoch.
        cfg: Config of the pretraining, for its training images and data preprocessor.

    Returns:
        The number of images read.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    preprocessing = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    preprocessor = MODELS.build({'type': 'SelfSupDataPreprocessor', **preprocessing})
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch: a cumulative average
    for norm in norms:
        norm.train()  # alone: stochastic depth would change the variances
    seen = 0
    for batch in loader:
        inputs = preprocessor(batch)['inputs']
        inputs = inputs[0] if isinstance(inputs, list) else inputs
        network(inputs)
        seen += len(inputs)
        if seen >= images:
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
    return seen


def for_torchvision(backbone: dict, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with the names of torchvision, checked against its network, all but the classifier.

    Raises:
        ValueError: There is no such network there, or another one: another width, stem or norm, or an option that
            changes no shape.
    """
    import torchvision

    kind = backbone['type']
    if kind not in IN_TORCHVISION:
        raise ValueError(f"the weights of a {kind} have no place in torchvision: use the layout 'mmpretrain'")
    name = IN_TORCHVISION[kind].format_map({**IN_MMPRETRAIN, **backbone})
    if name not in torchvision.models.list_models():
        raise ValueError(f'torchvision has no {name}')
    model = torchvision.models.get_model(name, weights=None)
    expected = model.state_dict()
    places = [key for key in expected if not key.startswith(('fc.', 'classifier.'))]
    # Layers stand in one order in both; what a weight is called in its layer, and its shape, tell others apart.
    pairs = [*zip_longest(places, weights)]
    wrong = [
        (theirs, ours)
        for theirs, ours in pairs
        if None in (theirs, ours)
        or theirs.rpartition('.')[2] != ours.rpartition('.')[2]
        or expected[theirs].shape != weights[ours].shape
    ]
    if wrong:
        raise ValueError(f'this backbone is no {name} of torchvision: {len(wrong)} weights differ, as {wrong[0]}')
    filled = {theirs: weights[ours] for theirs, ours in pairs}
    model.load_state_dict(filled, strict=False)  # all but the classifier
    setattr(model, 'fc' if hasattr(model, 'fc') else 'classifier', nn.Identity())
    check_same(backbone, weights, model, f'{name} of torchvision')
    return filled


def for_timm(backbone: dict, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with the names of timm, checked against its network, all but the classifier.

    Raises:
        ImportError: timm is not installed.
        ValueError: There is no such network there, or another one: another width, stem or norm, or an option that
            changes no shape.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError('exporting for timm checks the result with it: pip install timm') from error
    if backbone['type'] == 'TIMMBackbone':
        model = timm.create_model(backbone['model_name'], **timm_options(backbone))
        expected = model.state_dict()
        weights = {name_in_timm(key.removeprefix('timm_model.'), expected): value for key, value in weights.items()}
        missing = [key for key in weights if key not in expected or expected[key].shape != weights[key].shape]
        if missing:
            raise ValueError(f'{len(missing)} weights have no place in a {backbone["model_name"]}, as {missing[:3]}')
        return weights
    if backbone['type'] != 'ResNet':
        raise ValueError(f"the names of a {backbone['type']} are not those of timm: use the layout 'mmpretrain'")
    name = f'resnet{backbone["depth"]}'
    model = timm.create_model(name, pretrained=False, num_classes=0)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f'this backbone is no {name} of timm: {str(error)[:400]}') from error
    check_same(backbone, weights, model, f'{name} of timm')
    return weights


def timm_options(backbone: dict) -> dict:
    """Return the options of a ``TIMMBackbone`` with which ``timm.create_model`` makes its network."""
    options = {key: value for key, value in backbone.items() if key not in NOT_TIMM}
    return {**options, 'in_chans': backbone['in_channels']} if 'in_channels' in backbone else options


@torch.no_grad()
def check_same(backbone: dict, weights: dict[str, Tensor], model: nn.Module, name: str) -> None:
    """See that a network of a library computes what the plain one of mmpretrain does, on an image of noise.

    Args:
        backbone: Config of the plain network.
        weights: Its weights.
        model: The library's, filled with them, without a classifier: it gives pooled features.
        name: For the message.

    Raises:
        ValueError: It does not.
    """
    # Without out_indices: the whole network, whatever the student's decoder reads.
    plain = fill({key: value for key, value in backbone.items() if key != 'out_indices'}, weights)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    expected = plain.double()(images)[-1].mean(dim=(2, 3))
    difference, size = (model.eval().double()(images) - expected).norm(), expected.norm()
    if not difference <= SAME * size:  # also NaN
        raise ValueError(
            f'the weights fit {name}, which computes something else with them (relative difference of the features '
            f'{difference / size:.2g}): an option of the backbone that changes no shape is another one there, as '
            "style, strides, dilations or eps of norm_cfg. Use the layout 'mmpretrain'"
        )


def name_in_timm(name: str, expected: dict[str, Tensor]) -> str:
    """Return the name in a whole network of timm of a weight of its ``features_only`` form, ``stages_0.x`` there."""
    return name if name in expected else re.sub(r'^([a-z]+)_(\d+)\.', r'\1.\2.', name)


LIBRARIES = {'torchvision': for_torchvision, 'timm': for_timm}


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
    backbone = dense_config(backbone_of(cfg))
    # The averages, if EMAHook ran: mmengine puts them where the weights are.
    network = fill(backbone, backbone_weights(read_weights(args.checkpoint)))
    seen = estimate_bn(network, args.bn_images, cfg) if args.bn_images else 0
    weights = network.state_dict()
    if args.layout in LIBRARIES:
        weights = LIBRARIES[args.layout](backbone, weights)
    prefix, key = LAYOUTS[args.layout]
    weights = {prefix + name: value for name, value in weights.items()}
    meta = dict(
        arch=backbone.to_dict(),
        source=Path(args.checkpoint).name,
        mask_ratio=cfg.model.get('mask_ratio', 0.6),
        engine=cfg.model.backbone.get('backend', 'auto'),
        distill=(load_without_code(args.checkpoint).get('meta') or {}).get('distill'),
        bn_images=seen,
    )
    with replacing(args.out) as temporary:
        torch.save({key: weights, 'meta': meta} if key else weights, temporary)
    name = backbone.get('model_name') or '-'.join(str(backbone[key]) for key in ('type', 'depth') if key in backbone)
    print(f'{len(weights)} weights of a {name} for {args.layout}: {Path(args.out).resolve()}')
    if args.layout == 'timm' and backbone.type == 'TIMMBackbone' and timm_options(backbone):
        print(f'they are of timm.create_model({backbone.model_name!r}, **{timm_options(backbone)})')
    if seen:
        print(f'batch norm estimated on {seen} whole images')
    if key:
        print(f"init_cfg=dict(type='Pretrained', checkpoint='{Path(args.out).resolve()}', prefix='{PREFIX}')")
