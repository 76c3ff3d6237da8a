"""What mmengine's FSDP lacks: a norm of all gradients, and a way back into a run that was stopped."""

from __future__ import annotations

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.dist import all_gather
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm


class _NormOfAll:
    """Clip by the norm of all gradients; mmengine's wrappers take that of each process's own part.

    It wants the default ``sharding_strategy``: each gradient is in one process only.
    """

    def _clip_grad(self) -> None:
        if self.clip_func is not clip_grad_norm_:
            super()._clip_grad()  # by value, for which no process needs the others
            return
        owned = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        norm = clip_by_norm_of_all(owned, **self.clip_grad_kwargs)
        self.message_hub.update_scalar('train/grad_norm', float(norm))


def clip_by_norm_of_all(
    parameters: list[nn.Parameter],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Do what ``torch.nn.utils.clip_grad_norm_`` does, whose arguments these are, for the gradients of all processes.

    Args:
        parameters: Those with a gradient here; none in a process that owns nothing of what is trained.
        max_norm: Largest norm that is left alone.
        norm_type: The p of the norm, or ``inf``.
        error_if_nonfinite: Raise rather than clip by ``nan`` or ``inf``.
        foreach: Whether torch computes on lists of tensors; None: where it can.

    Returns:
        Tensor (): The norm before clipping.

    Raises:
        RuntimeError: The norm is not finite, and ``error_if_nonfinite``.
    """
    own = get_total_norm([p.grad for p in parameters], norm_type, foreach=foreach)
    norm = torch.linalg.vector_norm(torch.stack(all_gather(own)), float(norm_type))
    if error_if_nonfinite and not norm.isfinite():
        raise RuntimeError(f'the norm of the gradients is {norm.item()} (clip_grad has error_if_nonfinite)')
    clip_grads_with_norm_(parameters, max_norm, norm, foreach)
    return norm


class ShardedOptimWrapper(_NormOfAll, OptimWrapper):
    """mmengine's wrapper, with ``clip_grad=dict(max_norm=…, norm_type=…)`` of the whole model under FSDP."""


class ShardedAmpOptimWrapper(_NormOfAll, AmpOptimWrapper):
    """The same in mixed precision; ``use_fsdp=True`` makes the processes agree about the loss scale."""


class ShardedStrategy(FSDPStrategy):
    """mmengine's strategy, resumable with torch since 2.1 (which wants other arguments), the loss scale included."""

    def optim_state_dict(self) -> dict:
        """Return the state of optimizer and loss scale."""
        state = super().optim_state_dict()
        if hasattr(self.optim_wrapper, 'loss_scaler'):
            state['loss_scaler'] = self.optim_wrapper.loss_scaler.state_dict()
        return state

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Take up what :meth:`optim_state_dict` gave."""
        scale = {'loss_scaler': state_dict.pop('loss_scaler')} if 'loss_scaler' in state_dict else {}
        optimizer = self.optim_wrapper.optimizer
        state = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, state_dict)
        self.optim_wrapper.load_state_dict({**state, **scale})
