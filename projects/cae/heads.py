"""Losses of CAE (arXiv 2202.03026, eq. 3) and of CAE v2 (arXiv 2211.09799, and the authors' code).

Shapes: ``B`` images, ``N = V + M`` patches, visible and masked, ``R`` and ``C`` channels, ``K`` tokens of a codebook.
"""

from __future__ import annotations

import torch
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import Tensor
from torch.nn import functional as F

from .tokens import Places, tokens_at


@MODELS.register_module()
class CAEv1Head(BaseModule):
    """Reconstruction plus alignment: ``recon_weight * recon + align_weight * MSE``, each a mean over all elements.

    Reconstruction is the cross-entropy of token ids, or where the target has channels the squared error.

    Args:
        recon_weight: 1 in the paper; 0 leaves out the decoder (an ablation).
        align_weight: lambda of the paper, 2; 0 leaves out the alignment, and with it the second pass of the encoder.

    Raises:
        ValueError: A weight is negative, or both are 0.
    """

    def __init__(self, recon_weight: float = 1.0, align_weight: float = 2.0, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg=init_cfg)
        if min(recon_weight, align_weight) < 0 or recon_weight == align_weight == 0:
            raise ValueError(f'recon_weight={recon_weight}, align_weight={align_weight}: there is nothing to learn')
        self.recon_weight, self.align_weight = recon_weight, align_weight

    def recon_loss(self, pred: Tensor, target: Tensor, places: Places) -> Tensor:
        """Weighted reconstruction loss.

        Args:
            pred: ``(B, M, K)`` logits, or ``(B, M, C)``.
            target: ``(B, N)`` token ids, ``(B, K, h, w)`` logits of a tokenizer (the host's DALL-E gives these), or
                ``(B, N, C)`` values, maybe with a CLS token in front, which is left out.
            places: Of the visible and the masked patches in the grid.

        Raises:
            ValueError: Predictions and targets do not fit: the config's ``num_classes`` is wrong, or the target is not
                of the patches of the grid.
        """
        if target.dim() == 4:
            check_channels(pred, target.size(1))
            target = target.argmax(dim=1).flatten(1)
        # Others would be compared in silence, each with the pixels of another place.
        extra = count_extra(target, places, most=target.dim() - 2)
        if target.dim() == 2:
            loss = F.cross_entropy(pred.flatten(0, 1).float(), target.gather(1, places.masked).flatten())
        else:
            target = tokens_at(target[:, extra:], places.masked)
            check_channels(pred, target.size(-1))
            loss = F.mse_loss(pred.float(), target.float())
        return self.recon_weight * loss

    def align_loss(self, latents: Tensor, target: Tensor) -> Tensor:
        """Weighted squared distance of predicted and encoded latents, both ``(B, M, R)``; no gradient to the latter."""
        return self.align_weight * F.mse_loss(latents.float(), target.detach().float())


def check_channels(pred: Tensor, channels: int) -> None:
    """Raise ``ValueError`` where predictions ``(B, K, C)`` and a target differ in channels or tokens."""
    if pred.size(-1) != channels:
        raise ValueError(f'{channels} channels or tokens of the target, but num_classes={pred.size(-1)} of the neck')


def count_extra(target: Tensor, places: Places, most: int = 1) -> int:
    """Return how many tokens a target ``(B, N, …)`` or ``(B, 1 + N, …)`` has in front of its patches.

    Args:
        target: Token ids or values.
        places: Of the visible and the masked patches in the grid.
        most: 0: a CLS token is an error.

    Raises:
        ValueError: It has not a token for each patch.
    """
    num_patches = places.visible.size(1) + places.masked.size(1)
    extra = target.size(1) - num_patches
    if not 0 <= extra <= most:
        raise ValueError(
            f'a target of {target.size(1)} tokens, of shape {tuple(target.shape)}, for the {num_patches} patches of '
            "the backbone's grid: set the patch size of the target, or the size of the images that it sees "
            '(second_size of the crop)'
        )
    return extra


@MODELS.register_module()
class CAEv2Head(BaseModule):
    """Latent alignment of CAE v2: ``1 - cos`` of predicted and target tokens, in float32.

    Args:
        supervision: Which patches are compared: ``'visible'``, ``'masked'`` or ``'both'`` (authors' code).
        with_cls: Compare the CLS token too (authors' code); never with ``'masked'``, where the encoder's own tokens
            have no target.
        balance: ``'token'``: mean over all tokens (authors' code). ``'group'``: mean over the kinds of tokens, so
            that few masked tokens weigh as much as many visible ones (ours, for ablations).
        loss_weight: 1.
    """

    def __init__(
        self,
        supervision: str = 'both',
        with_cls: bool = True,
        balance: str = 'token',
        loss_weight: float = 1.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if supervision not in ('visible', 'masked', 'both'):
            raise ValueError(f"supervision={supervision!r}; one of 'visible', 'masked', 'both'")
        if balance not in ('token', 'group'):
            raise ValueError(f"balance={balance!r}; 'token' or 'group'")
        self.balance, self.loss_weight = balance, loss_weight
        self.on_visible, self.on_masked = supervision != 'masked', supervision != 'visible'
        self.on_cls = with_cls and self.on_visible

    def groups(self, target: Tensor, places: Places) -> list[Tensor]:
        """Return the target tokens that are compared: CLS, visible, masked, those of them that are.

        Args:
            target: ``(B, 1 + N, C)``, or ``(B, N, C)`` without CLS.
            places: Of the visible and the masked patches in the grid.

        Raises:
            ValueError: The target has no token per patch, or no CLS where one is needed.
        """
        if target.dim() != 3:
            raise ValueError(f'a target of shape {tuple(target.shape)}: features of tokens have three dimensions')
        extra = count_extra(target, places)
        if self.on_cls and not extra:
            raise ValueError('the target has no CLS token: set with_cls=False in the head')
        patches = target[:, extra:]
        groups = [target[:, :1]] if self.on_cls else []
        groups += [tokens_at(patches, places.visible)] if self.on_visible else []
        return groups + ([tokens_at(patches, places.masked)] if self.on_masked else [])

    def loss(self, pred: list[Tensor], target: list[Tensor]) -> Tensor:
        """Weighted loss of predicted and target tokens, each a list of ``(B, K, C)``, one per kind of token."""
        for ours, theirs in zip(pred, target, strict=True):
            check_channels(ours, theirs.size(-1))
        distances = [1 - F.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in zip(pred, target, strict=True)]
        if self.balance == 'token':
            distances = [torch.cat(distances, dim=1)]
        return self.loss_weight * torch.stack([distance.mean() for distance in distances]).mean()
