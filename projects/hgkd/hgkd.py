"""H-GKD: a sparse CNN student predicts what a frozen teacher makes of the whole image (arXiv 2309.09571).

The encoder, the mask and the way to whole maps are SparK's (arXiv 2301.03580), by mmpretrain's class of that name. Of
H-GKD only the abstract is public: a UNet-style student with sparse convolution mimics a masked-image-modelling
teacher. Not in the paper, since it is not public: where the decoder stops, the predictor, what is supervised.

Legend: ``B`` images, ``H, W`` their sides in pixels, ``f`` pixels along the side of a mask cell, ``D`` channels of the
teacher, ``h, w`` its grid.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmpretrain.models import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from .decoder import HGKDUNetDecoder
from .levels import level_channels, make_levels
from .masks import ActiveMask, draw_cells
from .sparse.engine import SparseFeatures
from .sparse.host import host_encode, host_mask
from .sparse.layers import plain_norm
from .student import Student, evaluating
from .teachers.probe import check_prediction, check_teacher, image_channels
from .teachers.provider import TeacherProvider

Images = Tensor | Sequence[Tensor]


@MODELS.register_module()
class HGKD(Student, BaseSelfSupervisor):
    """Masked student that predicts the features of a teacher, pixels, or both.

    The teacher is no part of the model: :class:`GenerativeDistillHook` puts it into the slot ``teacher`` for the time
    of the training, see :class:`Student`.

    Args:
        backbone: ``HGKDSparseResNet``; ``HGKDSparseBackbone`` around another CNN; or mmpretrain's ``SparseConvNeXt``
            with ``gap_before_output=False`` (dense, square images). Each of its maps has half the side of the one
            before.
        neck: ``HGKDUNetDecoder``.
        head: Loss of the features, ``FeaturePredictHead``. None: pixels only.
        pixel_head: Loss of the pixels, ``SparKPretrainHead``; needs a neck with ``out_stride=1``. Not in the paper;
            with ``head=None`` the model is SparK.
        pixel_weight: Weight of ``pixel_head``; more than 0 if there is one, else 0.
        out_channels: ``D``. Default 768, that of a ViT-B.
        target_stride: Pixels between two positions of the teacher's grid as seen by the student; a multiple of the
            neck's ``out_stride``. Default 16.
        mask_ratio: Share of hidden cells, in [0, 1). Default 0.6, SparK's.
        input_size: Side of the training images, or ``(height, width)``, in pixels. Only the hook's check of the
            teacher's grid reads it; a batch may have any multiple of ``downsample_raito``.
        downsample_raito: ``f``, the stride of backbone and neck (mmpretrain's spelling). Default 32.
        enc_dec_norm_cfg: Norm of the levels before the decoder: 'SyncBN', 'BN' (both over visible sites only) or
            'LN2d' for ConvNeXt; mmpretrain's names of the sparse ones mean the same.
        data_preprocessor: As in mmpretrain's ``BaseSelfSupervisor``.
        pretrained: As there.
        init_cfg: As there.

    Raises:
        ValueError: Parts do not fit each other; the message says which.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        neck: dict | nn.Module,
        head: dict | nn.Module | None = None,
        pixel_head: dict | nn.Module | None = None,
        pixel_weight: float = 0.0,
        out_channels: int = 768,
        target_stride: int = 16,
        mask_ratio: float = 0.6,
        input_size: int | Sequence[int] = 224,
        downsample_raito: int = 32,
        enc_dec_norm_cfg: dict = dict(type='SyncBN'),  # noqa: B006 - only read; the style of the host
        data_preprocessor: dict | nn.Module | None = None,
        pretrained: str | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            head=head,
            pretrained=pretrained,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        neck = self.neck
        if not isinstance(neck, HGKDUNetDecoder):
            raise ValueError(f'neck must be a HGKDUNetDecoder, got {type(neck).__name__}')
        if neck.upsample_ratio != downsample_raito:
            raise ValueError(
                f'upsample_ratio {neck.upsample_ratio} of the neck is not downsample_raito {downsample_raito}'
            )
        if not 0 <= mask_ratio < 1:
            raise ValueError(f'mask_ratio must be in [0, 1), got {mask_ratio}')
        if head is None and pixel_head is None:
            raise ValueError('neither head nor pixel_head: nothing to predict')
        if (pixel_head is not None) != (pixel_weight > 0):
            raise ValueError(f'pixel_head and pixel_weight > 0 go together, got pixel_weight={pixel_weight}')
        if pixel_head is not None and neck.out_stride != 1:
            raise ValueError(f'pixel_head needs a neck with out_stride=1, got {neck.out_stride}')
        if head is not None and target_stride % neck.out_stride:
            raise ValueError(
                f'target_stride {target_stride} is no multiple of out_stride {neck.out_stride} of the neck'
            )
        self.input_size = input_size
        self.target_stride = target_stride
        self.downsample_raito = downsample_raito
        self.mask_ratio = mask_ratio
        channels, norm_cfg = self._level_channels()[: neck.num_levels], plain_norm(enc_dec_norm_cfg)
        levels = make_levels(channels, neck.feature_dim, norm_cfg)
        self.enc_dec_norms, self.enc_dec_projectors, self.mask_tokens = levels  # names of SparK
        if head is not None:
            kernel = target_stride // neck.out_stride
            self.predictor = nn.Conv2d(neck.out_channels, out_channels, kernel_size=kernel, stride=kernel)
        self.pixel_head = pixel_head
        if pixel_head is not None:
            self.pixel_head = pixel_head if isinstance(pixel_head, nn.Module) else MODELS.build(pixel_head)
            self.pixel_proj = nn.Conv2d(neck.out_channels, image_channels(self.backbone), kernel_size=1)
        self.pixel_weight = pixel_weight

    def _level_channels(self) -> list[int]:
        """Channels of the backbone's maps, from the deepest, as it gives them for a blank image.

        Raises:
            ValueError: Strides are not ``f``, ``f / 2``, ``f / 4`` …, or there is activation checkpointing.
        """
        if not self._knows_masks and any(getattr(module, 'with_cp', False) for module in self.backbone.modules()):
            raise ValueError('with_cp=True computes layers again when the mask is gone; set it to False')
        side = 2 * self.downsample_raito
        with evaluating(self.backbone):
            maps = self.extract_feat(torch.zeros(1, image_channels(self.backbone), side, side))[::-1]
        return level_channels(maps, side, self.downsample_raito)

    def mask(self, shape: torch.Size, device: torch.device | str, generator: torch.Generator | None = None) -> Tensor:
        """Draw visible cells, see ``draw_cells``.

        Args:
            shape: ``(B, C, H, W)`` of the images.
            device: Of the result.
            generator: Of the noise.

        Returns:
            ``(B, 1, H/f, W/f)`` bool, True is visible.

        Raises:
            ValueError: A side of the images is no multiple of ``f``.
        """
        height, width, cell = *shape[2:], self.downsample_raito
        if height % cell or width % cell:
            raise ValueError(f'images of {height} x {width}: both sides must be multiples of {cell}, the mask cell')
        return draw_cells(shape[0], (height // cell, width // cell), self.mask_ratio, generator).to(device)

    def extract_feat(self, inputs: Images) -> tuple[Tensor, ...]:
        """Features of the whole image.

        Args:
            inputs: ``(B, C, H, W)``, alone or in a list of one.

        Returns:
            ``(B, C_i, H_i, W_i)`` of the backbone's ``out_indices``.
        """
        images = _one_view(inputs)
        if self._knows_masks:
            return self.backbone(images)
        with host_mask(ActiveMask(self._all_visible(images))):
            return self.backbone(images)

    def _all_visible(self, images: Tensor) -> Tensor:
        sides = (side // self.downsample_raito for side in images.shape[2:])
        return torch.ones(len(images), 1, *sides, dtype=torch.bool, device=images.device)

    @property
    def _knows_masks(self) -> bool:
        return hasattr(self.backbone, 'encode')

    def encode(self, images: Tensor, mask: ActiveMask) -> list[SparseFeatures]:
        """Features of the visible part of images ``(B, C, H, W)``, from the deepest level to the largest map."""
        levels = self.backbone.encode(images, mask) if self._knows_masks else host_encode(self.backbone, images, mask)
        return list(levels)[::-1]

    def densify(self, features: SparseFeatures, level: int) -> Tensor:
        """Whole map of a level for the decoder: normalize, put the mask token at hidden sites, project.

        Args:
            features: Of the level.
            level: 0 is the deepest.

        Returns:
            ``(B, feature_dim / 2^level, H_i, W_i)``.
        """
        x = self.enc_dec_norms[level](features).dense()
        x = torch.where(features.mask.sites(features.size), x, self.mask_tokens[level].to(x.dtype))
        return self.enc_dec_projectors[level](x)

    def decode(self, images: Tensor, active: Tensor) -> Tensor:
        """Output of the decoder.

        Args:
            images: ``(B, C, H, W)``.
            active: ``(B, 1, H/f, W/f)`` bool, True is visible.

        Returns:
            ``(B, C, H/s, W/s)``, ``C`` and ``s`` the neck's ``out_channels`` and ``out_stride``.
        """
        levels = self.encode(images, ActiveMask(active))[: len(self.enc_dec_norms)]
        return self.neck([self.densify(features, level) for level, features in enumerate(levels)])

    def predict_features(self, images: Images, active: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Prediction of the teacher's features.

        Args:
            images: ``(B, C, H, W)`` as they come from the data preprocessor, alone or in a list of one.
            active: ``(B, 1, H/f, W/f)`` bool, True is visible. None: drawn.

        Returns:
            Prediction ``(B, D, H/target_stride, W/target_stride)``, and the mask.
        """
        images = _one_view(images)
        if active is None:
            active = self.mask(images.shape, images.device)
        return self.predictor(self.decode(images, active)), active

    def loss(self, inputs: Images, data_samples: list[DataSample] | None = None, **kwargs) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            inputs: Images ``(B, C, H, W)``, alone or in a list of one.
            data_samples: Not used.
            **kwargs: Not used.

        Returns:
            ``loss_distill`` if there is a head, ``loss_pixel`` if there is a head of pixels; weighted scalars.

        Raises:
            RuntimeError: The teacher's features are to be predicted, and there is no teacher.
        """
        images = _one_view(inputs)
        if self.with_head:
            self.require_teacher()
        active = self.mask(images.shape, images.device)
        decoded = self.decode(images, active)
        losses = {}
        if self.with_head:
            losses['loss_distill'] = self._distill(self.predictor(decoded), images, active)
        if self.pixel_head is not None:
            losses['loss_pixel'] = self.pixel_weight * self.pixel_head(self.pixel_proj(decoded), images, active)
        return losses

    def check_teacher(self, teacher: TeacherProvider, images: Tensor) -> list[Tensor]:
        """See that a teacher fits; as in :class:`Student`."""
        if not self.with_head:
            raise ValueError(f'the {type(self).__name__} has no head that compares features: set `head` in the model')
        supervise = getattr(self.head, 'supervise', None)
        if teacher.mode == 'visible' and supervise != 'visible':
            raise ValueError(
                "mode 'visible' gives targets only where the student sees the image: set supervise='visible' in the "
                f"student's head, not {supervise!r}"
            )
        active = self._all_visible(images)
        check_teacher(teacher, images, active)
        target = teacher(images, active)
        with evaluating(self):
            pred, _ = self.predict_features(images, active)
        check_prediction(pred, target, tuple(images.shape[2:]))
        return [target]

    def describe(self, images: Tensor) -> list[str]:
        """Return a line about the prediction; as in :class:`Student`."""
        with evaluating(self):
            pred, active = self.predict_features(images, self._all_visible(images))
        rows, columns = active.shape[2:]
        keep = max(round(rows * columns * (1 - self.mask_ratio)), 1)
        return [
            f'student predicts {pred.shape[1]} channels, grid {pred.shape[2]} x {pred.shape[3]}; it sees {keep} of '
            f'{rows} x {columns} cells of {self.downsample_raito} pixels'
        ]

    def encode_whole(self, images: Tensor) -> None:
        """Run backbone and decoder; as in :class:`Student`."""
        self.decode(images, self._all_visible(images))

    def _distill(self, pred: Tensor, images: Tensor, active: Tensor) -> Tensor:
        target = self.teacher(images, active)
        if target is None:
            # Nothing to distill, but no parameter may be without a gradient under DDP. Not sum() * 0: a sum in half
            # precision can overflow, and inf * 0 is NaN.
            return (pred * 0).sum()
        with torch.no_grad():
            cosine = F.cosine_similarity(pred.float(), target, dim=1).mean()
            self.distill_log = dict(target_std=target.std(), cosine=cosine)
        return self.distill_weight * self.head(pred, target, active)


def _one_view(inputs: Images) -> Tensor:
    """Images; the data preprocessor hands over a list where the pipeline makes views."""
    if isinstance(inputs, Tensor):
        return inputs
    if len(inputs) != 1:
        raise ValueError(f'HGKD takes one view of an image, got {len(inputs)}')
    return inputs[0]
