"""What our backbones of several stages share: which outputs they return, and what of them is frozen.

The hosts write this anew in each backbone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class Stages:
    """Options of a backbone of several stages, under the names that the hosts give them.

    To be inherited before the host's base class; the end of the constructor calls ``_freeze_stages()``.

    Attributes:
        num_stages: Number of stages.
        out_indices: Stages whose outputs are returned, in this order, all from 0 on.
        frozen_stages: How many stages are frozen; 0: only what is before them; -1: nothing.
        norm_eval: Whether batch norms stay in eval mode while training.
        feature_info: Of each output, as timm says it: ``num_chs``, ``reduction`` (the stride), ``module`` (the stage).
    """

    def _set_stages(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: int | Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
    ) -> None:
        """Check the options and keep them.

        Args:
            channels: Of the outputs of all stages.
            strides: Of the outputs of all stages.
            out_indices: One stage or several; -1 is the last.
            frozen_stages: See the class.
            norm_eval: See the class.

        Raises:
            ValueError: A stage that is not there.
        """
        count = len(channels)
        indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        if not all(-count <= index < count for index in indices):
            raise ValueError(f'out_indices={out_indices}: there are {count} stages')
        if not -1 <= frozen_stages <= count:
            raise ValueError(f'frozen_stages={frozen_stages} is not in -1 … {count}')
        self.num_stages = count
        self.out_indices = tuple(index % count for index in indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.feature_info = [
            dict(num_chs=channels[index], reduction=strides[index], module=f'stages.{index}')
            for index in self.out_indices
        ]

    def _first_stages(self, count: int) -> Iterable[nn.Module]:
        """Return the modules of the first ``count`` stages and of what is before them; of 0 only the latter."""
        raise NotImplementedError

    def _freeze_stages(self) -> None:
        """Stop gradients of the first stages, and put them in eval mode."""
        if self.frozen_stages < 0:
            return
        for module in self._first_stages(self.frozen_stages):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> nn.Module:
        """Set the mode; frozen stages, and with ``norm_eval`` all batch norms, stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
