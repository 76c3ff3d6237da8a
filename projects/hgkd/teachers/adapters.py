"""How a frozen network is run as a teacher, and how what comes out of its modules becomes a feature map.

The abstract of H-GKD (arXiv 2309.09571) says that several generatively pretrained Transformers serve as teachers and
names none. Not in the paper: the choice of the three ways to run one,

* ``full``: it sees the whole image; any network (as CAE v2, MaskDistill and TinyMIM do);
* ``same_mask``: it sees what the student sees and infers the rest with its own decoder (as G2SD does); MAE, CAE, BEiT;
* ``visible``: it sees what the student sees, and only these positions have a target (as DMAE does).

Shapes: ``B`` images, ``L`` tokens, ``K`` of them visible, ``C`` channels, ``(h, w)`` the grid of tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmpretrain.models import CAE as CAEAlgorithm
from mmpretrain.models import MAE, BEiTPretrainViT, BEiTViT, CAEPretrainViT, CLIPGenerator, MAEViT, MILANViT
from torch import Tensor, nn

from ...utils.encoders import count_extra_tokens
from .layout import patch_size, to_map, token_grid

MODES = ('full', 'same_mask', 'visible')


class Teacher:
    """Runs a network whose tapped modules give tokens or maps, see :mod:`.layout`.

    For networks of mmpretrain, timm, torchvision and transformers: ViTs, hierarchical Transformers, CNNs. Tokens in
    front of the patches (class, registers) are dropped.

    Args:
        model: Frozen network, called with images ``(B, 3, H, W)``.
        mode: ``'full'``, ``'same_mask'`` or ``'visible'``.

    Raises:
        ValueError: The network cannot be run in this mode.
    """

    modes = ('full', 'visible')

    def __init__(self, model: nn.Module, mode: str = 'full') -> None:
        if mode not in MODES:
            raise ValueError(f'mode must be one of {MODES}, got {mode!r}')
        if mode not in self.modes:
            raise ValueError(f'a {type(model).__name__} cannot be run in mode {mode!r}, only in {self.modes}')
        self.model = model
        self.mode = mode
        accept_any_size(self.backbone)
        if mode != 'full':
            self.entry = self._find_entry()
            # 'featmap' would reshape the visible tokens alone into a rectangle; only the taps are read.
            if hasattr(self.backbone, 'out_type'):
                self.backbone.out_type = 'raw'

    @property
    def backbone(self) -> nn.Module:
        """The encoder."""
        return self.model

    def run(self, images: Tensor, visible: Tensor | None) -> None:
        """Run the network; what is wanted of it is read at its taps.

        Args:
            images: ``(B, 3, H, W)``, normalized as the teacher wants it.
            visible: ``(B, h*w)`` bool, True = the student sees the patch, as many in each image. None in mode ``full``.
        """
        if self.mode == 'visible':
            with self.only(visible):
                self.encode(images)
        else:
            self.encode(images)

    def encode(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Call the encoder."""
        return self.backbone(images)

    def assemble(
        self, taps: dict[str, Tensor], visible: Tensor | None, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return the feature map ``(B, C, h, w)`` of each tap.

        Args:
            taps: Output of the tapped modules by name.
            visible: ``(B, h*w)`` bool; None in mode ``full``.
            image_size: ``(H, W)`` of what the teacher saw.

        Raises:
            ValueError: The output of a tap is neither a map nor tokens of a grid of the image.
        """
        return {name: self.to_map(name, output, visible, image_size) for name, output in taps.items()}

    def to_map(self, name: str, output: Tensor, visible: Tensor | None, image_size: tuple[int, int]) -> Tensor:
        """Return the output of one tap as a map ``(B, C, h, w)``; positions without a token are 0."""
        if self.mode != 'visible' or output.dim() != 3:
            return to_map(name, output, image_size, self.backbone)
        tokens = scatter(self.drop_extra(name, output, int(visible[0].sum())), visible)
        return tokens.transpose(1, 2).unflatten(2, self.grid(image_size))

    def drop_extra(self, name: str, output: Tensor, tokens: int) -> Tensor:
        """Drop what stands in front of the last ``tokens`` tokens of ``(B, L, C)``."""
        extra, declared = output.shape[1] - tokens, count_extra_tokens(self.backbone)
        if extra < 0 or (declared is not None and extra not in (0, declared)):
            raise ValueError(
                f'tap {name!r} gives {output.shape[1]} tokens; expected {tokens} in mode {self.mode!r}, with or '
                f'without {1 if declared is None else declared} more in front'
            )
        return output[:, extra:]

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the grid ``(h, w)`` of tokens, of a ViT for images of ``(H, W)`` pixels."""
        return token_grid(image_size, patch_size(self.backbone))

    @contextmanager
    def only(self, visible: Tensor) -> Iterator[None]:
        """Let the encoder's layers see only the tokens in ``visible`` ``(B, h*w)``, and those in front of the patches.

        They are picked where position embeddings have just been added, so that the host's own ``forward`` is used.
        """
        kept = visible.sum(dim=1)
        if not (kept == kept[0]).all() or kept[0] == 0:
            raise ValueError(
                f'every image must have the same number of visible patches, at least one; got {kept.tolist()}'
            )

        def pick(module: nn.Module, inputs: tuple, tokens: Tensor) -> Tensor:
            extra = tokens.shape[1] - visible.shape[1]
            patches = tokens[:, extra:][visible].view(len(tokens), -1, tokens.shape[2])
            return torch.cat((tokens[:, :extra], patches), dim=1)

        handle = self.entry.register_forward_hook(pick)
        try:
            yield
        finally:
            handle.remove()

    def _find_entry(self) -> nn.Module:
        network = getattr(self.backbone, 'timm_model', self.backbone)
        for name in ('drop_after_pos', 'pos_drop'):  # mmpretrain's, timm's
            entry = getattr(network, name, None)
            if isinstance(entry, nn.Module):
                return entry
        raise ValueError(
            f'mode {self.mode!r} needs a ViT of mmpretrain or timm, where tokens can be left out behind the position '
            f"embedding; {type(self.backbone).__name__} has neither `drop_after_pos` nor `pos_drop`. Use mode 'full'"
        )


class MAETeacher(Teacher):
    """mmpretrain's ``MAEViT`` or the whole ``MAE``, whose neck is the decoder that ``same_mask`` needs.

    Names of taps are those of the network given: ``layers.11`` of a ``MAEViT``; ``backbone.layers.11``, or in mode
    ``same_mask`` ``neck.decoder_blocks.7``, of a ``MAE``. Maps are ``(B, C, h, w)``.
    """

    modes = MODES

    def __init__(self, model: nn.Module, mode: str = 'full') -> None:
        super().__init__(model, mode)
        if mode == 'same_mask' and not hasattr(model, 'neck'):
            raise ValueError("mode 'same_mask' needs the decoder: give the whole MAE (backbone, neck, head) as teacher")

    @property
    def backbone(self) -> nn.Module:
        """The encoder."""
        return getattr(self.model, 'backbone', self.model)

    def encode(self, images: Tensor) -> Tensor:
        """Call the encoder without a mask of its own."""
        if isinstance(self.backbone, MILANViT):
            return self.backbone(images, importance=None)[-1]
        return self.backbone(images, mask=None)[-1]

    def run(self, images: Tensor, visible: Tensor | None) -> None:
        """Run the encoder and, in mode ``same_mask``, the decoder."""
        if self.mode != 'same_mask':
            return super().run(images, visible)
        with self.only(visible):
            latent = self.encode(images)
        # The decoder gets the visible tokens first; `argsort` of the inverse order brings them back to their places.
        order = (~visible).int().argsort(dim=1, stable=True)
        self.model.neck(latent, order.argsort(dim=1))


class CAETeacher(MAETeacher):
    """mmpretrain's ``CAEPretrainViT`` or the whole ``CAE``, whose regressor infers masked latents in ``same_mask``.

    In that mode two taps, in this order, make one map ``(B, C, h, w)``: visible tokens of the encoder and masked ones
    of the regressor, for instance ``('backbone.ln1', 'neck.norm_regressor')``, which CAE aligns.
    """

    def run(self, images: Tensor, visible: Tensor | None) -> None:
        """Run the encoder and, in mode ``same_mask``, the regressor."""
        if self.mode != 'same_mask':
            return Teacher.run(self, images, visible)
        with self.only(visible):
            latent = self.encode(images)[:, 1:]
        batch, kept, dims = latent.shape
        positions = self.backbone.pos_embed[:, 1:].expand(batch, -1, -1)
        self.model.neck.mask_token_num = visible.shape[1] - kept  # otherwise fixed by its config
        masked = positions[~visible].view(batch, -1, dims)
        self.model.neck(latent, masked, positions[visible].view(batch, -1, dims))

    def assemble(
        self, taps: dict[str, Tensor], visible: Tensor | None, image_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Return the map of each tap, or in mode ``same_mask`` the one map that both make."""
        if self.mode != 'same_mask':
            return super().assemble(taps, visible, image_size)
        if len(taps) != 2:
            raise ValueError(
                "mode 'same_mask' of a CAE needs two taps, of the encoder and of the regressor, for instance "
                f"('backbone.ln1', 'neck.norm_regressor'); got {tuple(taps)}"
            )
        (first, seen), (second, inferred) = taps.items()
        kept = int(visible[0].sum())
        tokens = scatter(self.drop_extra(first, seen, kept), visible)
        tokens = tokens + scatter(self.drop_extra(second, inferred, visible.shape[1] - kept), ~visible)
        return {f'{first}+{second}': tokens.transpose(1, 2).unflatten(2, self.grid(image_size))}


class BEiTTeacher(Teacher):
    """mmpretrain's ``BEiTPretrainViT``, or a ``BEiTViT`` (modes ``full`` and ``visible``); maps are ``(B, C, h, w)``.

    In mode ``same_mask`` the encoder itself gets mask tokens in place of what the student does not see.
    """

    modes = MODES

    def __init__(self, model: nn.Module, mode: str = 'full') -> None:
        super().__init__(model, mode)
        if mode == 'same_mask' and not isinstance(model, BEiTPretrainViT):
            raise ValueError(f"mode 'same_mask' needs mask tokens: use BEiTPretrainViT, not {type(model).__name__}")
        relative = getattr(model, 'use_rel_pos_bias', False) or getattr(model, 'rel_pos_bias', None) is not None
        if mode == 'visible' and relative:
            raise ValueError("mode 'visible' leaves tokens out, for which a relative position bias is not defined")

    def run(self, images: Tensor, visible: Tensor | None) -> None:
        """Run the encoder."""
        if self.mode == 'same_mask':
            self.model(images, ~visible)
        else:
            super().run(images, visible)

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """Call the encoder without mask tokens."""
        return self.model(images, mask=None) if isinstance(self.model, BEiTPretrainViT) else self.model(images)


class CLIPTeacher(Teacher):
    """mmpretrain's ``CLIPGenerator``, which reads OpenAI's checkpoint; maps are ``(B, C, h, w)``.

    CLIP weights that mmpretrain's converter made belong into a ``VisionTransformer`` with ``pre_norm=True`` instead.
    """

    modes = ('full',)

    def to_map(self, name: str, output: Tensor, visible: Tensor | None, image_size: tuple[int, int]) -> Tensor:
        """Return the output of one tap as a map; CLIP's blocks give ``(L, B, C)``."""
        if 'resblocks' in name:
            output = output.transpose(0, 1)
        return super().to_map(name, output, visible, image_size)


def adapt(model: nn.Module, mode: str) -> Teacher:
    """Return the adapter of a network for a mode.

    Raises:
        ValueError: The network cannot be run in this mode.
    """
    encoder = getattr(model, 'backbone', model)
    if isinstance(model, CAEAlgorithm) or isinstance(encoder, CAEPretrainViT):
        return CAETeacher(model, mode)
    if isinstance(model, MAE) or isinstance(encoder, MAEViT):
        return MAETeacher(model, mode)
    if isinstance(model, BEiTViT):
        return BEiTTeacher(model, mode)
    if isinstance(model, CLIPGenerator):
        return CLIPTeacher(model, mode)
    return Teacher(model, mode)


def scatter(tokens: Tensor, where: Tensor) -> Tensor:
    """Put tokens ``(B, K, C)`` at the True positions of ``where`` ``(B, L)``; the rest of ``(B, L, C)`` is 0."""
    out = tokens.new_zeros(*where.shape, tokens.shape[2])
    out[where] = tokens.reshape(-1, tokens.shape[2])
    return out


def accept_any_size(network: nn.Module) -> None:
    """Let a ViT of timm resize its position embedding to the image, as its ``dynamic_img_size=True`` does."""
    network = getattr(network, 'timm_model', network)
    if getattr(network, 'dynamic_img_size', None) is False:
        network.dynamic_img_size = True
        embed = network.patch_embed
        embed.flatten, embed.strict_img_size, embed.output_fmt = False, False, type(embed.output_fmt).NHWC
