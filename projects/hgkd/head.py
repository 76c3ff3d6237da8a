"""Distance between the student's predictions and the teacher's features, and where it is taken.

The public text of H-GKD (arXiv 2309.09571, abstract) names neither the loss nor the supervised positions. Not in the
paper: all of this file. Smooth-L1 with beta 2 over all positions on normalized targets is what G2SD (CVPR 2023) does in
the nearest setting, a small student that distils from a masked autoencoder.

Shapes: ``B`` images, ``C`` channels of the teacher, ``(h, w)`` its grid of tokens, ``(H, W)`` the image in pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor

from .masks import expand_active
from .teachers.provider import CHECK_INTERVAL

LOSSES = ('smooth_l1', 'mse', 'cosine')
POSITIONS = ('all', 'masked', 'visible')


@MODELS.register_module()
class FeaturePredictHead(BaseModule):
    """Loss between a predicted and a target feature map: ``sum_i w_i D(z_i, t_i) / sum_i w_i``.

    It has no parameters: the layer that maps the student to the teacher's channels belongs to the decoder.

    Args:
        loss_type: ``'smooth_l1'`` (mean over channels), ``'mse'`` (mean over channels) or ``'cosine'``
            (``1 - cos``; use it with ``target_norm='l2'`` of the hook).
        beta: Where smooth-L1 turns from square to linear, > 0. Default 2.0, as in G2SD.
        supervise: Positions that count: ``'all'``, only those the student cannot see (``'masked'``), or only those it
            sees (``'visible'``).
        loss_weight: Factor.

    Raises:
        ValueError: An argument is none of these.
    """

    def __init__(
        self, loss_type: str = 'smooth_l1', beta: float = 2.0, supervise: str = 'all', loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        if loss_type not in LOSSES:
            raise ValueError(f'loss_type must be one of {LOSSES}, got {loss_type!r}')
        if supervise not in POSITIONS:
            raise ValueError(f'supervise must be one of {POSITIONS}, got {supervise!r}')
        if beta <= 0:
            raise ValueError(f'beta must be positive, got {beta}')
        self.loss_type = loss_type
        self.beta = beta
        self.supervise = supervise
        self.loss_weight = loss_weight
        self._calls = 0

    def forward(self, pred: Tensor, target: Tensor, active: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar in float32 whatever the dtype of the inputs.

        Args:
            pred: ``(B, C, h, w)``.
            target: ``(B, C, h, w)``, normalized and detached.
            active: ``(B, 1, H/32, W/32)`` bool, True = the student sees the cell. Each side of the target's grid is a
                multiple of it. None: a student without a mask, all positions count.

        Raises:
            ValueError: Shapes do not fit.
            FloatingPointError: The target holds NaN or infinity; looked at in the first call and each 50th.
        """
        if pred.shape != target.shape:
            raise ValueError(f'prediction {tuple(pred.shape)} and target {tuple(target.shape)} differ in shape')
        if self._calls % CHECK_INTERVAL == 0 and not torch.isfinite(target).all():  # the host waits to know
            raise FloatingPointError('the target of the distillation loss is not finite')
        self._calls += 1
        distance = self.distance(pred.float(), target.float())
        if active is None:
            return self.loss_weight * distance.mean()
        weight = self.position_weight(active, target.shape[-2:]).to(distance)
        # A batch without a supervised position gives 0, not NaN.
        return self.loss_weight * (distance * weight).sum() / weight.sum().clamp(min=1)

    def distance(self, pred: Tensor, target: Tensor) -> Tensor:
        """Return the distance at each position, ``(B, h, w)``, of two maps ``(B, C, h, w)``."""
        if self.loss_type == 'cosine':
            return 1 - F.cosine_similarity(pred, target, dim=1)
        if self.loss_type == 'mse':
            return F.mse_loss(pred, target, reduction='none').mean(dim=1)
        return F.smooth_l1_loss(pred, target, beta=self.beta, reduction='none').mean(dim=1)

    def position_weight(self, active: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return 1 where the loss is taken and 0 elsewhere, ``(B, h, w)`` for the grid ``(h, w)``."""
        active = expand_active(active, grid)
        if self.supervise == 'all':
            return torch.ones_like(active, dtype=torch.float32)
        return (active if self.supervise == 'visible' else ~active).float()
