"""``python -m mmplugins.hgkd check <config>``: what teacher and student of a config are, before they train.

Not in the paper (arXiv 2309.09571): all of it. It builds both as the run would, on a CPU, runs what the hook runs
before a training, and prints what a person would otherwise find out in the first hours.
"""

from __future__ import annotations

import argparse

import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import Tensor, nn
from torch.nn.modules.utils import _pair as to_2tuple

from .hook import GenerativeDistillHook
from .student import Student, evaluating
from .teachers.loading import READING, WEIGHTS, build_teacher
from .teachers.probe import image_channels, noise_image

MIB = 2**20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    parser.add_argument('config', help='config of a training with GenerativeDistillHook')
    text = "build the teacher with random weights, where the config's are not at hand; grids are the same"
    parser.add_argument('--random', action='store_true', help=text)


def run(args: argparse.Namespace) -> None:
    """Print what the training would start with, or say what does not fit."""
    cfg = Config.fromfile(args.config)
    if cfg.get('custom_imports'):
        import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    hook = find_hook(cfg)
    hook.autocast = None  # float16 is for GPUs; grids, channels and places are the same
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)  # as the runner does
    student = MODELS.build(cfg.model)
    if not isinstance(student, Student):
        raise ValueError(
            f"a {type(student).__name__} is no student: put it into model=dict(type='HGKDDistilledModel', student=…)"
        )
    teacher = random_teacher(hook.teacher_cfg) if args.random else build_teacher(hook.teacher_cfg, hook.checkpoint)
    provider = hook.provide(teacher, student)
    size = to_2tuple(student.input_size)
    images = noise_image(image_channels(student), size)
    seen = provider.see(images)
    targets = student.check_teacher(provider, images)
    print(f'teacher: {type(teacher).__name__}, {count(teacher) / 1e6:.2f} M parameters, mode {hook.mode}')
    print(f'student: {type(student).__name__}, {count(student) / 1e6:.2f} M parameters')
    print(f'an image of {size[0]} x {size[1]} pixels; the teacher sees {tuple(seen.shape[1:])}, {norm_of(hook)}')
    print(f'two passes agree, and lit patches are at their places, at {len(targets)} target(s):')
    for name, target in zip(['+'.join(hook.taps)] if len(targets) == 1 else hook.taps, targets, strict=True):
        rows, columns = target.shape[2:]
        stride = f'{size[0] / rows:g} x {size[1] / columns:g}'
        print(f'  {name}: {target.shape[1]} channels, grid {rows} x {columns}, a position is {stride} pixels')
    for line in student.describe(images):
        print(f'  {line}')
    batch = (cfg.get('train_dataloader') or {}).get('batch_size') or 1
    print(f'memory, about: {expected_memory(student, teacher, images, batch)}')


def find_hook(cfg: Config) -> GenerativeDistillHook:
    """Return the hook of a config.

    Raises:
        ValueError: There is none, or two.
    """
    found = [hook for hook in cfg.get('custom_hooks') or [] if hook['type'].endswith('GenerativeDistillHook')]
    if len(found) != 1:
        raise ValueError(f'the config has {len(found)} GenerativeDistillHook in custom_hooks, not one')
    return HOOKS.build(found[0])


def random_teacher(cfg: dict) -> nn.Module:
    """Return the network of a teacher without its weights.

    Raises:
        ValueError: It cannot be built without reading or downloading them.
    """
    if str(cfg['type']).endswith(READING):
        raise ValueError(f'--random cannot build a teacher of {cfg["type"]}, which reads its weights: leave it out')
    off = {key: False if key == 'pretrained' else None for key in (*WEIGHTS, 'init_cfg') if key in cfg}
    return MODELS.build({'_scope_': 'mmpretrain', **cfg, **off})


def norm_of(hook: GenerativeDistillHook) -> str:
    """Say how pixels are normalized for the teacher."""
    if hook.input_norm is None:
        return "normalized as the student's"
    return f'normalized with mean {list(hook.input_norm["mean"])}, std {list(hook.input_norm["std"])}'


def count(network: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def expected_memory(student: Student, teacher: nn.Module, images: Tensor, batch: int) -> str:
    """Return about how much memory a step takes.

    Counted are weights, gradients and two moments of the student, what its backbone and neck keep of whole images for
    the backward pass (of a masked student: its backbone and decoder), and the teacher's weights; not its largest layer,
    nor the student's head.

    Args:
        student: Model.
        teacher: Network, in float32.
        images: One image ``(1, C, H, W)``; a batch keeps as much for each.
        batch: Images of a process.
    """
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {parameter.untyped_storage().data_ptr() for parameter in student.parameters()}
    with (
        evaluating(student),
        torch.enable_grad(),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        student.encode_whole(images)
    activations = batch * sum(size for address, size in kept.items() if address not in own)
    weights, theirs = 4 * 4 * count(student), 4 * count(teacher)
    return (
        f'{(weights + activations + theirs) / MIB:.0f} MiB: {weights / MIB:.0f} student, its gradients and moments '
        f'+ {activations / MIB:.0f} kept by backbone and neck for a batch of {batch} + {theirs / MIB:.0f} teacher'
    )
