"""Public checkpoints of DS-Net as checkpoints of mmpretrain, and back.

Two layouts: PyTorch (github.com/SteveTsui/DS-Net) and Paddle (PaddleClas, ``DSNet_*_pretrained.pdparams``). They have
the same names of modules. Paddle stores the weights of linear layers transposed and other names of the statistics of
batch norms. ``C``: channels; ``h``: heads.
"""

import argparse
import pickle
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmplugins.utils.atomic import replacing
from mmplugins.utils.checkpoint import load_without_code

from .block import join_projections, split_projections
from .dsnet import DSNet

BLOCK = {
    'pos_embed': 'pos_conv',
    'norm1': 'norm1',
    'conv1': 'proj_in',
    'norm_conv1': 'local.norm',
    'conv': 'local.dwconv',
    'norm_sa1': 'glob.norm',
    'channel_up': 'glob.qkv',
    'norm_conv2': 'align.local_norm',
    'cross_channel_up_conv': 'align.local_qkv',
    'fuse_channel_conv': 'align.local_proj',
    'norm_sa2': 'align.global_norm',
    'cross_channel_up_sa': 'align.global_qkv',
    'fuse_channel_sa': 'align.global_proj',
    'conv2': 'proj_out',
    'norm2': 'norm2',
    'mlp.fc1': 'ffn.fc1',
    'mlp.fc2': 'ffn.fc2',
}
PUBLIC = {ours: public for public, ours in BLOCK.items()}
PADDLE_SUFFIXES = {'_mean': 'running_mean', '_variance': 'running_var'}
# All that a pickle of numpy arrays names, in every protocol and version of numpy.
ARRAYS = {
    ('numpy', 'dtype'),
    ('numpy', 'ndarray'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', '_reconstruct'),
    ('numpy.core.numeric', '_frombuffer'),
    ('numpy._core.numeric', '_frombuffer'),
    ('_codecs', 'encode'),
    ('__builtin__', 'tuple'),
    ('builtins', 'tuple'),
    ('collections', 'OrderedDict'),
}


class ArrayUnpickler(pickle.Unpickler):
    """An unpickler that knows nothing but numpy arrays in containers: a pickle can name any function to call."""

    def find_class(self, module: str, name: str) -> object:
        """Return an allowed class or function.

        Raises:
            ValueError: It is not allowed.
        """
        if (module, name) not in ARRAYS:
            raise ValueError(f'it names {module}.{name}, which is in no file of weights')
        return super().find_class(module, name)


def read_paddle(path: str | Path) -> dict[str, Tensor]:
    """Read ``.pdparams`` without Paddle: names of the public code, layout of PyTorch.

    Raises:
        ValueError: The file is no pickle of a dict of arrays.
    """
    try:
        with open(path, 'rb') as file:
            content = ArrayUnpickler(file, encoding='latin1').load()
        # Beside the weights Paddle keeps a table of names; some versions store (name, array).
        content = {key: value for key, value in content.items() if not key.endswith('@@')}
        arrays = {key: value[1] if isinstance(value, tuple) else value for key, value in content.items()}
        weights = {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f'{path} is no file of Paddle weights: {error or type(error).__name__}') from error
    found = {}
    for key, value in weights.items():
        module, _, name = key.rpartition('.')
        if name == 'weight' and value.ndim == 2:
            value = value.T.contiguous()
        found[f'{module}.{PADDLE_SUFFIXES.get(name, name)}'] = value
    return found


def read_torch(path: str | Path, key: str = 'model') -> dict[str, Tensor]:
    """Read the weights in a checkpoint.

    Args:
        path: The file.
        key: Where they are: of the public PyTorch code ``model``, which may be the weights alone, or ``model_ema``, the
            moving average; of mmpretrain ``state_dict``.

    Raises:
        ValueError: It cannot be read without running code from it, or there are no such weights in it.
    """
    content = load_without_code(path)
    if isinstance(content, dict) and (key in content or key != 'model'):
        content = content.get(key)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f'{path} has no weights under {key!r}')
    return {name.removeprefix('module.'): value for name, value in content.items()}


def rename(key: str) -> str:
    """Name in mmpretrain's classifier of a weight of the public code.

    Raises:
        ValueError: The name is of no DS-Net.
    """
    module, _, name = key.rpartition('.')
    if module == 'head':
        return f'head.fc.{name}'
    if module == 'norm':
        return f'backbone.norm3.{name}'
    if match := re.fullmatch(r'patch_embed([1-4])\.proj', module):
        return f'backbone.patch_embeds.{int(match[1]) - 1}.projection.{name}'
    match = re.fullmatch(r'blocks([1-4])\.(\d+)\.(.+)', module)
    if not match or match[3] not in BLOCK:
        raise ValueError(f'{key} is the name of no weight of DS-Net')
    return f'backbone.stages.{int(match[1]) - 1}.{match[2]}.{BLOCK[match[3]]}.{name}'


