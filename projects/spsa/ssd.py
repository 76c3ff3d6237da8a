"""mmdet's SSD head, able to predict. A config imports this file beside the plugin, which needs no mmdet."""

from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS


@MODELS.register_module()
class SPSASSDHead(SSDHead):
    """SSD head for features ``(B, C, H, W)`` of several levels; arguments and weights are the host's.

    From mmdet 3.2 on prediction asks each anchor head for its ``loss_cls``. SSD's has none, as it computes its loss
    itself, so it raises an AttributeError at the first validation (mmdetection's issues 11063, 11305 and 11780).
    """

    loss_cls = None
