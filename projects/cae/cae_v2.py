"""CAE v2 (arXiv 2211.09799): visible and predicted latents are compared with those of a frozen image encoder.

Shapes: ``B`` images, ``N = V + M`` patches, visible and masked, ``C`` channels of the target.
"""

from __future__ import annotations

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor

from .pretraining import PretrainMixin
from .tokens import Places, split_places


@MODELS.register_module()
class CAEv2(PretrainMixin, BaseSelfSupervisor):
    """CAE v2: no decoder, no alignment branch; one read-out for CLS, visible and masked tokens.

    What a setting does not use is frozen (the normalization between regressor and decoder; with ``'visible'``
    supervision the regressor), so that DDP need not look for parameters without gradient.

    Args:
        backbone: :class:`CAEViT`.
        neck: :class:`CAERegressorNeck` with ``decoder_depth=0`` and ``num_classes`` = ``C``.
        head: :class:`CAEv2Head`.
        target_generator: From whole images to features ``(B, 1 + N, C)``, or ``(B, N, C)`` without CLS.
        check_interval: See :class:`PretrainMixin`.
        data_preprocessor: See the host's CAE.
        init_cfg: Initialization.

    Raises:
        ValueError: The parts do not fit, or the neck has a decoder.
    """

    def __init__(
        self,
        backbone: dict,
        neck: dict,
        head: dict,
        target_generator: dict,
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
        self.set_up(check_interval)
        if len(self.neck.decoders):
            raise ValueError(f'CAE v2 has no decoder: set decoder_depth=0 (not {len(self.neck.decoders)}) in the neck')
        self.neck.norm_regressor.requires_grad_(False)
        if not self.head.on_masked:
            self.neck.regressors.requires_grad_(False)
            self.neck.mask_token.requires_grad_(False)

    def predict_groups(self, images: Tensor, mask: Tensor | Places) -> list[Tensor]:
        """Return what the head compares: CLS ``(B, 1, C)``, visible ``(B, V, C)``, masked ``(B, M, C)``, if it does.

        Args:
            images: ``(B, 3, H, W)``.
            mask: ``(B, N)``, True where a patch is masked; or the places themselves.
        """
        places = split_places(mask)
        tokens = self.neck.project(self.backbone(images, places))
        cls_token, visible = tokens[:, :1], tokens[:, 1:]
        groups = [cls_token] if self.head.on_cls else []
        groups += [visible] if self.head.on_visible else []
        groups += [self.neck.regress(visible, places)] if self.head.on_masked else []
        sizes = [group.size(1) for group in groups]
        return list(self.neck.read_out(torch.cat(groups, dim=1)).split(sizes, dim=1))

    def loss(self, inputs: Tensor | list[Tensor], data_samples: list[DataSample], **kwargs) -> dict[str, Tensor]:
        """Return ``loss_latent``, weighted.

        Args:
            inputs: Images ``(B, 3, H, W)``, or two views of them: the second is the target's.
            data_samples: Each with a ``mask``.
            **kwargs: Not used.
        """
        images, target_images, mask = self.read_batch(inputs, data_samples)
        places = split_places(mask, data_samples[0].get('num_masked'))
        target = self.head.groups(self.make_target(target_images), places)
        return {'loss_latent': self.head.loss(self.predict_groups(images, places), target)}
