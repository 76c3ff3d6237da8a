"""CAE (arXiv 2202.03026): predict the latents of masked patches from visible ones, then decode them.

Shapes: ``B`` images, ``N`` patches, ``M`` of them masked, ``R`` channels of the regressor, ``K`` of the prediction.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from .pretraining import PretrainMixin
from .tokens import Places, split_places


@MODELS.register_module()
class CAEv1(PretrainMixin, BaseSelfSupervisor):
    """CAE without a second copy of the encoder.

    The alignment target is what the encoder itself makes of the masked patches, without gradient. The host copies all
    weights to a ``teacher`` each step and computes the target before that: twice the memory for weights, checkpoints
    with 86 M more parameters (ViT-B), and a target one step late. A copy exists here only with ``momentum``.

    Args:
        backbone: :class:`CAEViT`.
        neck: :class:`CAERegressorNeck`.
        head: :class:`CAEv1Head`; its weights turn reconstruction or alignment off.
        target_generator: From images to token ids ``(B, N)``, logits ``(B, K, h, w)`` or values ``(B, N, K)``.
        momentum: Above 0 the alignment target comes from a moving average of the encoder,
            ``momentum * average + (1 - momentum) * encoder`` (not in the paper; the authors left the place for it).
        align_eval: Compute the alignment target without DropPath. The authors leave it on.
        check_interval: See :class:`PretrainMixin`.
        data_preprocessor: See the host's CAE.
        init_cfg: Initialization.

    Raises:
        ValueError: The parts do not fit, or ``momentum`` is not in [0, 1).
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        target_generator: dict,
        momentum: float = 0.0,
        align_eval: bool = False,
        check_interval: int = 50,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            target_generator=target_generator,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        if not 0 <= momentum < 1:
            raise ValueError(f'momentum={momentum}; 0 (no average) or below 1')
        self.momentum, self.align_eval = momentum, align_eval
        self.set_up(check_interval)
        if momentum:
            self.teacher = deepcopy(self.backbone).requires_grad_(False)
            self.last_seen = torch.tensor(torch.nan)  # unlike any value: the first step always counts
        num_tokens, num_classes = getattr(self.target_generator, 'num_tokens', 0), self.neck.head.out_features
        if num_tokens not in (0, num_classes):  # a larger number would predict tokens that no patch can have
            raise ValueError(f'{num_tokens} tokens of the target, but num_classes={num_classes} of the neck')
        if not self.head.recon_weight:  # so that DDP need not look for parameters without gradient
            for part in (self.neck.decoders, self.neck.norm_decoder, self.neck.head):
                part.requires_grad_(False)

    def init_weights(self) -> None:
        """Initialize all parts; the average starts as the encoder."""
        super().init_weights()
        if self.momentum:
            self.teacher.load_state_dict(self.backbone.state_dict())

    @torch.compiler.disable
    @torch.no_grad()
    def momentum_update(self) -> None:
        """Move the average towards the encoder, in place, once for each step of the optimizer.

        Several batches may make one step, and a gradient scaler skips some. That there was one shows in the values of
        the first parameter that is trained, whatever the optimizer. They are compared on the device, which the host
        need not wait for.
        """
        trained = (parameter for parameter in self.backbone.parameters() if parameter.requires_grad)
        first = next(trained, self.backbone.cls_token)
        has_moved = (first != self.last_seen.to(first)).any()
        self.last_seen = first.clone()
        for average, parameter in zip(self.teacher.parameters(), self.backbone.parameters(), strict=True):
            average.lerp_(parameter, has_moved.to(average) * (1 - self.momentum))

    @torch.no_grad()
    def align_target(self, images: Tensor, mask: Tensor | Places) -> Tensor:
        """Return the latents ``(B, M, R)`` of the masked patches, encoded without the visible ones.

        Args:
            images: ``(B, 3, H, W)``.
            mask: ``(B, N)``, True where a patch is masked; or the places themselves.
        """
        encoder = self.backbone
        if self.momentum:
            if self.training:
                self.momentum_update()  # first, so that a small momentum tends to the encoder itself
            encoder = self.teacher
        was_training = encoder.training
        if self.align_eval:
            encoder.eval()
        latents = self.neck.project(encoder(images, split_places(mask).swapped())[:, 1:])
        if self.align_eval:
            encoder.train(was_training)
        return latents

    def reconstruct(self, images: Tensor, mask: Tensor | Places) -> tuple[Tensor, Tensor]:
        """Predict the masked patches, in raster order.

        Args:
            images: ``(B, 3, H, W)``.
            mask: ``(B, N)``, True where a patch is masked; or the places themselves.

        Returns:
            Latents ``(B, M, R)`` and predictions ``(B, M, K)``.
        """
        places = split_places(mask)
        return self.neck(self.backbone(images, places), places)

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list[DataSample], **kwargs) -> dict[str, Tensor]:
        """Return ``loss_recon`` and ``loss_align``, each weighted, those of them that are on.

        Args:
            inputs: Images ``(B, 3, H, W)``, or two views of them: the second is the tokenizer's.
            data_samples: Each with a ``mask``.
            **kwargs: Not used.
        """
        images, target_images, mask = self.read_batch(inputs, data_samples)
        places = split_places(mask, data_samples[0].get('num_masked'))
        # First, while nothing is kept for the backward pass yet: the peak of memory is lower.
        align_target = self.align_target(images, places) if self.head.align_weight else None
        latents, pred = self.neck(self.backbone(images, places), places, decode=bool(self.head.recon_weight))
        losses = {}
        if self.head.recon_weight:
            losses['loss_recon'] = self.head.recon_loss(pred, self.make_target(target_images), places)
        if self.head.align_weight:
            losses['loss_align'] = self.head.align_loss(latents, align_target)
        return losses
