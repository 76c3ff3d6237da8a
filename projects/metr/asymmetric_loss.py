"""Multi-label asymmetric loss with a mask for categories that nobody annotated (METR's category extraction module).

The loss is that of arXiv 2009.14119 with the released code's values (gamma+ 0, gamma- 2, no clip, detached focusing
weights). mmdet has no multi-label loss; mmpretrain's ``AsymmetricLoss`` has no per-entry normalization.
"""

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class MultiLabelAsymmetricLoss(nn.Module):
    r"""``-(1/B) sum_b V / sum_k w_bk sum_k w_bk [y (1-p)^{g+} log p + (1-y) p^{g-} log(1-p)]``.

    With ``gamma_pos = gamma_neg = 0`` and all weights 1 this is binary cross entropy summed over categories and
    averaged over images.

    Note:
        Not in the paper: our decision. The weights are normalized within each image (the released code does it over the
        batch, and all its weights are 1), so that an image of a data set with few annotated categories counts as much
        as another.

    Args:
        gamma_pos: Focusing exponent of positives.
        gamma_neg: Focusing exponent of negatives.
        loss_weight: Factor. 1.0 in the released training.
    """

    def __init__(self, gamma_pos: float = 0.0, gamma_neg: float = 2.0, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Compute the loss.

        Args:
            logits: ``(B, V)``.
            targets: ``(B, V)``, 1 where the category is in the image, else 0.
            weight: ``(B, V)``, 0 where the image's data set does not annotate the category. An image without any
                weight adds nothing. None means all ones.

        Returns:
            Scalar.
        """
        # Half precision cannot hold log(1 - p) of a confident negative.
        logits, targets = logits.float(), targets.float()
        weight = torch.ones_like(logits) if weight is None else weight.float()
        prob = logits.detach().sigmoid()
        focusing = targets * (1 - prob) ** self.gamma_pos + (1 - targets) * prob**self.gamma_neg
        loss = F.binary_cross_entropy_with_logits(logits, targets, reduction='none') * focusing * weight
        per_image = loss.sum(1) * logits.size(1) / weight.sum(1).clamp(min=1e-6)
        return self.loss_weight * per_image.mean()
