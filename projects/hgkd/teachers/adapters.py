"""How a frozen network is run as a teacher, and how what comes out of its modules becomes a feature map.

The abstract of H-GKD (arXiv 2309.09571) says that several generatively pretrained Transformers serve as teachers and
names none. Not in the paper: the choice of the three ways to run one,

* ``full``: it sees the whole image; any network (as CAE v2, MaskDistill and TinyMIM do);
* ``same_mask``: it sees what the student sees and infers the rest with its own decoder (as G2SD does); MAE, CAE, BEiT;
* ``visible``: it sees what the student sees, and only these positions have a target (as DMAE does).

Shapes: ``B`` images, ``L`` tokens, ``K`` of them visible, ``C`` channels, ``(h, w)`` the grid of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmpretrain.models import CAE as CAEAlgorithm
from mmpretrain.models import MAE, BEiTPretrainViT, BEiTViT, CAEPretrainViT, CLIPGenerator, MAEViT, MILANViT
from torch import Tensor, nn

MODES = ('full', 'same_mask', 'visible')


class Teacher:
    """Runs a network whose tapped modules give tokens ``(B, L, C)`` or maps ``(B, C, h, w)``.

    For mmpretrain's ``VisionTransformer`` (supervised, CLIP's and DINOv2's weights), ViTs of timm, and networks with
    feature maps. Tokens in front of the patches (class, registers) are dropped.

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
        if mode != 'full':
            self.entry = self._find_entry()
            # 'featmap' would reshape the visible tokens alone into a rectangle; only the taps are read.
            if hasattr(self.backbone, 'out_type'):
                self.backbone.out_type = 'raw'

    @property
    def backbone(self) -> nn.Module:
        """The encoder."""
        return self.model

    def run(self, images: Tensor, visible: Tensor) -> None:
        """Run the network; what is wanted of it is read at its taps.

        Args:
            images: ``(B, 3, H, W)``, normalized as the teacher wants it.
            visible: ``(B, h*w)`` bool, True = the student sees the patch. As many in each image, save in mode ``full``.
        """
        if self.mode == 'visible':
            with self.only(visible):
                self.encode(images)
        else:
            self.encode(images)

    def encode(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Call the encoder."""
        return self.backbone(images)

    def assemble(self, taps: dict[str, Tensor], visible: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """Return the feature map ``(B, C, h, w)`` of each tap.

        Args:
            taps: Output of the tapped modules by name.
            visible: ``(B, h*w)`` bool.
            grid: ``(h, w)``.

        Raises:
            ValueError: The output of a tap is neither a map nor tokens of this grid.
        """
        return {name: self.to_map(name, output, visible, grid) for name, output in taps.items()}

    def to_map(self, name: str, output: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the output of one tap as a map ``(B, C, h, w)``; positions without a token are 0."""
        if output.dim() == 4:
            return output
        if output.dim() != 3:
            raise ValueError(
                f'tap {name!r} gives a tensor of shape {tuple(output.shape)}; a tap must give tokens (B, L, C) or a '
                'map (B, C, h, w)'
            )
        tokens = int(visible[0].sum()) if self.mode == 'visible' else visible.shape[1]
        output = self.drop_extra(name, output, tokens, grid)
        if self.mode == 'visible':
            output = scatter(output, visible)
        return output.transpose(1, 2).reshape(output.shape[0], output.shape[2], *grid)

    def drop_extra(self, name: str, output: Tensor, tokens: int, grid: tuple[int, int]) -> Tensor:
        """Drop what stands in front of the last ``tokens`` tokens of ``(B, L, C)``."""
        extra = output.shape[1] - tokens
        # mmpretrain's name, timm's name.
        declared = getattr(self.backbone, 'num_extra_tokens', getattr(self.backbone, 'num_prefix_tokens', None))
        if extra < 0 or (declared is not None and extra not in (0, declared)):
            raise ValueError(
                f'tap {name!r} gives {output.shape[1]} tokens; expected {tokens} for a grid of {grid[0]} x {grid[1]} '
                f'in mode {self.mode!r}, with or without {1 if declared is None else declared} more in front'
            )
        return output[:, extra:]

    def patch_size(self) -> int | None:
        """Pixels of a token's side: the stride of the first convolution with equal kernel and stride; None without."""
        for module in self.backbone.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.stride[0] > 1:
                return module.stride[0]
        return None

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
        for name in ('drop_after_pos', 'pos_drop'):  # mmpretrain's, timm's
            entry = getattr(self.backbone, name, None)
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

    def run(self, images: Tensor, visible: Tensor) -> None:
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

    def run(self, images: Tensor, visible: Tensor) -> None:
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

    def assemble(self, taps: dict[str, Tensor], visible: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
        """Return the map of each tap, or in mode ``same_mask`` the one map that both make."""
        if self.mode != 'same_mask':
            return super().assemble(taps, visible, grid)
        if len(taps) != 2:
            raise ValueError(
                "mode 'same_mask' of a CAE needs two taps, of the encoder and of the regressor, for instance "
                f"('backbone.ln1', 'neck.norm_regressor'); got {tuple(taps)}"
            )
        (first, seen), (second, inferred) = taps.items()
        kept = int(visible[0].sum())
        tokens = scatter(self.drop_extra(first, seen, kept, grid), visible)
        tokens = tokens + scatter(self.drop_extra(second, inferred, visible.shape[1] - kept, grid), ~visible)
        return {f'{first}+{second}': tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)}


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

    def run(self, images: Tensor, visible: Tensor) -> None:
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

    def to_map(self, name: str, output: Tensor, visible: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the output of one tap as a map; CLIP's blocks give ``(L, B, C)``."""
        if 'resblocks' in name:
            output = output.transpose(0, 1)
        return super().to_map(name, output, visible, grid)


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


def token_grid(image_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """Return the grid ``(h, w)`` of an image in pixels; a remainder is padded, as mmcv's ``PatchEmbed`` does."""
    return tuple(math.ceil(side / patch_size) for side in image_size)
