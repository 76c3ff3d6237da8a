"""One small DS-Net with one stream, two, two that are aligned, and a wider one in the place of the alignment."""

from mmengine.model import initialize
from torch import Tensor, nn

from mmplugins.dsnet import DSNet

LOCAL, GLOBAL, DUAL, WIDER, ALIGNED = (
    'local only (alpha 0)', 'global only (alpha 1)', 'two streams', 'two streams, wider', 'two streams, aligned',
)  # fmt: skip
OPTIONS = {
    LOCAL: dict(split_ratio=0.0),
    GLOBAL: dict(split_ratio=1.0),
    DUAL: dict(inter_scale_align=False),
    WIDER: dict(inter_scale_align=False),
    ALIGNED: dict(),
}


class Classifier(nn.Module):
    """Logits ``(B, classes)`` of images ``(B, C, H, W)``.

    Args:
        arm: A key of ``OPTIONS``.
        arch: Of `DSNet`; ``wider`` in it are the ``embed_dims`` of the arm that has as many weights as the aligned one.
        in_channels: ``C``.
        classes: Number of classes.
    """

    def __init__(self, arm: str, arch: dict, in_channels: int, classes: int) -> None:
        super().__init__()
        arch = dict(arch)
        wider = arch.pop('wider', None)
        if arm == WIDER:
            arch['embed_dims'] = wider
        self.backbone = DSNet(arch, in_channels, mlp_ratio=3, attn_drop_rate=0.0, drop_path_rate=0.0, **OPTIONS[arm])
        self.head = nn.Linear(arch['embed_dims'][-1], classes)
        initialize(self.backbone, self.backbone.init_cfg)  # as init_weights() does, without its log

    def forward(self, x: Tensor) -> Tensor:
        """Average the last map and classify it."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))
