"""What is measured: AP of mmrotate's metric, errors of angles, and the costs of encoder layers."""

import contextlib
import functools
import multiprocessing.pool
import types
from collections.abc import Iterator

import numpy as np
import torch
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmdet.models.layers import DeformableDetrTransformerEncoderLayer
from mmdet.structures.bbox import get_box_tensor
from mmengine.runner import Runner
from mmrotate.evaluation.functional import mean_ap
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmplugins.o2detr import DWSepEncoderLayer
from mmplugins.o2detr.angles import angle_distance, regularize

BORDER = np.deg2rad(10)


@contextlib.contextmanager
def threads_for_metric() -> Iterator[None]:
    """Let mmrotate's AP use threads: it starts four processes for each class, which takes longer than the work."""
    before = mean_ap.get_context
    mean_ap.get_context = lambda _: types.SimpleNamespace(Pool=lambda _: multiprocessing.pool.ThreadPool(1))
    try:
        yield
    finally:
        mean_ap.get_context = before


def test(runner: Runner) -> dict[str, float]:
    """Predict the test images; AP50 and AP75 of ``DOTAMetric``, and the errors of angles."""
    model = runner.model.eval()
    evaluator = runner.build_evaluator(runner.cfg.test_evaluator)
    loader = runner.build_dataloader(runner.cfg.test_dataloader)
    evaluator.dataset_meta = loader.dataset.metainfo
    errors, border = [], []
    for batch in loader:
        with torch.no_grad():
            samples = model.test_step(batch)
        evaluator.process(samples, batch)
        for sample in samples:
            truth = regularize(get_box_tensor(sample.gt_instances.bboxes).float())
            errors += angle_errors(sample.pred_instances.bboxes, sample.pred_instances.scores, truth).tolist()
            border += (angle_distance(truth[:, 4], torch.zeros(())) < BORDER).tolist()
    with threads_for_metric():
        result = evaluator.evaluate(len(loader.dataset))
    errors, border = np.rad2deg(errors), np.array(border, dtype=bool)
    found = ~np.isnan(errors)

    def mean(values: np.ndarray) -> float | None:
        return float(values.mean()) if len(values) else None

    return dict(
        ap50=float(result['dota/AP50']),
        ap75=float(result['dota/AP75']),
        angle=mean(errors[found]),
        angle_border=mean(errors[found & border]),
        found=float(found.mean()),
        border_boxes=int(border.sum()),
    )


def angle_errors(boxes: Tensor, scores: Tensor, truth: Tensor) -> Tensor:
    """Error of the best-scored detection at each true box.

    A detection is at a box if its center is not farther from the box's than half the short side: a rule that does not
    look at the angle, other than one on IoU.

    Args:
        boxes: ``(n, 5)``, radians.
        scores: ``(n,)``.
        truth: ``(G, 5)``.

    Returns:
        ``(G,)`` radians in [0, π/2]; not a number where no detection is.
    """
    if not len(boxes):
        return torch.full((len(truth),), torch.nan)
    at = torch.cdist(truth[:, :2], boxes[:, :2]) <= truth[:, 3:4] / 2
    best = scores.where(at, -1.0).max(1)
    error = angle_distance(regularize(boxes)[best.indices, 4], truth[:, 4])
    return error.where(best.values >= 0, torch.nan)


class DenseLayer(nn.Module):
    """Encoder layer of DETR: mmcv's multi-head attention, whose weights are explicit, and the same FFN."""

    def __init__(self, dims: int, ffn: nn.Module) -> None:
        super().__init__()
        self.attention = MultiheadAttention(dims, 8, batch_first=True)
        self.ffn = ffn
        self.norms = nn.ModuleList([nn.LayerNorm(dims) for _ in range(2)])

    def forward(self, query: Tensor, query_pos: Tensor) -> Tensor:
        """``(B, N, D)`` to ``(B, N, D)``."""
        query = self.norms[0](self.attention(query, query_pos=query_pos, key_pos=query_pos))
        return self.norms[1](self.ffn(query))


def layer_costs(dims: int, side: int, kind: str) -> dict[str, float]:
    """Operations and bytes kept for the backward pass of one encoder layer at one square image.

    Nothing is computed for the dense layer: its attention matrix at 1024x1024 pixels has 14 GiB.

    Args:
        dims: ``D``; the FFN is four times as wide.
        side: Of the image in pixels; levels have strides 8, 16, 32, 64.
        kind: ``'dwsep'``, ``'deformable'`` or ``'dense'``.

    Returns:
        ``gflop`` (two a multiply-add, sampling not counted) and ``mib``.
    """
    sides = [side // stride for stride in (8, 16, 32, 64)]
    shapes = torch.tensor([(s, s) for s in sides])
    tokens = int(shapes.prod(1).sum())
    ffn = dict(embed_dims=dims, feedforward_channels=4 * dims, ffn_drop=0.0)
    device = 'meta' if kind == 'dense' else 'cpu'
    deformable = DeformableDetrTransformerEncoderLayer(
        self_attn_cfg=dict(embed_dims=dims, num_levels=4, dropout=0.0, batch_first=True), ffn_cfg=ffn
    )
    query = torch.zeros(1, tokens, dims, device=device, requires_grad=True)
    pos = torch.zeros(1, tokens, dims, device=device)
    if kind == 'dwsep':
        layer = DWSepEncoderLayer(mixer_cfg=dict(embed_dims=dims), ffn_cfg=ffn)
        call = functools.partial(layer, query, pos, None, shapes)
    elif kind == 'deformable':
        layer = deformable
        starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
        call = functools.partial(
            layer,
            query,
            query_pos=pos,
            key_padding_mask=None,
            spatial_shapes=shapes,
            level_start_index=starts,
            valid_ratios=torch.ones(1, 4, 2),
            reference_points=torch.full((1, tokens, 4, 2), 0.5),
        )
    else:
        layer = DenseLayer(dims, deformable.ffn).to(device)
        call = functools.partial(layer, query, pos)
    weights = {p.untyped_storage()._cdata for p in layer.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = tensor  # holding it keeps the address from being used again
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        call()
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return dict(gflop=counter.get_total_flops() / 1e9, mib=size / 2**20)
