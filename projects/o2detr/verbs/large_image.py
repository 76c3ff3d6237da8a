"""Rotated boxes in images of any size, by patches.

mmrotate's ``inference_detector_by_patches`` does this where some patch has boxes; it raises where none has any, and it
hands every one of the hundreds of low-scored boxes that a DETR gives for each patch to the suppression. Windows, patch
loading and merging are the host's own functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import Compose
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import nn

from .scales import enlarged, first_resize, fixed_scale


def patch_pipeline(model: nn.Module) -> Compose:
    """Return the test pipeline of a model's config, reading patches of an array in the place of files.

    Args:
        model: From ``mmdet.apis.init_detector``: has ``cfg``.

    Raises:
        ValueError: The pipeline does not begin with ``LoadImageFromFile``.
    """
    from mmrotate.utils import get_test_pipeline_cfg

    steps = [dict(step) for step in get_test_pipeline_cfg(model.cfg)]
    if steps[0]['type'].rpartition('.')[2] != 'LoadImageFromFile':
        raise ValueError(f'the test pipeline must begin with LoadImageFromFile, not {steps[0]["type"]}')
    needless = ('LoadAnnotations', 'ConvertBoxType')
    rest = [step for step in steps[1:] if step['type'].rpartition('.')[2] not in needless]
    return Compose([dict(type='mmrotate.LoadPatchFromNDArray'), *rest])


def shown_scale(cfg: Config, patch: int) -> float:
    """Return by how much the test pipeline of a config enlarges square patches of a side."""
    from mmrotate.utils import get_test_pipeline_cfg

    return enlarged(get_test_pipeline_cfg(cfg), (patch, patch)) or 1.0


def default_patch(cfg: Config) -> int:
    """Return the side of patches that shows objects as large as training did.

    That is ``patch_size`` of the config, the side of the pictures that it trains on; without it, the side at which the
    test pipeline changes nothing.

    Raises:
        ValueError: The config has neither.
    """
    from mmrotate.utils import get_test_pipeline_cfg

    side = cfg.get('patch_size') or min(fixed_scale(first_resize(get_test_pipeline_cfg(cfg))) or (0,))
    if not side:
        raise ValueError(
            'the config has neither patch_size nor a Resize to a scale in its test pipeline: give --patch, '
            'the side in pixels of the pictures that it was trained on'
        )
    return side


@torch.no_grad()
def detect_large_image(
    model: nn.Module,
    image: np.ndarray,
    patch: int,
    overlap: int,
    *,
    ratios: Sequence[float] = (1.0,),
    score_thr: float = 0.05,
    nms_iou: float = 0.1,
    batch_size: int = 1,
) -> DetDataSample:
    """Detect in overlapping patches and merge by rotated NMS.

    Args:
        model: From ``mmdet.apis.init_detector``.
        image: ``(H, W, 3)``, BGR, 0–255.
        patch: Side of the patches in pixels, at ratio 1, see :func:`default_patch`; a smaller picture is padded to it,
            so that its objects are shown as large.
        overlap: Of neighboring patches in pixels, at ratio 1; at least the longest object finds a patch that holds it.
        ratios: Patches of ``patch / ratio`` pixels are used too; the test pipeline resizes them.
        score_thr: Boxes of a lower score do not reach the merging.
        nms_iou: Of two boxes of a class that overlap more, the worse is dropped.
        batch_size: Patches at once.

    Returns:
        A sample with ``pred_instances``: ``bboxes`` ``(n, 5)`` in pixels of the image, ``scores`` and ``labels``
        ``(n,)``, best first; ``n`` may be 0.

    Raises:
        ValueError: ``overlap`` is not between 0 and ``patch``, or the image is no ``(H, W, 3)`` array.
    """
    from mmrotate.utils import get_multiscale_patch, merge_results_by_nms, slide_window

    if not 0 < overlap < patch:
        raise ValueError(f'overlap must be between 0 and the side of a patch, {patch}, not {overlap}')
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f'the image must be (H, W, 3), not {image.shape}')
    height, width = image.shape[:2]
    pipeline = patch_pipeline(model)
    # The host drops windows that a picture fills by less than 0.6, among them all of a larger ratio.
    sizes_and_steps = get_multiscale_patch([patch], [patch - overlap], ratios)
    windows = slide_window(width, height, *sizes_and_steps, img_rate_thr=0.0)
    results, offsets = [], []
    for start in range(0, len(windows), batch_size):
        chosen = windows[start : start + batch_size]
        data = [pipeline(dict(img=image, img_id=0, img_path=None, patch=window.tolist())) for window in chosen]
        batch = {key: [item[key] for item in data] for key in ('inputs', 'data_samples')}
        for sample, (x, y) in zip(model.test_step(batch), chosen[:, :2], strict=True):
            found = sample.pred_instances
            # A patch at the border of a small image is padded; nothing is in the padding.
            inside = (found.bboxes[:, 0] + int(x) <= width) & (found.bboxes[:, 1] + int(y) <= height)
            found = found[(found.scores >= score_thr) & inside]
            if len(found):
                sample.pred_instances = found
                results.append(sample)
                offsets.append((x, y))
    merged = DetDataSample(metainfo=dict(ori_shape=(height, width), img_shape=(height, width)))
    if results:
        nms = dict(type='nms_rotated', iou_threshold=nms_iou)
        merged.pred_instances = merge_results_by_nms(results, np.array(offsets), (width, height), nms).pred_instances
    else:
        empty = torch.zeros(0)
        merged.pred_instances = InstanceData(bboxes=torch.zeros(0, 5), scores=empty, labels=empty.long())
    return merged