def expected_shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    """Names and shapes of all weights of the DS-Net, with a linear head, that a state dict is of."""
    blocks = {tuple(map(int, found)) for key in state for found in re.findall(r'stages\.(\d)\.(\d+)\.', key)}
    dims = [state[f'backbone.patch_embeds.{i}.projection.weight'].shape[0] for i in range(4)]
    arch = dict(
        embed_dims=dims,
        depths=[max(block for stage, block in blocks if stage == i) + 1 for i in range(4)],
        num_heads=[1] * 4,  # no weight depends on them, nor on the ratios
        global_ratios=[1] * 4,
    )
    with torch.device('meta'):
        net = DSNet(arch, inter_scale_align=any('.align.' in key for key in state))
        shapes = {f'backbone.{key}': value.shape for key, value in net.state_dict().items()}
        if 'head.fc.weight' in state:
            head = nn.Linear(dims[-1], len(state['head.fc.weight']))
            shapes.update({f'head.fc.{key}': value.shape for key, value in head.state_dict().items()})
    return shapes


def convert(upstream: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the public code, and check that they are all there.

    Args:
        upstream: Weights by name of the public code, layout of PyTorch: ``(out, in)`` of linear layers, and queries,
            keys and values as rows ``[q | k | v]`` of ``(3 C, C)``, each ordered by heads.

    Returns:
        State dict of mmpretrain's ``ImageClassifier`` with `DSNet` and ``LinearClsHead``.

    Raises:
        ValueError: A weight is unknown, missing or of the wrong shape.
    """
    state = {rename(key): value for key, value in upstream.items()}
    for key in [key for key in state if key.endswith('.proj_in.bias')]:
        half = len(state[key]) // 2
        split_projections(state, key.removesuffix('proj_in.bias'), half, half)
    for key in [key for key in state if key.endswith('.running_mean')]:  # Paddle does not count
        state.setdefault(key.replace('running_mean', 'num_batches_tracked'), torch.tensor(0))
    try:
        shapes = expected_shapes(state)
    except (KeyError, ValueError) as error:
        raise ValueError(f'these are not the weights of a whole DS-Net: {error}') from error
    wrong = sorted(
        key for key in shapes.keys() | state.keys() if key not in state or state[key].shape != shapes.get(key)
    )
    if wrong:
        raise ValueError(f'{len(wrong)} weights are missing, too many or of another shape, {wrong[0]} for one')
    return state


def public_name(key: str) -> str:
    """Name in the public code of a weight of mmpretrain's classifier whose projections are joined.

    Raises:
        ValueError: The public code has no such weight.
    """
    module, _, name = key.rpartition('.')
    if module == 'head.fc':
        return f'head.{name}'
    if module == 'backbone.norm3':
        return f'norm.{name}'
    if match := re.fullmatch(r'backbone\.patch_embeds\.(\d)\.projection', module):
        return f'patch_embed{int(match[1]) + 1}.proj.{name}'
    match = re.fullmatch(r'backbone\.stages\.(\d)\.(\d+)\.(.+)', module)
    if not match or match[3] not in PUBLIC:
        raise ValueError(f'the public code has no weight like {key}')
    return f'blocks{int(match[1]) + 1}.{match[2]}.{PUBLIC[match[3]]}.{name}'


def revert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo `convert`: weights by the names of the public PyTorch code.

    Args:
        state: Of mmpretrain's ``ImageClassifier`` with `DSNet` and ``LinearClsHead``.

    Raises:
        ValueError: The public code has no such weight, as for a norm behind another stage than the last, or a block
            whose streams are not equally wide.
    """
    state = {key: value for key, value in state.items() if not key.startswith('data_preprocessor.')}
    for prefix in [key.removesuffix('pos_conv.bias') for key in state if key.endswith('.pos_conv.bias')]:
        widths = [len(state.get(f'{prefix}{stream}_in.bias', ())) for stream in ('local', 'global')]
        if widths[0] != widths[1]:
            raise ValueError(
                f'the streams of {prefix}* have {widths[0]} (local) and {widths[1]} (global) channels: the public code '
                'halves them, split_ratio=0.5'
            )
        join_projections(state, prefix)
    return {public_name(key): value for key, value in state.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``convert``."""
    parser.add_argument('source', type=Path, help='.pdparams of Paddle, else a checkpoint of PyTorch')
    parser.add_argument('target', type=Path, help='checkpoint to write')
    parser.add_argument('--ema', action='store_true', help='the moving average in a public checkpoint of PyTorch')
    parser.add_argument('--back', action='store_true', help='from mmpretrain to the public PyTorch code')


def run(args: argparse.Namespace) -> None:
    """Write a public checkpoint as one of mmpretrain, or the other way.

    Raises:
        ValueError: A moving average is asked for that the file cannot have, or as `convert` and `revert`.
    """
    paddle = args.source.suffix == '.pdparams'
    if args.ema and (args.back or paddle):
        raise ValueError('--ema is for public checkpoints of PyTorch, neither with --back nor for .pdparams')
    if args.back:
        state = revert(read_torch(args.source, 'state_dict'))
        content = dict(model=state)
    else:
        key = 'model_ema' if args.ema else 'model'
        state = convert(read_paddle(args.source) if paddle else read_torch(args.source, key))
        content = dict(state_dict=state, meta=dict(source=args.source.name))
    with replacing(args.target) as temporary:
        torch.save(content, temporary)
    parameters = sum(value.numel() for key, value in state.items() if not re.search(r'running_|num_batches', key))
    print(f'{args.target}: {parameters:,} parameters')
