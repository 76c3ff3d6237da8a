"""The attentive probe of CAE: how well a frozen encoder's patches, not its class token, tell the classes apart."""

from __future__ import annotations

import torch
from mmpretrain.models.heads import LinearClsHead
from mmpretrain.models.utils import CrossMultiheadAttention
from mmpretrain.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class AttentiveProbeHead(LinearClsHead):
    """One learned query looks at all tokens; batch norm and a linear classifier follow.

    CAE, "attentive probing"; details from the authors' code: the query starts from zero, so the first step sees the
    mean of the tokens; query, keys and values have a norm each; no residual and no MLP; the batch norm has no
    weights. The backbone must give all tokens (``out_type='raw'``) and be frozen (``frozen_stages`` = its depth).

    Args:
        num_classes: Number of classes.
        in_channels: Width of the tokens, D.
        num_heads: Heads of the attention; must divide ``in_channels``.
        eps: Of the batch norm and the norms.
        **kwargs: Arguments of :class:`LinearClsHead`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_heads: int = 12,
        eps: float = 1e-6,
        init_cfg: dict | list[dict] | None = None,
        **kwargs,
    ) -> None:
        if in_channels % num_heads:
            raise ValueError(f'in_channels={in_channels} cannot be divided among num_heads={num_heads}')
        default = dict(
            type='TruncNormal', layer='Linear', std=0.02, override=dict(type='Normal', name='fc', std=0.01)
        )  # authors' code
        super().__init__(num_classes, in_channels, init_cfg=init_cfg or default, **kwargs)
        self.query = nn.Parameter(torch.zeros(1, 1, in_channels))
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(in_channels, eps=eps) for _ in range(3))
        self.attn = CrossMultiheadAttention(in_channels, num_heads, qkv_bias=True)
        self.bn = nn.BatchNorm1d(in_channels, affine=False, eps=eps)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Pool the tokens.

        Args:
            feats: Features of the backbone; the last is (B, 1 + N, D).

        Returns:
            Tensor (B, D).
        """
        tokens = feats[-1]
        if tokens.ndim != 3:
            raise ValueError(
                f"the attentive probe needs all tokens (B, 1 + N, D), not {tuple(tokens.shape)}: set out_type='raw' "
                f'in the backbone'
            )
        query = self.norm_q(self.query).expand(len(tokens), -1, -1)
        return self.bn(self.attn(query, self.norm_k(tokens), self.norm_v(tokens))[:, 0])
