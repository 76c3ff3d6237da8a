"""The frozen teacher beside the student: given a batch, the targets.

Not in the paper (arXiv 2309.09571): where the teacher lives. It is held by a plain object in a plain slot of the
student, so that optimizer, checkpoint, DDP and EMA never see its weights.

Shapes: ``B`` images of ``(H, W)`` pixels, ``C`` channels of the teacher, ``(h, w)`` the grid of the targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..masks import expand_active
from .adapters import adapt, token_grid

TARGET_NORMS = ('ln', 'l2', 'none')
AUTOCASTS = {None: None, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
CHECK_INTERVAL = 50  # that of mmengine's CheckInvalidLossHook
EPS = 1e-6  # of the LayerNorm of the targets: G2SD, MaskDistill


class TeacherProvider:
    """Callable ``(images, active) -> targets``, with the teacher inside and invisible to everything else.

    A deep copy is the object itself and a pickle is empty: mmengine's ``EMAHook`` copies the model with all attributes,
    and must not copy the teacher.

    Args:
        teacher: Network on its device; it is put into eval mode and its parameters stop requiring gradients.
        taps: Names of its modules whose outputs are the features. Several are normalized one by one and concatenated
            along the channels.
        mode: ``'full'``, ``'same_mask'`` or ``'visible'``, see :mod:`mmplugins.hgkd.teachers.adapters`.
        target_norm: ``'ln'``: mean 0 and variance 1 for each token; ``'l2'``: unit length; ``'none'``.
        input_norm: ``(scale, shift)``, each of 3 values, that turn the student's pixels into the teacher's; None: the
            same.
        autocast: ``'float16'`` or ``'bfloat16'`` of the teacher alone; None: float32, whatever the student uses.
        stride: Pixels of the side of a position of the targets, ``(rows, columns)``.
        resize_input: Whether images are resized so that the teacher's grid becomes ``(H, W) / stride`` (patch 14).

    Raises:
        ValueError: An argument is not allowed, or no module is called like a tap.
    """

    teacher = None  # after unpickling
    paused = False  # set by the hook after its stop_epoch: no forward of the teacher, no targets

    def __init__(
        self,
        teacher: nn.Module,
        taps: Sequence[str],
        mode: str = 'full',
        target_norm: str = 'ln',
        input_norm: tuple[Sequence[float], Sequence[float]] | None = None,
        autocast: str | None = None,
        stride: tuple[float, float] = (16, 16),
        resize_input: bool = False,
    ) -> None:
        if target_norm not in TARGET_NORMS:
            raise ValueError(f'target_norm must be one of {TARGET_NORMS}, got {target_norm!r}')
        if autocast not in AUTOCASTS:
            raise ValueError(f'autocast must be one of {tuple(AUTOCASTS)}, got {autocast!r}')
        self.device = next(iter([*teacher.parameters(), *teacher.buffers()]), torch.empty(0)).device
        if autocast == 'float16' and self.device.type == 'cpu':
            raise ValueError("autocast='float16' needs a GPU; on a CPU use 'bfloat16' or None")
        teacher.eval()  # not chained: mmpretrain's backbones return None
        teacher.requires_grad_(False)
        self.teacher = teacher
        self.taps = tuple(taps)
        self.mode = mode
        self.target_norm = target_norm
        self.autocast = AUTOCASTS[autocast]
        self.stride = stride
        self.resize_input = resize_input
        self.adapter = adapt(teacher, mode)
        self.input_norm = None
        if input_norm is not None:
            self.input_norm = [torch.tensor(value, device=self.device).view(1, -1, 1, 1) for value in input_norm]
        self._outputs: dict[str, list[Tensor]] = {}
        self._calls = 0
        self._handles = [self._module(name).register_forward_hook(self._recorder(name)) for name in self.taps]

    def __deepcopy__(self, memo: dict) -> TeacherProvider:
        return self

    def __getstate__(self) -> dict:
        return {}

    def close(self) -> None:
        """Take the forward hooks off and let the teacher go."""
        for handle in self._handles:
            handle.remove()
        self.teacher = self.adapter = None

    @torch.no_grad()
    def __call__(self, images: Tensor, active: Tensor) -> Tensor | None:
        """Return the targets of a batch, detached float32 ``(B, C, h, w)``, or None while :attr:`paused`.

        Args:
            images: ``(B, 3, H, W)``, normalized for the student.
            active: ``(B, 1, H/32, W/32)`` bool, True = the student sees the cell.

        Raises:
            RuntimeError: A tap did not fire exactly once.
            FloatingPointError: The output of a tap is not finite; looked at in the first call, then in each 50th.
        """
        if self.paused:
            return None
        if self.teacher is None:
            raise RuntimeError('this provider has no teacher: it was closed, or copied by pickling')
        images = images.to(self.device, torch.float32)
        grid = self.grid(images.shape[-2:])
        if self.mode == 'full':
            visible = torch.ones(len(images), grid[0] * grid[1], dtype=torch.bool, device=self.device)
        else:
            visible = expand_active(active.to(self.device), grid).flatten(1)
        maps = self.adapter.assemble(self._run(self._prepare(images, grid), visible), visible, grid)
        return torch.cat([self._normalize(name, features) for name, features in maps.items()], dim=1)

    def grid(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Return the grid ``(h, w)`` of tokens for images of ``(H, W)`` pixels."""
        patch_size = self.adapter.patch_size()
        if patch_size is None or self.resize_input:  # a network without patches gives a map and decides itself
            return tuple(round(side / stride) for side, stride in zip(image_size, self.stride, strict=True))
        return token_grid(tuple(image_size), patch_size)

    def _prepare(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.input_norm is not None:
            scale, shift = self.input_norm
            images = images * scale + shift
        if self.resize_input:
            patch_size = self.adapter.patch_size()
            if patch_size is None:
                raise ValueError('resize_input needs a teacher with patches; this one has no such convolution')
            size = tuple(side * patch_size for side in grid)
            if size != tuple(images.shape[-2:]):
                images = F.interpolate(images, size, mode='bicubic', align_corners=False, antialias=True)
        return images

    def _run(self, images: Tensor, visible: Tensor) -> dict[str, Tensor]:
        """Return the output of each tap."""
        look = self._calls % CHECK_INTERVAL == 0  # the host waits for the device to know
        self._calls += 1
        self._outputs = {name: [] for name in self.taps}
        try:
            with torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None):
                self.adapter.run(images, visible)
            for name, outputs in self._outputs.items():
                if len(outputs) != 1:
                    raise RuntimeError(f'tap {name!r} of the teacher fired {len(outputs)} times in one pass, not once')
                if look and not torch.isfinite(outputs[0]).all():
                    raise FloatingPointError(f'the output of the tap {name!r} of the teacher is not finite')
            return {name: outputs[0] for name, outputs in self._outputs.items()}
        finally:
            self._outputs = {}

    def _normalize(self, name: str, features: Tensor) -> Tensor:
        """Normalize a map ``(B, C, h, w)`` at each position."""
        features = features.float()
        if self.target_norm == 'ln':
            channels = features.shape[1:2]
            features = F.layer_norm(features.movedim(1, -1), channels, eps=EPS).movedim(-1, 1)
        elif self.target_norm == 'l2':
            features = F.normalize(features, dim=1)
        return features

    def _module(self, name: str) -> nn.Module:
        modules = dict(self.teacher.named_modules())
        if name not in modules or not name:
            last = name.rpartition('.')[2]
            near = [key for key in modules if key.rpartition('.')[2] == last and key] or list(modules)[1:]
            near = sorted(near, key=lambda key: key.count('.'))[:6]
            raise ValueError(
                f'the teacher {type(self.teacher).__name__} has no module {name!r}; it has {near} and more'
            )
        return modules[name]

    def _recorder(self, name: str):
        def record(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
            while isinstance(output, (tuple, list)):  # features, attention
                output = output[0]
            self._outputs.setdefault(name, []).append(output)

        return record
