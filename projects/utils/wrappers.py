"""The model behind what wraps it for several processes."""

from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn


def model_of(runner: Runner) -> nn.Module:
    """Return the model of a run without its wrappers, of which there may be several."""
    model = runner.model
    while is_model_wrapper(model):
        model = model.module
    return model
