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
from torch.nn.modules.utils import _pair as to_2tuple

from ..masks import expand_active
from ..taps import Taps
from .adapters import adapt
from .layout import patch_size

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
        input_norm: ``(scale, shift)``, a value for each channel of the teacher, that turn the student's pixels into
            its own; None: the same.
        autocast: ``'float16'`` or ``'bfloat16'`` of the teacher alone; None: float32, whatever the student uses.
        input_channels: Channels of the student's images that the teacher sees, in its order; None: all.
        stride: Pixels of the side of a position of the targets, as the student counts them.
        resize_input: True: images are resized so that the grid of a ViT becomes ``(H, W) / stride`` (patch 14). A
            number or ``(height, width)``: to that size, for a network of a fixed one.

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
        input_channels: Sequence[int] | None = None,
        stride: int = 16,
        resize_input: bool | int | tuple[int, int] = False,
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
        self.input_channels = None if input_channels is None else list(input_channels)
        self.stride = stride
        self.resize_input = resize_input
        self.adapter = adapt(teacher, mode)
        self.input_norm = None
        if input_norm is not None:
            self.input_norm = [torch.tensor(value, device=self.device).view(1, -1, 1, 1) for value in input_norm]
        convs = (module.in_channels for module in teacher.modules() if isinstance(module, nn.Conv2d))
        self.in_channels = next(convs, None)
        self._calls = 0
        self._listener = Taps(teacher, self.taps, 'teacher')

    def __deepcopy__(self, memo: dict) -> TeacherProvider:
        return self

    def __getstate__(self) -> dict:
        return {}

    def close(self) -> None:
        """Let the teacher go."""
        self.teacher = self.adapter = self._listener = None

    @torch.no_grad()
    def __call__(self, images: Tensor, active: Tensor | None = None) -> Tensor | None:
        """Return the targets of a batch as one map, detached float32 ``(B, C, h, w)``; see :meth:`maps`.

        Raises:
            ValueError: Taps differ in their grid.
        """
        maps = self.maps(images, active)
        if maps is None:
            return None
        grids = [tuple(target.shape[2:]) for target in maps]
        if len(set(grids)) > 1:
            raise ValueError(f'the taps {self.taps} have grids of {grids}: one prediction has one grid, name such taps')
        return torch.cat(maps, dim=1)

    @torch.no_grad()
    def maps(self, images: Tensor, active: Tensor | None = None) -> list[Tensor] | None:
        """Return the normalized map of each tap, detached float32 ``(B, C, h, w)``, or None while :attr:`paused`.

        Args:
            images: ``(B, C, H, W)``, normalized for the student.
            active: ``(B, 1, H/32, W/32)`` bool, True = the student sees the cell. Not needed in mode ``full``.

        Raises:
            RuntimeError: A tap did not fire exactly once.
            FloatingPointError: The output of a tap is not finite; looked at in the first call, then in each 50th.
            ValueError: A tap gives neither tokens nor a map of the image.
        """
        if self.paused:
            return None
        if self.teacher is None:
            raise RuntimeError('this provider has no teacher: it was closed, or copied by pickling')
        images = self.see(images)
        size, visible = tuple(images.shape[2:]), None
        if self.mode != 'full':
            visible = expand_active(active.to(self.device), self.adapter.grid(size)).flatten(1)
        maps = self.adapter.assemble(self._run(images, visible), visible, size)
        return [self._normalize(features) for features in maps.values()]

    def see(self, images: Tensor) -> Tensor:
        """Return what the teacher sees of images ``(B, C, H, W)`` of the student.

        Raises:
            ValueError: The teacher takes another number of channels.
        """
        images = images.to(self.device, torch.float32)
        if self.input_channels is not None:
            images = images[:, self.input_channels]
        if self.in_channels not in (None, images.shape[1]):
            raise ValueError(
                f'the teacher takes {self.in_channels} channels, images of the student have {images.shape[1]}: name '
                'the channels that it sees, for instance input_channels=[0, 0, 0] for gray images'
            )
        if self.input_norm is not None:
            scale, shift = self.input_norm
            images = images * scale + shift
        size = self._size(images.shape[2:])
        if size != tuple(images.shape[2:]):
            images = F.interpolate(images, size, mode='bicubic', align_corners=False, antialias=True)
        return images

    def _size(self, image_size: Sequence[int]) -> tuple[int, int]:
        """Return ``(H, W)`` of what the teacher sees for images of a size."""
        if self.resize_input is False:
            return tuple(image_size)
        if self.resize_input is not True:
            return to_2tuple(self.resize_input)
        patch = patch_size(self.adapter.backbone)
        if patch is None:
            raise ValueError(
                'resize_input=True needs a teacher with patches; give this one a size, as resize_input=224'
            )
        return tuple(max(round(side / self.stride), 1) * patch for side in image_size)

    def _run(self, images: Tensor, visible: Tensor | None) -> dict[str, Tensor]:
        """Return the output of each tap."""
        look = self._calls % CHECK_INTERVAL == 0  # the host waits for the device to know
        self._calls += 1
        with (
            self._listener.listen() as outputs,
            torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None),
        ):
            self.adapter.run(images, visible)
        for name, output in outputs.items():
            if look and not torch.isfinite(output).all():
                raise FloatingPointError(f'the output of the tap {name!r} of the teacher is not finite')
        return {name: outputs[name] for name in self.taps}

    def _normalize(self, features: Tensor) -> Tensor:
        """Normalize a map ``(B, C, h, w)`` at each position."""
        features = features.float()
        if self.target_norm == 'ln':
            channels = features.shape[1:2]
            features = F.layer_norm(features.movedim(1, -1), channels, eps=EPS).movedim(-1, 1)
        elif self.target_norm == 'l2':
            features = F.normalize(features, dim=1)
        return features
