"""Options of fitting and of fusion, and the two presets.

``official`` is what the authors' code does (github.com/anonymous-iccv2021/PRAE: bandit.py, conf_refinement.py,
ensemble-2-models.py; no license, read for facts only). ``robust`` is ours; what differs is marked "Not in the paper" in
the README, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

HEADS = ('wbf', 'nms', 'soft_nms', 'nmw', 'noisy_or')
TARGETS = ('quality', 'hit', 'iou')
MATCHES = ('greedy', 'any')
LEVELS = ('equal', 'fixed')
TRANSFORMS = (None, 'sigmoid', 'minmax')
COUNTS = ('boxes', 'models')


@dataclass(frozen=True)
class FitConfig:
    """How a curve is fitted; the defaults are the preset ``robust``.

    Args:
        levels: ``equal``: equal-count levels of the ranked fit scores, any real scores; the curve is a table of
            probabilities. ``fixed``: 24 levels of width 0.04 above 0.04, scores in [0, 1]; the score is scaled by
            probability / center of its level, and boxes below 0.04 are dropped (authors' code).
        num_levels: Of ``equal``.
        target: ``quality``: mean over IoU .5:.05:.95 of being right. ``hit``: right at ``hit_iou``. ``iou``: best IoU.
        hit_iou: Of ``hit``; authors' code has 0.5.
        match: ``greedy``: one-to-one, ignored objects left out. ``any``: see :func:`matching.hits_any`.
        theta: Weight of the upper confidence bound, >= 0; authors' code has 0.5.
        shrink: Boxes that the prior counts as; 0 for none.
        prior: ``quadratic`` in the rank, or ``pav``, monotone.
        monotone: Pool adjacent violators, so that the order of one detector's boxes stays.
        clip: Keep probabilities in [0, 1].
        per_category: A curve for each category with at least ``category_min`` boxes, shrunk to the detector's.
        category_shrink: Boxes that the detector's curve counts as in a category's.
        category_min: See ``per_category``.
        score_transform: Before ``fixed`` levels: ``sigmoid`` for logits, ``minmax`` for any range.

    Raises:
        ValueError: For a value that is not allowed.
    """

    levels: str = 'equal'
    num_levels: int = 40
    target: str = 'quality'
    hit_iou: float = 0.5
    match: str = 'greedy'
    theta: float = 0.0
    shrink: float = 20.0
    prior: str = 'quadratic'
    monotone: bool = True
    clip: bool = True
    per_category: bool = False
    category_shrink: float = 50.0
    category_min: int = 40
    score_transform: str | None = None

    def __post_init__(self) -> None:
        choices = dict(
            levels=LEVELS, target=TARGETS, match=MATCHES, prior=('quadratic', 'pav'), score_transform=TRANSFORMS
        )
        _check_choices(self, choices)
        for name in ('theta', 'shrink', 'category_shrink', 'num_levels'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}; it must not be negative')
        if self.num_levels < 1:
            raise ValueError('num_levels is 0; it must be positive')
        if self.match == 'any' and self.target == 'quality':
            raise ValueError("match 'any' goes with target 'hit' or 'iou'; 'quality' is one-to-one")


@dataclass(frozen=True)
class FuseConfig:
    """How refined boxes are merged; the defaults go with the preset ``robust``.

    Args:
        head: ``wbf``, ``nmw`` and ``noisy_or`` make new boxes; ``nms`` and ``soft_nms`` keep some of the old ones.
        iou_thr: Boxes of one class with a higher IoU are the same object. Authors' code has 0.7.
        weights: Of the detectors; None for all 1, as in the authors' README.
        max_per_img: Boxes kept of an image.
        skip_below: Refined scores below it are left out.
        count: Of ``wbf``: a fused score counts ``boxes`` (authors' code), or ``models``: detectors that agree.
        reset_weights: Quirk of the authors' code: in an image where some detectors are silent, the others get weight 1
            and the silent ones do not count.
        known_only: A fused score is relative to the detectors that know the class.
        clip_boxes: Cut right and bottom at the image's border (authors' code).
        min_models: Leave out boxes on which fewer detectors agree; ``wbf``, ``nmw`` and ``noisy_or``.
        sigma: Of ``soft_nms``; None for the linear method.
        min_score: Of ``soft_nms``: boxes that fall below it are dropped.

    Raises:
        ValueError: For a value that is not allowed.
    """

    head: str = 'wbf'
    iou_thr: float = 0.55
    weights: Sequence[float] | None = None
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
        _check_choices(self, dict(head=HEADS, count=COUNTS))
        if not 0 < self.iou_thr <= 1:
            raise ValueError(f'iou_thr is {self.iou_thr}; it must be in (0, 1]')
        if self.max_per_img < 1 or self.min_models < 1:
            raise ValueError('max_per_img and min_models must be positive')
        if self.weights is not None and not all(weight > 0 for weight in self.weights):
            raise ValueError(f'weights are {list(self.weights)}; they must be positive')
        if self.sigma is not None and self.sigma <= 0:
            raise ValueError(f'sigma is {self.sigma}; it must be positive, or None for the linear method')
        if self.min_models > 1 and self.head in ('nms', 'soft_nms'):
            raise ValueError(f'min_models needs a head that merges boxes, not {self.head!r}')


FIT_PRESETS = dict(
    robust={},
    official=dict(
        levels='fixed', target='hit', match='any', theta=0.5, shrink=0.0, monotone=False, clip=False
    ),
)  # fmt: skip
FUSE_PRESETS = dict(
    robust={},
    official=dict(iou_thr=0.7, skip_below=1e-4, reset_weights=True, known_only=False, clip_boxes=True),
)


def fit_config(preset: str = 'robust', **options) -> FitConfig:
    """Options of a preset, some of them replaced."""
    return FitConfig(**{**_preset(FIT_PRESETS, preset), **options})


def fuse_config(preset: str = 'robust', **options) -> FuseConfig:
    """Options of fusion that go with a preset, some of them replaced."""
    return FuseConfig(**{**_preset(FUSE_PRESETS, preset), **options})


def as_dict(cfg: FitConfig) -> dict:
    """Options as plain values, for the calibration file."""
    return asdict(cfg)


def from_dict(values: dict) -> FitConfig:
    """Options from a calibration file.

    Raises:
        ValueError: If there is an unknown one.
    """
    unknown = sorted(set(values) - {field.name for field in fields(FitConfig)})
    if unknown:
        raise ValueError(f'unknown options {unknown}')
    return FitConfig(**values)


def _preset(presets: dict, name: str) -> dict:
    if name not in presets:
        raise ValueError(f'unknown preset {name!r}; there are {sorted(presets)}')
    return presets[name]


def _check_choices(cfg: object, choices: dict) -> None:
    for name, allowed in choices.items():
        if getattr(cfg, name) not in allowed:
            raise ValueError(f'{name} is {getattr(cfg, name)!r}; it must be one of {list(allowed)}')
