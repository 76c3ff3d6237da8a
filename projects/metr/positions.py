"""Positions of queries from their boxes, as in the paper's base detector.

DINO (arXiv 2203.03605; IDEA's code and mmdet 3.3) encodes each of a box's four numbers by ``D / 2`` sines and cosines
and so has a layer of ``2 D`` inputs. onedl-mmdetection encodes them by ``D`` and has ``4 D`` inputs, in which mmdet's
are contained: every second frequency. METR has the paper's on both, so that weights go from one to the other.

Shapes: ``B`` images, ``M`` queries, ``D`` channels, ``C`` channels of an encoding.
"""

from mmdet.models.layers import MLP
from torch import Tensor


class RefPointHead(MLP):
    """Two layers from ``2 D`` channels of a box's encoding to ``D``.

    Args:
        embed_dims: ``D``.

    Raises:
        ValueError: In use, if the host's encoding does not contain the paper's; or when weights of another width are
            loaded.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__(2 * embed_dims, embed_dims, embed_dims, 2)
        self.channels = 2 * embed_dims

    def forward(self, encoding: Tensor) -> Tensor:
        """``encoding (B, M, C)``, as the host's decoder makes it, to ``(B, M, D)``."""
        return super().forward(thin(encoding, self.channels))

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        saved = state_dict.get(f'{prefix}layers.0.weight')
        if saved is not None and saved.size(1) != self.channels:
            raise ValueError(
                f"{prefix}layers.0.weight of the checkpoint has {saved.size(1)} inputs, the paper's DINO "
                f"{self.channels}: it is of onedl-mmdetection's DINO, or of an older METR on it. "
                '`python -m mmplugins.metr from-dino` makes of it what METR can start from.'
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def thin(encoding: Tensor, channels: int) -> Tensor:
    """Return the lower frequency of each group of neighbors, ``(..., C)`` to ``(..., channels)``.

    Four numbers, each with pairs of sine and cosine whose frequencies fall evenly on a logarithmic scale.
    """
    step, rest = divmod(encoding.size(-1), channels)
    if rest or not step:
        raise ValueError(f'an encoding of {encoding.size(-1)} channels does not contain one of {channels}')
    return encoding.unflatten(-1, (4, -1, step, 2))[..., 0, :].flatten(-3)


def widen(weight: Tensor, channels: int) -> Tensor:
    """Return a first layer ``(D, channels)`` that does on a finer encoding what ``weight (D, C)`` does on its own."""
    step = channels // weight.size(1)
    wide = weight.new_zeros(len(weight), 4, weight.size(1) // 8, step, 2)
    wide[..., 0, :] = weight.unflatten(1, (4, -1, 2))
    return wide.flatten(1)


def matched(weight: Tensor, channels: int) -> Tensor:
    """Return a first layer ``(D, channels)``: widened without loss, or thinned, which drops frequencies."""
    return widen(weight, channels) if weight.size(1) <= channels else thin(weight, channels)
