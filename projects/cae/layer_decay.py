"""Layer-wise learning rate decay for detectors and segmentors."""

from __future__ import annotations

from functools import partial

from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class BackboneLayerDecayOptimWrapperConstructor(LearningRateDecayOptimWrapperConstructor):
    """mmpretrain's layer decay for a model whose backbone, not itself, tells the depth of a parameter.

    mmpretrain's asks the whole model, which mmdet's and mmseg's cannot answer; theirs know backbones by name. What is
    not in the backbone gets the full learning rate. ``paramwise_cfg`` is that of the base class.
    """

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = '', get_layer_depth=None, **kwargs):
        """Add the parameters of ``module`` to ``params``, as the base class does, with the backbone's depths."""
        if get_layer_depth is None:
            get_layer_depth = partial(module.backbone.get_layer_depth, prefix='backbone.')
        super().add_params(params, module, prefix=prefix, get_layer_depth=get_layer_depth, **kwargs)
