"""ONNX of a whole O²DETR, from pixels to scores and boxes: images of a fixed size, any number at once.

There is no NMS to export, and what makes proposals distinct is a few tensor operations. The encoder has convolutions,
pooling and resizing only; the decoder's deformable attention becomes ``GridSample``, which needs opset 16.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...utils.atomic import replacing
from ..cascade import O2DETRCascade
from ..detector import O2DETR

TOLERANCE = 1e-3  # of scores, and of boxes in parts of the image
# Traced with two images, so that no dimension of one is taken for a constant; compared with fewer and with more.
TRACED, COMPARED = 2, (1, 3)


class ExportedO2DETR(nn.Module):
    """What is exported: normalization, network, boxes in pixels.

    Args:
        model: An :class:`O2DETR` in evaluation mode; a cascade has rotated RoIAlign and NMS, which ONNX does not have.

    Raises:
        TypeError: The model is no O2DETR, or a cascade.
    """

    def __init__(self, model: O2DETR) -> None:
        super().__init__()
        if not isinstance(model, O2DETR) or isinstance(model, O2DETRCascade):
            raise TypeError(
                f'{type(model).__name__} cannot be exported: ONNX has no rotated RoIAlign; export the O2DETR under it'
            )
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Detect.

        Args:
            images: ``(B, 3, H, W)``, channels as OpenCV reads them (BGR), 0–255.

        Returns:
            Scores ``(B, M, C)`` in [0, 1] and boxes ``(B, M, 5)`` in pixels and radians.
        """
        preprocessor = self.model.data_preprocessor
        if preprocessor._channel_conversion:
            images = images.flip(1)
        if preprocessor._enable_normalize:
            images = (images - preprocessor.mean) / preprocessor.std
        logits, boxes = self.model(images, mode='tensor')
        meta = dict(img_shape=tuple(int(side) for side in images.shape[-2:]))
        return logits[-1].sigmoid(), self.model.bbox_head.decode_boxes(boxes[-1].flatten(0, 1), meta).view_as(boxes[-1])


def export_onnx(model: O2DETR, path: str | Path, size: tuple[int, int], *, check: bool = True) -> float | None:
    """Write an ONNX file and compare its outputs with the model's.

    Args:
        model: From ``mmdet.apis.init_detector``.
        path: File to write; it appears only if the comparison succeeds.
        size: Height and width of the images; the file takes no others.
        check: Whether to compare, on random pixels, with one image and with three.

    Returns:
        Largest difference of scores and of boxes in parts of the image, None without ``check``.

    Raises:
        TypeError: See :class:`ExportedO2DETR`.
        ImportError: ``onnx`` is missing, or for the check ``onnxruntime``.
        ValueError: The outputs differ by more than a thousandth.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ImportError('export needs onnx: pip install onnx onnxruntime') from error
    network = ExportedO2DETR(model).eval()
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    pictures = {
        number: torch.rand(number, 3, *size, generator=generator).mul(255).to(device) for number in (TRACED, *COMPARED)
    }
    with torch.no_grad(), replacing(path) as temporary:
        torch.onnx.export(
            network,
            (pictures[TRACED],),
            str(temporary),
            input_names=['images'],
            output_names=['scores', 'boxes'],
            dynamic_axes={name: {0: 'batch'} for name in ('images', 'scores', 'boxes')},
            dynamo=False,
            opset_version=16,
        )
        if check:
            return max(largest_difference(network, pictures[number], temporary) for number in COMPARED)
    return None


def largest_difference(network: ExportedO2DETR, images: Tensor, path: str | Path) -> float:
    """Run both on the same images; see :func:`export_onnx`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            'the comparison needs onnxruntime: pip install onnxruntime, or leave it out with --no-check'
        ) from error
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    scores, boxes = session.run(None, {'images': images.cpu().numpy()})
    true_scores, true_boxes = (x.cpu().numpy() for x in network(images))
    angle = np.abs(boxes[..., 4] - true_boxes[..., 4])
    angle = np.minimum(angle, np.pi - angle)  # 0 and π are one direction
    sides = np.abs(boxes[..., :4] - true_boxes[..., :4]).max() / max(images.shape[-2:])
    difference = float(np.max([np.abs(scores - true_scores).max(), sides, angle.max()]))
    if not difference <= TOLERANCE:  # also NaN
        raise ValueError(f'the exported network differs from the model by {difference:.2g}; nothing was written')
    return difference
