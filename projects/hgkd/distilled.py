"""Any model of mmpretrain, mmdet or mmseg as the student of any teacher, by config alone.

Not in the paper (arXiv 2309.09571), whose student is masked and has no other task: here the student keeps its task, its
data and its losses, and features of it learn from a teacher beside them.

Shapes: ``B`` images of ``(H, W)`` pixels, ``C`` channels of the student, ``D`` of the teacher, ``(h, w)`` a grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from .student import Student, evaluating
from .taps import Taps
from .teachers.layout import to_map
from .teachers.probe import check_teacher
from .teachers.provider import TeacherProvider


class FeatureDistiller(BaseModule):
    """Projectors and losses of a student: what the distillation adds to it that is trained and kept in checkpoints.

    Args:
        student_taps: Channels ``C`` by the name of a module of the student.
        teacher_channels: ``D`` of the teacher's taps, in the order of the student's.
        projector: Config of the layer from ``C`` to ``D`` channels, one for each tap.
        losses: Configs of the losses, for each tap; one without a type is a ``FeaturePredictHead``.

    Raises:
        ValueError: Not as many taps of the student as of the teacher.
    """

    def __init__(
        self,
        student_taps: Mapping[str, int],
        teacher_channels: Sequence[int],
        projector: dict,
        losses: Sequence[dict],
    ) -> None:
        super().__init__()
        if len(student_taps) != len(teacher_channels) or not student_taps or not losses:
            raise ValueError(
                f'{len(student_taps)} student_taps, {len(teacher_channels)} teacher_channels, {len(losses)} losses: '
                'each tap of the student has one of the teacher, and at least one loss. In a config that is based on '
                'another, student_taps=dict(_delete_=True, …) drops the taps of that one'
            )
        self.student_taps = dict(student_taps)
        self.projectors = nn.ModuleList(
            MODELS.build({**projector, 'in_channels': own, 'out_channels': theirs})
            for own, theirs in zip(self.student_taps.values(), teacher_channels, strict=True)
        )
        self.teacher_channels = list(teacher_channels)
        self.losses = nn.ModuleList(MODELS.build({'type': 'mmpretrain.FeaturePredictHead', **cfg}) for cfg in losses)

    def project(
        self, features: Mapping[str, Tensor], image_size: tuple[int, int], network: nn.Module
    ) -> dict[str, Tensor]:
        """Return the prediction ``(B, D, h, w)`` of each tap that gave something, on the student's grid.

        Args:
            features: Output of each tap, map or tokens.
            image_size: ``(H, W)``.
            network: The student's backbone, which knows its tokens.

        Raises:
            ValueError: A tap has other channels than were said.
        """
        predictions = {}
        for (name, channels), projector in zip(self.student_taps.items(), self.projectors, strict=True):
            if name not in features:
                continue
            feature = to_map(name, features[name], image_size, network)
            if feature.shape[1] != channels:
                raise ValueError(
                    f'the tap {name!r} of the student has {feature.shape[1]} channels: set '
                    f'student_taps={{{name!r}: {feature.shape[1]}}}, not {channels}'
                )
            predictions[name] = projector(feature)
        return predictions

    def forward(self, predictions: list[Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
        """Return the sum of the losses of each tap: ``loss_distill``, or ``loss_distill_<number>`` of several.

        Args:
            predictions: ``(B, D, h', w')`` each, resized to the grid of the target.
            targets: ``(B, D, h, w)`` each.
        """
        found = {}
        for number, (pred, target) in enumerate(zip(predictions, targets, strict=True)):
            pred = pred.float()
            if pred.shape[2:] != target.shape[2:]:
                pred = F.interpolate(pred, target.shape[2:], mode='bilinear', antialias=True)
            name = 'loss_distill' if len(targets) == 1 else f'loss_distill_{number}'
            found[name] = sum(loss(pred, target) for loss in self.losses)
        return found


class Distilled(Student):
    """What a model becomes; stands before its own class."""

    distiller: FeatureDistiller

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'
    ) -> dict[str, Tensor] | list | tuple | Tensor:
        """Call the model; in mode ``'loss'`` add the losses of the distillation.

        Args:
            inputs: ``(B, C, H, W)`` as they come from the data preprocessor; the teacher sees the padding too.
            data_samples: Of the model.
            mode: ``'loss'``, ``'predict'`` or ``'tensor'``; only the first needs the teacher.

        Raises:
            ValueError: In training, a tap gives something without a gradient, so that the student could not learn.
        """
        if mode != 'loss':
            return super().forward(inputs, data_samples, mode=mode)
        teacher = self.require_teacher()
        with Taps(self, self.distiller.student_taps, 'student').listen() as features:
            losses = super().forward(inputs, data_samples, mode=mode)
        constant = [name for name, feature in features.items() if not feature.requires_grad]
        if constant and self.training and torch.is_grad_enabled():
            raise ValueError(
                f'the taps {constant} of the student pass no gradient on, so that it would not learn from the teacher: '
                'frozen, or inside a block that with_cp computes again. Tap a stage that is trained, as a whole'
            )
        predictions = [*self.distiller.project(features, tuple(inputs.shape[2:]), self._backbone).values()]
        targets = teacher.maps(inputs)
        if targets is None:
            # No parameter may be without a gradient under DDP. Not sum() * 0: a sum in half precision can overflow.
            return {**losses, 'loss_distill': sum((pred * 0).sum() for pred in predictions)}
        self.distill_log = dict(target_std=torch.stack([target.std() for target in targets]).mean())
        distilled = self.distiller(predictions, targets)
        return {**losses, **{name: self.distill_weight * loss for name, loss in distilled.items()}}

    @property
    def _backbone(self) -> nn.Module:
        return getattr(self, 'backbone', self)

    def check_teacher(self, teacher: TeacherProvider, images: Tensor) -> list[Tensor]:
        """See that a teacher fits; as in :class:`Student`."""
        if teacher.mode != 'full':
            raise ValueError(f"mode {teacher.mode!r} needs a student with a mask, as HGKD; this one takes 'full'")
        targets = check_teacher(teacher, images)
        widths = [target.shape[1] for target in targets]
        if widths != self.distiller.teacher_channels:
            raise ValueError(
                f'the taps {list(teacher.taps)} of the teacher have {widths} channels: set teacher_channels={widths}, '
                f'not {self.distiller.teacher_channels}'
            )
        self.features(images)
        return targets

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the projected map ``(B, D, h, w)`` of each tap of the student that backbone and neck reach.

        Raises:
            ValueError: A tap has other channels than were said.
        """
        taps = Taps(self, self.distiller.student_taps, 'student')
        with evaluating(self), taps.listen(once=False) as features:
            self.extract_feat(images)
            return self.distiller.project(features, tuple(images.shape[2:]), self._backbone)

    def describe(self, images: Tensor) -> list[str]:
        """Return a line about each tap of the student; as in :class:`Student`."""
        found = self.features(images)
        lines = []
        for name in self.distiller.student_taps:
            grid = (
                f'grid {found[name].shape[2]} x {found[name].shape[3]}'
                if name in found
                else 'outside backbone and neck'
            )
            lines.append(f'student {name}: {self.distiller.student_taps[name]} channels, {grid}')
        return lines


