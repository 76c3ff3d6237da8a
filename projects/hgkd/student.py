"""What the hook asks of a student. Not in the paper (arXiv 2309.09571)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .teachers.provider import TeacherProvider


class Student:
    """A model that learns from a teacher which it does not own; a base beside the host's class.

    :class:`mmplugins.hgkd.HGKD` is one, :class:`mmplugins.hgkd.HGKDDistilledModel` makes one of any model.

    Attributes:
        teacher: Slot for the time of the training, filled by :class:`mmplugins.hgkd.GenerativeDistillHook`.
        distill_weight: Factor of the losses of the distillation, set by the hook in each iteration.
        distill_log: Scalars about the last targets, which the hook logs.
        input_size: Side, or ``(height, width)``, in pixels of the image for checks before the training.
        target_stride: Pixels between two positions of the targets, for ``resize_input=True`` of the hook.
    """

    teacher: TeacherProvider | None = None
    distill_weight: float = 1.0
    distill_log: dict[str, Tensor] = {}  # noqa: RUF012 - never changed, only replaced
    input_size: int | tuple[int, int] = 224
    target_stride: int = 16

    def check_teacher(self, teacher: TeacherProvider, images: Tensor) -> list[Tensor]:
        """See that a teacher fits, before the training.

        Args:
            teacher: Gives the targets.
            images: One image ``(1, C, H, W)`` of ``input_size``.

        Returns:
            Its targets, each ``(1, D, h, w)``.

        Raises:
            ValueError: It does not; the message says what to change.
        """
        raise NotImplementedError

    def describe(self, images: Tensor) -> list[str]:
        """Return a line about each map that learns, for people.

        Args:
            images: One image ``(1, C, H, W)``.
        """
        raise NotImplementedError

    def encode_whole(self, images: Tensor) -> None:
        """Run backbone and neck on whole images ``(B, C, H, W)``, to see what they keep for the backward pass."""
        self.extract_feat(images)

    def require_teacher(self) -> TeacherProvider:
        """Return the teacher.

        Raises:
            RuntimeError: The slot is empty.
        """
        if self.teacher is None:
            raise RuntimeError(
                f'{type(self).__name__} has no teacher: add GenerativeDistillHook to custom_hooks of the config'
            )
        return self.teacher


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, without gradients, and each of its modules back into the mode that it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
