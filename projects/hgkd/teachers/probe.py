"""What is looked at before a training: does the teacher say the same twice, and is what it says at its place?

Not in the paper (arXiv 2309.09571). Some public networks shuffle their tokens in each forward pass (transformers'
``ViTMAE``, whatever its mask ratio), others keep them in an order of their own (``Hiera`` before its last stage): a
training with such targets runs, and learns nothing.

Shapes: ``(H, W)`` the images in pixels, ``(h, w)`` the grid of a tap.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .provider import TeacherProvider

PATCHES = 8  # lit one after the other
BRIGHT = 3.0  # in standard deviations of the image
FINE = 4  # positions along a side from which the place beside counts as the place


def noise_image(channels: int, size: tuple[int, int], device: torch.device | str = 'cpu') -> Tensor:
    """Return an image ``(1, C, H, W)`` of normal noise, always the same; no random number is drawn from the run's."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, channels, *size, generator=generator).to(device)


def image_channels(network: nn.Module) -> int:
    """Return the channels that the first convolution of a network takes; 3 if there is none."""
    return next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), 3)


def check_teacher(provider: TeacherProvider, images: Tensor, active: Tensor | None = None) -> list[Tensor]:
    """Return the targets of one image, after a look at whether the teacher can be one.

    Args:
        provider: Runs the teacher.
        images: ``(1, C, H, W)``.
        active: Visible cells for the modes that need them, all True.

    Raises:
        ValueError: It cannot run on images of this size, gives something else each time, or mixes up positions.
    """
    height, width = images.shape[2:]
    try:
        maps = provider.maps(images, active)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(
            f'the teacher cannot be run on an image of {height} x {width} pixels ({error}). If it takes one size only, '
            'name it: resize_input=224, or (height, width)'
        ) from error
    again = provider.maps(images, active)
    # Two taps may make one map, as those of a CAE.
    for number, (name, first, second) in enumerate(zip(provider.taps, maps, again, strict=False)):
        if (first - second).abs().mean() > 0.01 * first.abs().mean():
            raise ValueError(
                f'two passes over one image differ at the tap {name!r}: the teacher draws random numbers, as networks '
                'that mask images themselves do. Give its encoder without the masking'
            )
        found = share_found(provider, images, active, number, first)
        if found < 0.5:
            raise ValueError(
                f'a lit patch is not found at its place in the map of the tap {name!r} ({found:.0%} of them are): its '
                'tokens are in another order than the patches. Tap another module, for instance the last one'
            )
    return maps


def check_prediction(pred: Tensor, target: Tensor, image_size: tuple[int, int]) -> None:
    """See that a student predicts a map like the target.

    Args:
        pred: ``(1, D', h', w')`` of the student.
        target: ``(1, D, h, w)`` of the teacher.
        image_size: ``(H, W)``.

    Raises:
        ValueError: Another grid or other channels.
    """
    if pred.shape[2:] != target.shape[2:]:
        raise ValueError(
            f'for an image of {image_size[0]} x {image_size[1]} pixels the teacher gives a grid of {target.shape[2]} x '
            f'{target.shape[3]}, the student predicts {pred.shape[2]} x {pred.shape[3]}. Set target_stride of the '
            "student to the stride of the teacher's taps, or resize_input=True to resize what the teacher sees"
        )
    if pred.shape[1] != target.shape[1]:
        raise ValueError(
            f'the teacher gives {target.shape[1]} channels, the student predicts {pred.shape[1]}: set out_channels '
            f'of the student to {target.shape[1]}'
        )


def share_found(provider: TeacherProvider, images: Tensor, active: Tensor | None, number: int, dark: Tensor) -> float:
    """Return the share of patches whose lighting changes a map most where they are, or beside it in a fine grid.

    Args:
        provider: Runs the teacher.
        images: ``(1, C, H, W)``.
        active: As in :func:`check_teacher`.
        number: Of the map.
        dark: The map of the image ``(1, D, h, w)``.
    """
    (height, width), (rows, columns) = images.shape[2:], dark.shape[2:]
    places = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(0))[:PATCHES].tolist()
    changes = []
    for place in places:
        row, column = divmod(place, columns)
        lit = images.clone()
        lit[
            ...,
            row * height // rows : (row + 1) * height // rows,
            column * width // columns : (column + 1) * width // columns,
        ] += BRIGHT
        changes.append((provider.maps(lit, active)[number] - dark).norm(dim=1)[0])
    changes = torch.stack(changes)
    # Some positions of a trained ViT change whatever is lit: what counts is to change more than for other patches.
    peaks = (changes / (changes.mean(dim=0) + changes.mean())).flatten(1).argmax(dim=1).tolist()
    reach = 1 if min(rows, columns) >= FINE else 0
    near = [
        max(abs(peak // columns - place // columns), abs(peak % columns - place % columns)) <= reach
        for place, peak in zip(places, peaks, strict=True)
    ]
    return sum(near) / len(near)
