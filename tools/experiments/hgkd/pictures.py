"""What teacher and students make of photos, as a picture."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.workloads.images import MEAN, STD
from mmplugins.hgkd import ActiveMask, TeacherProvider, draw_cells
from mmplugins.utils.atomic import replacing

CELL, STEP = 32, 8  # pixels: of a mask cell, and between two positions of the drawn maps
TITLES = (
    'photo', 'features of the teacher', "student's prediction of them,\nfrom the whole photo", '40 % of the photo',
    'rest as SparK predicts it,\nmean and contrast given',
)  # fmt: skip


def stitched(encode: Callable[[Tensor], Tensor], images: Tensor, stride: int, step: int = STEP) -> Tensor:
    """Return a map that is finer than that of the network, from images moved by less than its stride.

    Args:
        encode: Images ``(B, C, H, W)`` to maps ``(B, D, H / stride, W / stride)``.
        images: ``(B, C, H, W)``; pixels beyond them are those of the border.
        stride: In pixels.
        step: Between two positions of the result, in pixels; a divisor of the stride.

    Returns:
        ``(B, D, H / step, W / step)``.
    """
    height, width = images.shape[2:]
    padded, moves = F.pad(images, [(stride - step) // 2] * 4, mode='replicate'), range(0, stride, step)
    maps = [encode(padded[:, :, y : y + height, x : x + width]) for y in moves for x in moves]
    maps = torch.stack(maps).unflatten(0, (len(moves), len(moves)))  # (y, x, B, D, h, w)
    return maps.permute(2, 3, 4, 0, 5, 1).flatten(4, 5).flatten(2, 3)


def restored(pred: Tensor, images: Tensor, cells: Tensor) -> Tensor:
    """Return images ``(B, C, H, W)`` whose hidden cells are SparK's prediction, of the mean and contrast they have.

    Args:
        pred: ``(B, C, H, W)``, of cells with mean 0 and variance 1, as ``SparKPretrainHead`` compares them.
        images: ``(B, C, H, W)``.
        cells: ``(B, 1, h, w)`` bool, True is visible.
    """
    mask = ActiveMask(cells)
    edge = mask.edge(images.shape[2:])
    mean, square = (F.avg_pool2d(x.mean(dim=1, keepdim=True), edge) for x in (images, images.square()))
    contrast = (square - mean.square()).clamp(min=0).sqrt()
    mean, contrast = (F.interpolate(x, scale_factor=edge) for x in (mean, contrast))
    return torch.where(mask.sites(images.shape[2:]), images, pred * contrast + mean)


def colors(target: Tensor, pred: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps ``(B, D, h, w)`` as colors ``(B, h, w, 3)`` in [0, 1]: the same color is the same feature.

    The colors are the first three principal components of the first map.
    """
    rows, others = (x.movedim(1, -1) for x in (target, pred))
    center = rows.flatten(0, 2).mean(dim=0)
    axes = torch.linalg.svd(rows.flatten(0, 2) - center, full_matrices=False).Vh[:3].T
    rows, others = (rows - center) @ axes, (others - center) @ axes
    low, high = rows.flatten(0, 2).aminmax(dim=0)
    return (rows - low) / (high - low), ((others - low) / (high - low)).clamp(0, 1)


@torch.no_grad()
def draw(images: Tensor, teacher: TeacherProvider, student: nn.Module, spark: nn.Module, path: Path) -> None:
    """Draw a column for each of a few photos.

    Args:
        images: ``(B, 3, S, S)`` of ``load_folder``.
        teacher: Of the student.
        student: ``HGKD`` that predicts the teacher's features, in eval mode.
        spark: ``HGKD`` that predicts pixels, likewise.
        path: Of the picture.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    whole, cells = (
        draw_cells(
            len(images), (images.shape[2] // CELL, images.shape[3] // CELL), ratio, torch.Generator().manual_seed(0)
        )
        for ratio in (0.0, spark.mask_ratio)
    )
    target, pred = (
        stitched(encode, images, student.target_stride)
        for encode in (teacher, lambda x: student.predict_features(x, whole)[0])
    )
    pixels = spark.pixel_proj(spark.decode(images, cells))
    visible = images * ActiveMask(cells).sites(images.shape[2:])
    mean, std = torch.tensor([MEAN, STD]).view(2, 3, 1, 1) / 255
    photos = [(x * std + mean).clamp(0, 1).movedim(1, -1) for x in (images, visible, restored(pixels, images, cells))]
    rows = (photos[0], *colors(target, pred), *photos[1:])
    figure, panels = pyplot.subplots(
        len(rows), len(images), figsize=(1.2 * len(images) + 2, 1.2 * len(rows)), layout='constrained', squeeze=False
    )
    for title, pictures, line in zip(TITLES, rows, panels, strict=True):
        for picture, panel in zip(pictures, line, strict=True):
            panel.imshow(picture.numpy(), interpolation='bilinear', extent=(0, 1, 0, 1))
            panel.set_xticks([])
            panel.set_yticks([])
        line[0].set_ylabel(title, fontsize=8, rotation=0, ha='right', va='center')
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=80)
    pyplot.close(figure)
