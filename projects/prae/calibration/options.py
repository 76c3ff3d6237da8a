"""Options of fitting, and the two presets.

``official`` is what the authors' code does (github.com/anonymous-iccv2021/PRAE: bandit.py, conf_refinement.py; no
license, read for facts only). ``robust`` is ours, not in the paper; DETAILS.md says what differs, and why.
"""

from __future__ import annotations

from dataclasses import dataclass

TARGETS = ('quality', 'hit', 'iou')
MATCHES = ('greedy', 'any')
LEVELS = ('equal', 'fixed')
TRANSFORMS = (None, 'sigmoid', 'minmax')


@dataclass(frozen=True)
class FitConfig:
    """How a curve is fitted; the defaults are the preset ``robust``.

    Args:
        levels: ``equal``: levels of equal evidence (boxes and hits) of the ranked fit scores, any real scores; the
            curve is a table of probabilities. ``fixed``: 24 levels of width 0.04 above 0.04, scores in [0, 1]; the
            score is scaled by probability / center of its level, and boxes below 0.04 are dropped (authors' code).
        num_levels: Number of levels if ``levels='equal'``.
        target: ``quality``: mean over IoU .5:.05:.95 of being right. ``hit``: right at ``hit_iou``. ``iou``: best IoU.
        hit_iou: IoU threshold if ``target='hit'``; authors' code has 0.5.
        match: ``greedy``: one-to-one, ignored objects left out. ``any``: see :func:`calibration.matching.hits_any`.
        theta: Weight of the upper confidence bound, >= 0; authors' code has 0.5.
        shrink: Boxes that the prior counts as; 0 for none.
        prior: ``smooth``, the mean of near levels, or ``pav``, monotone.
        monotone: Pool adjacent violators, so that the order of one detector's boxes stays.
        clip: Keep probabilities in [0, 1].
        per_category: A curve for each category with at least ``category_min`` boxes, shrunk to the detector's.
        category_shrink: Boxes that the detector's curve counts as in a category's.
        category_min: See ``per_category``.
        score_transform: Before ``fixed`` levels: ``sigmoid`` for logits, ``minmax`` for any range.
        preset: What these options began with, as :func:`fit_config` sets it; fusion has its own options for each.

    Raises:
        ValueError: For a value that is not allowed.
    """

    levels: str = 'equal'
    num_levels: int = 100
    target: str = 'quality'
    hit_iou: float = 0.5
    match: str = 'greedy'
    theta: float = 0.0
    shrink: float = 20.0
    prior: str = 'smooth'
    monotone: bool = True
    clip: bool = True
    per_category: bool = False
    category_shrink: float = 50.0
    category_min: int = 40
    score_transform: str | None = None
    preset: str = 'robust'

    def __post_init__(self) -> None:
        choices = dict(
            levels=LEVELS, target=TARGETS, match=MATCHES, prior=('smooth', 'pav'), score_transform=TRANSFORMS
        )
        check_choices(self, choices)
        for name in ('theta', 'shrink', 'category_shrink', 'num_levels'):
            if getattr(self, name) < 0:
                raise ValueError(f'{name} is {getattr(self, name)}; it must not be negative')
        if self.num_levels < 1:
            raise ValueError('num_levels is 0; it must be positive')
        if self.match == 'any' and self.target == 'quality':
            raise ValueError("match 'any' goes with target 'hit' or 'iou'; 'quality' is one-to-one")


FIT_PRESETS = dict(
    robust={},
    official=dict(
        levels='fixed', target='hit', match='any', theta=0.5, shrink=0.0, monotone=False, clip=False
    ),
)  # fmt: skip


def fit_config(preset: str = 'robust', **options) -> FitConfig:
    """Options of a preset, some of them replaced."""
    return FitConfig(**{**preset_of(FIT_PRESETS, preset), 'preset': preset, **options})


def preset_of(presets: dict, name: str) -> dict:
    """Options of a preset.

    Raises:
        ValueError: If there is none of that name.
    """
    if name not in presets:
        raise ValueError(f'unknown preset {name!r}; there are {sorted(presets)}')
    return presets[name]


def check_choices(cfg: object, choices: dict) -> None:
    """Check options that have a list of values.

    Raises:
        ValueError: If one is not in its list.
    """
    for name, allowed in choices.items():
        if getattr(cfg, name) not in allowed:
            raise ValueError(f'{name} is {getattr(cfg, name)!r}; it must be one of {list(allowed)}')
