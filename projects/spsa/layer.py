"""The layer: `mmplugins.spsa.functional` as a module that host codebases build from a config."""

from mmengine.registry import MODELS
from torch import Tensor, nn

from .functional import ACTS, KEYS, spsa_agg, spsa_gate

MODES = ('gate', 'agg')
DEFAULT_HEAD_DIM = 16  # ours; the paper's is not known


def resolve_heads(in_channels: int, num_heads: int | None = None, head_dim: int | None = None, least: int = 1) -> int:
    """Return the number of heads, from it or from the channels of a head (16 if neither is given).

    Args:
        in_channels: ``C``.
        num_heads: ``h``.
        head_dim: ``d``; give one of the two at most.
        least: Smallest ``d`` that makes sense.

    Raises:
        ValueError: Both are given, the channels cannot be divided so, or a head would be too small.
    """
    if num_heads is not None and head_dim is not None:
        raise ValueError(f'give num_heads or head_dim, not both (num_heads={num_heads}, head_dim={head_dim})')
    name, value = ('num_heads', num_heads)
    if num_heads is None:
        name, value = 'head_dim', DEFAULT_HEAD_DIM if head_dim is None else head_dim
    if value < 1 or in_channels % value:
        divisors = [n for n in range(1, in_channels + 1) if in_channels % n == 0]
        raise ValueError(f'{name}={value} does not divide in_channels={in_channels}; possible: {divisors}')
    heads = value if num_heads is not None else in_channels // value
    if in_channels // heads < least:
        raise ValueError(
            f'in_channels={in_channels} with {name}={value} gives heads of {in_channels // heads} channel(s); '
            f'at least {least} are needed: with one, centering over the channels of a head leaves nothing'
        )
    return heads


def build_mixer(mixer: dict | None, in_channels: int) -> nn.Module:
    """Build a mixer from its config, for ``in_channels`` channels; of None, a layer that changes nothing."""
    return nn.Identity() if mixer is None else MODELS.build(dict(mixer, in_channels=in_channels))


@MODELS.register_module()
class SPSA(nn.Module):
    """Simple parameter-free self-attention approximation, a layer without parameters and buffers.

    Checkpoints of a network load strictly with and without it. It is registered in mmengine's root registry, so every
    host finds it, also as an mmdet plugin: ``dict(cfg=dict(type='SPSA'), position='after_conv2')``.

    Note:
        Not in what could be seen of the paper: the formula (see `mmplugins.spsa.functional`), the default activation,
        the head size. The mode ``agg`` is ours.

    Args:
        in_channels: ``C``.
        num_heads: Number of heads; default: from ``head_dim``.
        head_dim: Channels of a head, 2 or more; default 16 if ``num_heads`` is not given either.
        mode: ``gate``: scale every token by its correlation with the mean token. ``agg``: mix tokens with the kernel
            ``1 + correlation``, close to softmax attention with Q = K.
        act: Of ``gate``: ``one_plus``, ``sigmoid``, ``raw`` or ``softmax``.
        key: Of ``gate``: ``gap`` or ``mean_normed``.
        eps: Added to squared norms; positive.

    Raises:
        ValueError: Channels do not divide, heads of one channel, or an option that is unknown or not of the mode.
    """

    _abbr_ = 'spsa'  # mmcv's name of the module when it is a plugin

    def __init__(
        self,
        in_channels: int,
        num_heads: int | None = None,
        head_dim: int | None = None,
        mode: str = 'gate',
        act: str = 'one_plus',
        key: str = 'gap',
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        for name, value, known in (('mode', mode, MODES), ('act', act, ACTS), ('key', key, KEYS)):
            if value not in known:
                raise ValueError(f'{name}={value!r} is not one of {", ".join(known)}')
        if mode == 'agg' and (act, key) != ('one_plus', 'gap'):
            raise ValueError(f"act={act!r} and key={key!r} are options of mode='gate'; 'agg' has neither")
        if not eps > 0:
            raise ValueError(f'eps={eps} must be positive: tokens with equal channels have norm 0')
        self.num_heads = resolve_heads(in_channels, num_heads, head_dim, least=2)
        self.in_channels = in_channels
        self.mode = mode
        self.act = act
        self.key = key
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to the same shape; ``(B, C, N)`` and more axes work too."""
        if x.shape[1] != self.in_channels:
            raise ValueError(f'SPSA was built for {self.in_channels} channels, got an input {tuple(x.shape)}')
        if self.mode == 'agg':
            return spsa_agg(x, self.num_heads, self.eps)
        return spsa_gate(x, self.num_heads, self.act, self.key, self.eps)

    def extra_repr(self) -> str:
        """Show the options in ``print(model)``."""
        options = f'{self.in_channels}, num_heads={self.num_heads}, mode={self.mode!r}'
        return options if self.mode == 'agg' else f'{options}, act={self.act!r}, key={self.key!r}'
