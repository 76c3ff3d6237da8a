"""Options of fusion, and those that go with the two presets of the curves.

``official`` is what the authors' code does (github.com/anonymous-iccv2021/PRAE: ensemble-2-models.py; no license, read
for facts only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..calibration.options import check_choices, preset_of

HEADS = ('wbf', 'nms', 'soft_nms', 'nmw', 'noisy_or')
KEEPING = ('nms', 'soft_nms')  # heads whose boxes are input boxes
COUNTS = ('boxes', 'models')


@dataclass(frozen=True)
class FuseConfig:
    """How refined boxes are merged; the defaults go with the preset ``robust``.

    Args:
        head: ``wbf``, ``nmw`` and ``noisy_or`` make new boxes; ``nms`` and ``soft_nms`` keep some of the old ones.
        iou_thr: Boxes of one class with a higher IoU are the same object. Authors' code has 0.7.
        weights: Of the detectors' scores; None for all 1, as in the authors' README.
        corner_weights: Of the detectors' corners, where heads merge boxes; None for ``weights``. A detector can be
            right often and place its boxes loosely.
        max_per_img: Boxes kept of an image.
        skip_below: Refined scores below it are left out.
        count: What a fused score of ``wbf`` counts: ``boxes`` (authors' code), or ``models``, detectors that agree.
        reset_weights: Quirk of the authors' code: in an image where some detectors are silent, the others get weight 1
            and the silent ones do not count.
        known_only: A fused score is relative to the detectors that know the class.
        clip_boxes: Cut right and bottom at the image's border (authors' code).
        min_models: Leave out boxes on which fewer detectors agree; ``wbf``, ``nmw`` and ``noisy_or``.
        sigma: Width of the Gaussian if ``head='soft_nms'``; None for the linear method.
        min_score: Boxes that fall below it are dropped if ``head='soft_nms'``.

    Raises:
        ValueError: For a value that is not allowed.
    """

    head: str = 'wbf'
    iou_thr: float = 0.55
    weights: Sequence[float] | None = None
    corner_weights: Sequence[float] | None = None
    max_per_img: int = 100
    skip_below: float = 0.0
    count: str = 'boxes'
    reset_weights: bool = False
    known_only: bool = True
    clip_boxes: bool = False
    min_models: int = 1
    sigma: float | None = 0.5
    min_score: float = 1e-3

    def __post_init__(self) -> None:
        check_choices(self, dict(head=HEADS, count=COUNTS))
        if not 0 < self.iou_thr <= 1:
            raise ValueError(f'iou_thr is {self.iou_thr}; it must be in (0, 1]')
        if self.max_per_img < 1 or self.min_models < 1:
            raise ValueError('max_per_img and min_models must be positive')
        for name in ('weights', 'corner_weights'):
            weights = getattr(self, name)
            if weights is not None:
                object.__setattr__(self, name, tuple(weights))  # a list is unequal to a tuple of the same weights
                if not all(weight > 0 for weight in weights):
                    raise ValueError(f'{name} are {list(weights)}; they must be positive')
        if self.sigma is not None and self.sigma <= 0:
            raise ValueError(f'sigma is {self.sigma}; it must be positive, or None for the linear method')
        if self.min_models > 1 and self.head in KEEPING:
            raise ValueError(f'min_models needs a head that merges boxes, not {self.head!r}')


FUSE_PRESETS = dict(
    robust={},
    official=dict(iou_thr=0.7, skip_below=1e-4, reset_weights=True, known_only=False, clip_boxes=True),
)


def fuse_config(preset: str = 'robust', **options) -> FuseConfig:
    """Options of fusion that go with a preset, some of them replaced."""
    return FuseConfig(**{**preset_of(FUSE_PRESETS, preset), **options})
