"""Binary classification against language vectors (METR, arXiv 2304.03580, abstract: multi-class becomes binary).

The form ``<g(x), c> / sqrt(D) + b`` follows the released code; it comes from Obj2Seq (arXiv 2209.13948).
"""

import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule, bias_init_with_prob
from torch import Tensor, nn


@MODELS.register_module()
class LanguageClassifier(BaseModule):
    """Score features against category vectors.

    Args:
        embed_dims: ``D``.
        num_fcs: Layers of ``g``; ReLU between them. The released code uses 2.
        prior_prob: Probability that the scalar bias ``b`` stands for at the start. 0.1 is the released value of the
            category extraction module.
        init_cfg: See :class:`mmengine.model.BaseModule`.
    """

    def __init__(
        self, embed_dims: int = 256, num_fcs: int = 2, prior_prob: float = 0.1, init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.embed_dims = embed_dims
        self.prior_prob = prior_prob
        layers = [nn.Linear(embed_dims, embed_dims)]
        for _ in range(num_fcs - 1):
            layers += [nn.ReLU(inplace=True), nn.Linear(embed_dims, embed_dims)]
        self.features = nn.Sequential(*layers)
        self.bias = nn.Parameter(torch.tensor(bias_init_with_prob(prior_prob)))

    def init_weights(self) -> None:
        """Xavier weights, bias from ``prior_prob``."""
        super().init_weights()
        for layer in self.features:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.constant_(self.bias, bias_init_with_prob(self.prior_prob))

    def forward(self, x: Tensor, class_vectors: Tensor) -> Tensor:
        """Score each feature against the vector that stands at the same place.

        Args:
            x: ``(..., D)``.
            class_vectors: ``(..., D)``, broadcastable to ``x``.

        Returns:
            Logits ``(...)``.
        """
        return (self.features(x) * class_vectors).sum(-1) / self.embed_dims**0.5 + self.bias

    def pairwise(self, x: Tensor, class_vectors: Tensor) -> Tensor:
        """Score each feature against every vector.

        Args:
            x: ``(B, N, D)``.
            class_vectors: ``(B, V, D)``.

        Returns:
            Logits ``(B, N, V)``.
        """
        return self.features(x) @ class_vectors.transpose(1, 2) / self.embed_dims**0.5 + self.bias
