"""What mmengine's FSDP lacks: a norm of all gradients, and a way back into a run that was stopped."""

from __future__ import annotations

import torch
from mmengine._strategy import FSDPStrategy
from mmengine.dist import all_reduce
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch.distributed.fsdp import FullyShardedDataParallel


class _NormOfAll:
    """Clip by the norm of all gradients; mmengine's wrappers take that of each process's own part.

    It wants the default ``sharding_strategy``: each gradient is in one process only.
    """

    def _clip_grad(self) -> None:
        owned = [p for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        # 0 in a process that owns nothing of what is trained.
        norm = torch.nn.utils.get_total_norm([p.grad for p in owned]).square()
        all_reduce(norm)
        norm = norm.sqrt()
        torch.nn.utils.clip_grads_with_norm_(owned, total_norm=norm, **self.clip_grad_kwargs)
        self.message_hub.update_scalar('train/grad_norm', float(norm))


class ShardedOptimWrapper(_NormOfAll, OptimWrapper):
    """mmengine's wrapper, with ``clip_grad=dict(max_norm=…)`` of the whole model under FSDP."""


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
