"""SPSA inside any network: a mixer behind the layers whose names match a pattern.

``B, C, H, W``: images, channels, height, width; ``N``: tokens.
"""

import re
from collections.abc import Sequence
from functools import partial

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from .layer import build_mixer

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Inserted(nn.Module):
    """A mixer of maps, for the output of a layer of any layout.

    Args:
        mixer: Config of the mixer; it is given ``in_channels``.
        in_channels: ``C``.
        channel_axis: Where the channels are; negative: counted from the end.
    """

    def __init__(self, mixer: dict, in_channels: int, channel_axis: int) -> None:
        super().__init__()
        self.mixer = build_mixer(mixer, in_channels)
        self.channel_axis = channel_axis

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)``, tokens ``(B, N, C)`` or ``(B, H, W, C)`` to the same shape."""
        return self.mixer(x.movedim(self.channel_axis, 1)).movedim(1, self.channel_axis)


def mix_output(layer: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
    """Forward hook of a layer that holds a mixer; it finds that of its own layer, so copies of a network work."""
    return layer.spsa(output)


def outputs_of(network: nn.Module, names: Sequence[str], example: Sequence[int]) -> dict[str, object]:
    """What layers return for an image of zeros ``(1, *example)``, by name; those that are not called are missing."""
    found = {}

    def keep(name: str, layer: nn.Module, inputs: tuple, output: object) -> None:
        found[name] = output

    handles = [network.get_submodule(name).register_forward_hook(partial(keep, name)) for name in names]
    modes = {module: module.training for module in network.modules()}
    parameter = next(network.parameters())
    for module in modes:
        module.training = False  # a host's train() may do more, and batch norms must not see the zeros
    try:
        with torch.no_grad():
            network(torch.zeros(1, *example, dtype=parameter.dtype, device=parameter.device))
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return found


def why_not(layer: nn.Module, output: object) -> str | None:
    """What is in the way of a mixer behind a layer that returned ``output``; None if nothing is."""
    if hasattr(layer, 'spsa'):
        return 'has a mixer behind it already'
    if isinstance(layer, CONTAINERS) and type(layer).forward is not nn.Sequential.forward:
        return 'runs the layers that it holds in a way of its own, where a mixer has no place'
    if isinstance(output, Tensor) and output.dim() in (3, 4):
        return None
    kind = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    return f'returns {kind}, no map (B, C, H, W) and no tokens (B, N, C)'


def insert_spsa(
    network: nn.Module,
    after: str,
    mixer: dict = dict(type='SPSA'),  # noqa: B006
    channel_axis: int | None = None,
    example: Sequence[int] = (3, 64, 64),
) -> nn.Module:
    """Put a mixer behind layers of a network, in place; none of its weights changes its name.

    In an ``nn.Sequential`` the mixer is one more layer at the end; elsewhere a forward hook runs it.

    SPSA has no weights, so checkpoints load strictly with and without it. It is not the identity at the start: it
    scales each token by ``1 + rho``, from 0 to 2, and a pretrained network has to be trained on, with statistics of
    batch norms that are not frozen.

    Args:
        network: Whatever takes images ``(B, 3, H, W)``.
        after: Regular expression of the whole name of a layer, as ``named_modules()`` has it.
        mixer: Config of the mixer; it is given ``in_channels``.
        channel_axis: Of the outputs of the layers; default: 1 of ``(B, C, H, W)``, -1 of ``(B, N, C)``. Layers that
            return ``(B, H, W, C)``, as timm's Swin, need -1.
        example: Channels, height, width of the image with which it is asked once what the layers return.

    Returns:
        The network.

    Raises:
        ValueError: No layer has such a name, one is not called, returns no map and no tokens, has a mixer already,
            channels that the mixer cannot divide, or is a container with a ``forward()`` of its own. In each of these
            cases the network stays as it was.
    """
    names = [name for name, _ in network.named_modules() if name and re.fullmatch(after, name)]
    if not names:
        some = [name for name, _ in network.named_modules() if name.count('.') == 2][:5]
        raise ValueError(f'after={after!r} is the name of no layer of {type(network).__name__}; there are {some}, …')
    outputs = outputs_of(network, names, example)
    mixers = {}
    for name in names:
        layer = network.get_submodule(name)
        what = why_not(layer, outputs[name]) if name in outputs else 'is not called'
        if what:
            raise ValueError(f'layer {name} of {type(network).__name__} {what}: name another one in after={after!r}')
        axis = (1 if outputs[name].dim() == 4 else -1) if channel_axis is None else channel_axis
        try:
            mixers[layer] = Inserted(mixer, outputs[name].shape[axis], axis)
        except ValueError as error:
            raise ValueError(f'behind layer {name}: {error}') from error
    for layer, built in mixers.items():
        layer.spsa = built
        if not isinstance(layer, nn.Sequential):  # which runs all that it holds, the mixer in the end
            layer.register_forward_hook(mix_output)
    return network


@MODELS.register_module('SPSAInserter')
def build_inserted(backbone: dict, **options) -> nn.Module:
    """Build a network of any host and put SPSA into it: ``dict(type='SPSAInserter', backbone=dict(type=…), after=…)``.

    A function and no wrapper: what is built is the host's own network, with its weights, names and ``init_cfg``.

    Args:
        backbone: Config of the network.
        **options: Of `insert_spsa`.
    """
    return insert_spsa(MODELS.build(backbone), **options)
