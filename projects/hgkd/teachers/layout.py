"""What a tap gives, read as a map: tokens or channels last, with or without tokens in front, of whatever stride.

Not in the paper (arXiv 2309.09571): all of it. A reading that is wrong in silence costs a whole training, so the shape
of the output decides, not the kind of the network, and what fits no reading is an error.

Shapes: ``B`` images of ``(H, W)`` pixels, ``L`` tokens, ``C`` channels, ``(h, w)`` the grid of the tap.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from ...utils.encoders import count_extra_tokens, grid_of

DEEPEST = 6  # halvings of the patch grid that a hierarchical network is looked at for


def patch_size(network: nn.Module) -> int | None:
    """Pixels of a patch: the stride of the first convolution with equal kernel and stride; None without one."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == module.stride and module.stride[0] > 1:
            return module.stride[0]
    return None


def token_grid(image_size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Return the grid ``(h, w)`` of an image in pixels; a remainder is padded, as mmcv's ``PatchEmbed`` does."""
    return tuple(math.ceil(side / patch) for side in image_size)


def to_map(name: str, output: Tensor, image_size: tuple[int, int], network: nn.Module) -> Tensor:
    """Return the output of a tap as ``(B, C, h, w)``.

    Args:
        name: Of the tap, for messages.
        output: ``(B, C, h, w)``, ``(B, h, w, C)`` or ``(B, L, C)``.
        image_size: ``(H, W)`` of what the network saw.
        network: Says its patch and how many tokens stand in front of the patches.

    Raises:
        ValueError: The output is none of these.
    """
    if output.dim() == 4:
        return channels_first(name, output, image_size, network)
    if output.dim() != 3:
        raise ValueError(
            f'tap {name!r} gives a tensor of shape {tuple(output.shape)}; a tap must give tokens (B, L, C) or a map '
            '(B, C, h, w) or (B, h, w, C)'
        )
    extra, grid = split_tokens(name, output.shape[1], image_size, network)
    return output[:, extra:].transpose(1, 2).unflatten(2, grid)


def channels_first(name: str, output: Tensor, image_size: tuple[int, int], network: nn.Module) -> Tensor:
    """Return a map with its channels before the grid; which dimensions are the grid shows in its shape."""

    def fits(rows: int, columns: int) -> bool:
        return abs(rows * image_size[1] / image_size[0] - columns) <= 1

    first, last = fits(*output.shape[2:]), fits(*output.shape[1:3])
    if first and last:  # as many channels as rows: what timm's networks say, or the usual
        first = getattr(getattr(network, 'timm_model', network), 'output_fmt', 'NCHW') != 'NHWC'
    if not first and not last:
        raise ValueError(
            f'tap {name!r} gives {tuple(output.shape)} for an image of {image_size[0]} x {image_size[1]} pixels: '
            'neither (B, C, h, w) nor (B, h, w, C) with a grid of the shape of the image'
        )
    return output if first else output.permute(0, 3, 1, 2)


def split_tokens(name: str, num: int, image_size: tuple[int, int], network: nn.Module) -> tuple[int, tuple[int, int]]:
    """Return how many of ``num`` tokens stand in front of the patches, and the grid ``(h, w)`` of the others.

    Raises:
        ValueError: No grid of the shape of the image has so many positions.
    """
    declared, patch = count_extra_tokens(network), patch_size(network)
    if patch is None:
        extra = declared or 0
        return extra, grid_of(num - extra, image_size)
    for halvings in range(DEEPEST):
        grid = token_grid(image_size, patch * 2**halvings)
        extra = num - grid[0] * grid[1]
        undeclared = declared is None and halvings == 0 and extra > 0  # class tokens of a ViT that does not say so
        if extra in (0, declared) or undeclared:
            return extra, grid
    rows, columns = token_grid(image_size, patch)
    raise ValueError(
        f'tap {name!r} gives {num} tokens; expected {rows * columns} for a grid of {rows} x {columns}, with or without '
        f'{1 if declared is None else declared} more in front, or that of a multiple of the patch'
    )
