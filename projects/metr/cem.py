"""Category extraction module (CEM) of METR, arXiv 2304.03580.

Which categories may be in the image? Every name of the vocabulary asks all image tokens; names do not see each other,
so the cost is linear in their number and a name's answer does not depend on the rest of the vocabulary. Follows the
released code, whose module derives from Obj2Seq (arXiv 2209.13948, Apache-2.0).

Shapes: ``B`` images, ``N`` memory tokens, ``V`` names, ``K`` kept names an image, ``D`` channels.
"""

from dataclasses import dataclass

import torch
from mmcv.cnn.bricks.transformer import FFN
from mmdet.registry import MODELS
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from .text.classifier import LanguageClassifier


@dataclass
class Categories:
    """What the CEM says of a batch.

    Attributes:
        vectors: ``(B, V, D)``, image-conditioned vectors of all names.
        logits: One ``(B, V)`` a block.
        allowed: ``(B, V)`` bool, the names that may be kept: those that are annotated in the image (training) or the
            active vocabulary (test).
        keep: ``(B, K)``, rows of the kept names, ascending.
        valid: ``(B, K)`` bool; False where an image has fewer than ``K`` allowed names and the slot is a filler.
        gt_counts: ``(B, V)``, ground-truth boxes of each name; None at test time.
        exhaustive: ``(B, V)`` bool, False where only some of the name's objects in the image have boxes, so that a
            query without a box may well hold one; None: True everywhere.
    """

    vectors: Tensor
    logits: list[Tensor]
    allowed: Tensor
    keep: Tensor
    valid: Tensor
    gt_counts: Tensor | None = None
    exhaustive: Tensor | None = None

    @property
    def kept_vectors(self) -> Tensor:
        """``(B, K, D)``."""
        return self.vectors.gather(1, self.keep[..., None].expand(-1, -1, self.vectors.size(-1)))


class CrossAttentionBlock(BaseModule):
    """Cross-attention and FFN, post-norm, without self-attention between the queries.

    ``torch``'s attention is used and not mmcv's wrapper, which always asks for the attention map: ``(B, heads, V, N)``
    is about 0.6 GB an image for a vocabulary of 1,000 names.
    """

    def __init__(self, embed_dims: int, num_heads: int, feedforward_channels: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, batch_first=True)
        self.ffn = FFN(embed_dims, feedforward_channels)
        self.norms = ModuleList([nn.LayerNorm(embed_dims) for _ in range(2)])

    def forward(self, query: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        """``query (B, V, D)``, ``memory (B, N, D)``, ``memory_mask (B, N)`` True at padding; returns ``(B, V, D)``."""
        attended = self.attn(query, memory, memory, key_padding_mask=memory_mask, need_weights=False)[0]
        return self.norms[1](self.ffn(self.norms[0](query + attended)))


@MODELS.register_module()
class CategoryExtractionModule(BaseModule):
    """Score every name of the vocabulary on an image and keep the best ``K``.

    Args:
        embed_dims: ``D``.
        num_blocks: Cross-attention blocks; 2 in the released code. One classifier serves all.
        num_heads: Attention heads.
        feedforward_channels: Width of the FFN.
        loss: Config of the multi-label loss, applied after each block.
        init_cfg: See :class:`mmengine.model.BaseModule`.

    Raises:
        ValueError: ``num_blocks`` is below 1: nothing would score the names.
    """

    def __init__(
        self,
        embed_dims: int = 256,
        num_blocks: int = 2,
        num_heads: int = 8,
        feedforward_channels: int = 2048,
        loss: dict = None,
        init_cfg: dict | None = None,
    ) -> None:
        if num_blocks < 1:
            raise ValueError(f'the CEM needs `num_blocks` of at least 1, got {num_blocks}')
        if loss is None:
            loss = dict(type='MultiLabelAsymmetricLoss')
        super().__init__(init_cfg=init_cfg)
        self.blocks = ModuleList(
            [CrossAttentionBlock(embed_dims, num_heads, feedforward_channels) for _ in range(num_blocks)]
        )
        self.classifier = LanguageClassifier(embed_dims)
        self.loss_cem = MODELS.build(loss)
        self._warned = False

    def init_weights(self) -> None:
        """Xavier weights in attention and FFN."""
        super().init_weights()
        for parameter in self.blocks.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, prompts: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Condition the prompts on the image and score them.

        Args:
            prompts: ``(V, D)``.
            memory: ``(B, N, D)``.
            memory_mask: ``(B, N)`` bool, True at padding; None when nothing is padded.

        Returns:
            The vectors ``(B, V, D)`` after the last block and one ``(B, V)`` of logits a block.
        """
        vectors = prompts.expand(memory.size(0), -1, -1)
        logits = []
        for block in self.blocks:
            vectors = block(vectors, memory, memory_mask)
            logits.append(self.classifier(vectors, prompts))
        return vectors, logits

    def retain(
        self, logits: Tensor, allowed: Tensor, num_categories: int, gt_counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Choose the kept names.

        Args:
            logits: ``(B, V)`` of the last block.
            allowed: ``(B, V)`` bool.
            num_categories: ``K``; cut to the largest number of allowed names in the batch, but not to none.
            gt_counts: ``(B, V)``, ground-truth boxes of each name. Given in training: names with boxes come before all
                others. When an image has more of them than ``K``, those with most boxes stay (not in the paper: our
                decision), with one warning.

        Returns:
            ``keep (B, K)`` ascending and ``valid (B, K)``.
        """
        score = logits.detach().float().sigmoid()
        if gt_counts is not None:
            score = torch.where(gt_counts > 0, 1.0 + gt_counts, score)
        score = score.masked_fill(~allowed, -1.0)
        num_kept = min(num_categories, max(1, int(allowed.sum(1).max())))
        if gt_counts is not None and not self._warned:
            self._warn_if_dropped(((gt_counts > 0) & allowed).sum(1), num_kept)
        keep = score.topk(num_kept, dim=1).indices.sort(dim=1).values
        return keep, allowed.gather(1, keep)

    def _warn_if_dropped(self, num_present: Tensor, num_kept: int) -> None:
        if int(num_present.max()) > num_kept:
            self._warned = True
            MMLogger.get_current_instance().warning(
                f'An image holds {int(num_present.max())} annotated categories and only num_categories={num_kept} are '
                'kept; the boxes of the others are not trained. Raise num_categories. (Said once.)'
            )

    def loss(self, categories: Categories) -> dict[str, Tensor]:
        """Multi-label loss of every block.

        Args:
            categories: Output of the detector's extraction step, with ``gt_counts``.

        Returns:
            ``loss_cem`` (last block) and ``b<i>.loss_cem`` (earlier ones), scalars.
        """
        targets = categories.gt_counts > 0
        losses = [self.loss_cem(logits, targets, categories.allowed) for logits in categories.logits]
        return {'loss_cem': losses[-1], **{f'b{i}.loss_cem': loss for i, loss in enumerate(losses[:-1])}}
