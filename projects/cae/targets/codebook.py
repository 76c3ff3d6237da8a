"""A codebook of image patches by k-means: a tokenizer that needs no download.

Not in the papers: CAE takes the tokens of DALL-E's encoder, whose weights can be had but not assumed.

Shapes: ``B`` images, ``N`` patches, ``K`` tokens, ``P`` values of a window (C x window x window, RGB in [0, 1]).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmplugins.utils.atomic import replacing

DISTANCES = 2**24  # of points to centers, held at once; 64 MiB
SHIPPED = Path(__file__).parent / 'codebooks'


def windows_of(images: Tensor, patch_size: int, window: int) -> Tensor:
    """Cut out a window around each patch; the border repeats the edge.

    Args:
        images: ``(B, C, H, W)``; ``H`` and ``W`` are multiples of the patch size.
        patch_size: Pixels.
        window: Pixels, the patch size or larger by an even number.

    Returns:
        ``(B, N, P)``, patches in raster order.
    """
    if images.dim() != 4 or any(side % patch_size for side in images.shape[-2:]):
        raise ValueError(f'patches of {patch_size} pixels do not divide images of shape {tuple(images.shape)}')
    if window < patch_size or (window - patch_size) % 2:
        raise ValueError(f'window={window}: patch_size={patch_size}, or larger by an even number')
    images = F.pad(images, [(window - patch_size) // 2] * 4, mode='replicate')
    return F.unfold(images, window, stride=patch_size).transpose(1, 2)


def nearest(points: Tensor, centers: Tensor) -> Tensor:
    """Return the index of the nearest of ``(K, P)`` centers for points ``(…, P)``."""
    # The squared distance without its first term, which is the same for all centers.
    return (centers.square().sum(-1) - 2 * points @ centers.T).argmin(-1)


def fit_kmeans(points: Tensor, num_tokens: int, iterations: int = 20, seed: int = 0) -> Tensor:
    """Lloyd's algorithm from random points; a center that loses all its points restarts at a random one.

    Args:
        points: ``(n, P)``.
        num_tokens: ``K``, at most ``n``.
        iterations: Rounds.
        seed: Of the random points.

    Returns:
        Centers ``(K, P)``.

    Raises:
        ValueError: Fewer points than centers, or points that are not finite.
    """
    if not 1 < num_tokens <= len(points):
        raise ValueError(f'{num_tokens} centers of {len(points)} points')
    if not torch.isfinite(points).all():
        raise ValueError('the patches hold NaN or infinity')
    generator = torch.Generator().manual_seed(seed)

    def random_points(count: int) -> Tensor:
        return points[torch.randperm(len(points), generator=generator)[:count]]

    centers = random_points(num_tokens)
    rows = max(1, DISTANCES // num_tokens)
    for _ in range(iterations):
        owner = torch.cat([nearest(part, centers) for part in points.split(rows)])
        counts = torch.bincount(owner, minlength=num_tokens)
        sums = torch.zeros_like(centers).index_add_(0, owner, points)
        centers = sums / counts.clamp(min=1)[:, None]
        centers[counts == 0] = random_points(int((counts == 0).sum()))
    return centers


def read_image(file: Path, img_size: tuple[int, int]) -> Tensor:
    """Read an image as ``(1, 3, H, W)``, RGB in [0, 1], resized to ``img_size`` (H, W) without aliasing.

    Raises:
        ValueError: It cannot be read; the file is named.
    """
    try:
        with Image.open(file) as image:
            image = image.convert('RGB').resize(img_size[::-1], Image.Resampling.BICUBIC)
    except (OSError, SyntaxError) as error:  # PIL raises the latter for broken PNGs
        raise ValueError(f'{file} is not an image that can be read: {error}') from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def random_windows(
    files: Sequence[Path], img_size: tuple[int, int], patch_size: int, window: int, most: int, seed: int
) -> Tensor:
    """Read the windows around random patches of image files, one file at a time.

    Args:
        files: Images; those of which no patch is drawn are not read.
        img_size: Each image is resized to ``(H, W)`` first.
        patch_size: Pixels.
        window: Pixels around a patch that count.
        most: How many windows, if there are so many; each set of them is equally probable.
        seed: Of the random choice.

    Returns:
        ``(n, P)``, in the order of the files.
    """
    each = (img_size[0] // patch_size) * (img_size[1] // patch_size)
    total = len(files) * each
    drawn = np.random.default_rng(seed).choice(total, min(most, total), replace=False, shuffle=False)
    drawn.sort()
    images, first = np.unique(drawn // each, return_index=True)
    return torch.cat(
        [
            windows_of(read_image(files[image], img_size), patch_size, window)[0, rows % each]
            for image, rows in zip(images, np.split(drawn, first[1:]), strict=True)
        ]
    )


def fit_codebook(
    files: Sequence[Path],
    out: Path,
    num_tokens: int = 128,
    patch_size: int = 8,
    img_size: tuple[int, int] = (64, 64),
    window: int | None = None,
    max_patches: int = 200_000,
    iterations: int = 20,
    seed: int = 0,
) -> Tensor:
    """Fit a codebook to the patches of image files and write it.

    Args:
        files: Images.
        out: The ``.npz`` to write.
        num_tokens: ``K``.
        patch_size: Pixels.
        img_size: Each image is resized to ``(H, W)`` first.
        window: Pixels around a patch that count; default: the patch.
        max_patches: A random part is taken where there are more; all of them are held in memory.
        iterations: Of k-means.
        seed: Of the random parts.

    Returns:
        Centers ``(K, P)``, as written.

    Raises:
        ValueError: There are no images, a file is none, patches do not divide them, or there are fewer patches than
            tokens.
    """
    if not files:
        raise ValueError('no images to fit a codebook to')
    if patch_size < 1 or any(side < 1 or side % patch_size for side in img_size):
        raise ValueError(
            f'patch_size={patch_size}, img_size={tuple(img_size)}: each side must be a multiple of the patch size, and '
            'all must be above 0'
        )
    window = window or patch_size
    points = random_windows(files, img_size, patch_size, window, max_patches, seed)
    centers = fit_kmeans(points, num_tokens, iterations, seed).half()
    with replacing(Path(out).with_suffix('.npz')) as path:
        np.savez_compressed(path, centers=centers.numpy(), patch_size=patch_size, window=window)
    return centers.float()


def load_codebook(name: str | Path) -> tuple[Tensor, int, int]:
    """Read a codebook.

    Args:
        name: A ``.npz`` of :func:`fit_codebook`, or the name of one that comes with the plugin.

    Returns:
        Centers ``(K, P)``, patch size, window.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file holds something else.
    """
    shipped = SHIPPED / f'{name}.npz'
    path = shipped if shipped.is_file() else Path(name)
    if not path.is_file():
        names = sorted(file.stem for file in SHIPPED.glob('*.npz'))
        raise FileNotFoundError(
            f'no codebook {name}; a file of `python -m mmplugins.cae fit-codebook`, or one of {names}'
        )
    with np.load(path, allow_pickle=False) as data:
        if not {'centers', 'patch_size', 'window'} <= set(data.files):
            raise ValueError(f'{path} is no codebook: it holds {sorted(data.files)}')
        centers = torch.from_numpy(data['centers'].astype(np.float32))
        patch_size, window = int(data['patch_size']), int(data['window'])
    if centers.dim() != 2 or centers.size(1) % window**2 or not torch.isfinite(centers).all():
        raise ValueError(
            f'{path}: centers of shape {tuple(centers.shape)} for windows of {window} pixels, or not finite'
        )
    return centers, patch_size, window