@MODELS.register_module(name='HGKDDistilledModel')
def distilled_model(
    student: dict | BaseModel,
    student_taps: Mapping[str, int],
    teacher_channels: Sequence[int],
    projector: dict = dict(type='Conv2d', kernel_size=1),  # noqa: B006 - only read; the style of the hosts
    losses: Sequence[dict] = ({},),
    input_size: int | Sequence[int] = 224,
    target_stride: int = 16,
    data_preprocessor: dict | None = None,
) -> BaseModel:
    """Return a model of any host that learns features of a teacher beside its task; needs ``GenerativeDistillHook``.

    It is the student itself, with one child ``distiller`` more: projectors are there before the optimizer is built and
    DDP wraps the model, and a checkpoint is one of the student, which loads into its plain config.

    Args:
        student: Config of a classifier, detector or segmentor; or the model itself, changed in place.
        student_taps: Channels ``C`` by the name of a module of the student, whose output ``(B, C, h, w)`` (or tokens)
            learns: ``{'backbone.layer3': 256}``; ``neck[1]`` is the second of several outputs.
        teacher_channels: Channels ``D`` of the hook's ``taps``, in the same order.
        projector: Layer from ``C`` to ``D`` channels, any in ``MODELS`` with ``in_channels`` and ``out_channels``.
        losses: Losses, each for every tap; a config without a type is a ``FeaturePredictHead``, others are called
            with prediction and target ``(B, D, h, w)``.
        input_size: Side, or ``(height, width)``, in pixels of the image that teacher and student are tried on before
            the training.
        target_stride: Pixels of a position of the targets, if the hook has ``resize_input=True`` (patches of 14).
        data_preprocessor: Of the student, if its config has none.

    Raises:
        ValueError: The student has no such module, or taps and channels are not as many.
    """
    if not isinstance(student, nn.Module):
        student = dict(student)
        if data_preprocessor is not None:
            student.setdefault('data_preprocessor', data_preprocessor)
        student = MODELS.build(student)
    Taps(student, student_taps, 'student')  # an unknown name is said here
    student.distiller = FeatureDistiller(student_taps, teacher_channels, projector, losses)
    student.input_size, student.target_stride = input_size, target_stride
    kind = type(student)
    student.__class__ = type(f'Distilled{kind.__name__}', (Distilled, kind), {'__doc__': kind.__doc__})
    return student
