"""One small DS-Net with one stream or two, with and without their alignment, of equal size by its widths."""

from mmengine.model import initialize
from torch import Tensor, nn

from mmplugins.dsnet import DSNet

LOCAL, QUARTER, DUAL, MOST, GLOBAL, ALIGNED = (
    'local only (alpha 0)', 'two streams (alpha 0.25)', 'two streams (alpha 0.5)', 'two streams (alpha 0.75)',
    'global only (alpha 1)', 'two streams, aligned',
)  # fmt: skip
OPTIONS = {
    LOCAL: dict(split_ratio=0.0),
    QUARTER: dict(split_ratio=0.25, inter_scale_align=False),
    DUAL: dict(inter_scale_align=False),
    MOST: dict(split_ratio=0.75, inter_scale_align=False),
    GLOBAL: dict(split_ratio=1.0),
    ALIGNED: dict(),
}


class Classifier(nn.Module):
    """Logits ``(B, classes)`` of images ``(B, C, H, W)``.

    Args:
        arm: A key of ``OPTIONS``.
        arch: Of `DSNet`, but for ``embed_dims``.
        widths: ``embed_dims`` of each arm.
        in_channels: ``C``.
        classes: Number of classes.
    """

    def __init__(
        self, arm: str, arch: dict, widths: dict[str, tuple[int, ...]], in_channels: int, classes: int
    ) -> None:
        super().__init__()
        arch = dict(arch, embed_dims=widths[arm])
        self.backbone = DSNet(arch, in_channels, mlp_ratio=3, attn_drop_rate=0.0, drop_path_rate=0.0, **OPTIONS[arm])
        self.head = nn.Linear(widths[arm][-1], classes)
        initialize(self.backbone, self.backbone.init_cfg)  # as init_weights() does, without its log

    def forward(self, x: Tensor) -> Tensor:
        """Average the last map and classify it."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))
