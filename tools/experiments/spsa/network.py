"""One small network in two layouts, and in steps from one to the other, with different mixers."""

from collections.abc import Callable

from torch import Tensor, nn

import experiments.spsa.mixers  # noqa: F401  registers them
from mmplugins.spsa import SPSANet
from mmplugins.spsa.blocks import TwoResidualsBlock

# Heads of 8 channels. Depth-wise convolutions and 1x1 convolutions are the same in every arm of a layout.
ARCH = dict(dims=(24, 48, 96), depths=(1, 1, 1))
NONE, GATE, AGG, SIMAM, SGE, MHSA = 'no mixer', 'SPSA gate', 'SPSA agg', 'SimAM', 'SGE', 'MHSA'
MIXERS = {
    NONE: None,
    GATE: dict(type='SPSA', head_dim=8),
    SIMAM: dict(type='SPSASimAM'),
    SGE: dict(type='SPSASGE', head_dim=8),
    AGG: dict(type='SPSA', head_dim=8, mode='agg'),
    MHSA: dict(type='SPSAMHSA', head_dim=8),
}
MIX_TOKENS = (AGG, MHSA)
ONE, TWO = 'one residual', 'two residuals'


class NormBeforeBlock(TwoResidualsBlock):
    """``x + ffn(mixer(dwconv(norm1(x))))`` of maps ``(B, C, H, W)``: two residuals become one, all else stays."""

    def build(self, *args) -> None:
        """Make the layers of two residuals, and take out those of the second."""
        super().build(*args)
        del self.norm2, self.pwconv

    def compute(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape."""
        return x + self.ffn(self.mixer(self.dwconv(self.norm1(x))))


def use_relu(net: SPSANet) -> None:
    """Take ReLU for GELU everywhere."""
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.GELU):
                setattr(module, name, nn.ReLU())


def use_large_stem(net: SPSANet) -> None:
    """Take the other layout's stem, one convolution of 7x7."""
    net.stem = SPSANet(ARCH, mixer=None).stem


def drop_bias(net: SPSANet) -> None:
    """Take the bias from the depth-wise convolutions."""
    for block in net.modules():
        if isinstance(block, TwoResidualsBlock):
            block.dwconv.bias = None


def join_residuals(net: SPSANet) -> None:
    """Take one residual a block, with the norm before the depth-wise convolution."""
    for stage in net.stages:
        old = stage[-1]
        new = NormBeforeBlock(old.dwconv.in_channels, None, 3, dict(type='BN'))
        new.mixer = old.mixer
        stage[-1] = new


# From the layout of two residuals, one part of the other layout each.
STEPS: dict[str, Callable[[SPSANet], None]] = {
    f'{TWO}, ReLU': use_relu,
    f'{TWO}, stem of 7x7': use_large_stem,
    f'{TWO}, no bias': drop_bias,
    f'{ONE}, norm before': join_residuals,
}
LAYOUTS = (ONE, TWO, *STEPS)


def arm_of(layout: str, mixer: str) -> str:
    """Name of an arm."""
    return f'{layout}: {mixer}'


# What decides first: with and without the gate in each layout; then the other mixers in the two that ship.
ARMS = {arm_of(layout, mixer): (layout, mixer) for mixer in (NONE, GATE) for layout in LAYOUTS}
ARMS.update({arm_of(layout, mixer): (layout, mixer) for mixer in MIXERS for layout in (ONE, TWO)})


class Classifier(nn.Module):
    """Logits ``(n, classes)`` of images ``(n, 3, H, W)``.

    What mixes tokens has the tokens added in the layout of one residual, where the rest of the block would see the
    mixture alone; in that of two the block adds them.

    Args:
        arm: A key of `ARMS`.
        classes: Number of classes.
    """

    def __init__(self, arm: str, classes: int) -> None:
        super().__init__()
        layout, name = ARMS[arm]
        mixer = MIXERS[name]
        if layout == ONE and name in MIX_TOKENS:
            mixer = dict(type='SPSASkipMixer', mixer=mixer)
        self.backbone = SPSANet(dict(ARCH, residuals=1 if layout == ONE else 2), mixer=mixer)
        if layout in STEPS:
            STEPS[layout](self.backbone)
        self.head = nn.Linear(ARCH['dims'][-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Average the last map and classify it."""
        return self.head(self.backbone(x)[-1].mean((2, 3)))
