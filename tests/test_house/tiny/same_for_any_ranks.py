"""A hook that leaves no difference between one process and several but what the code makes."""

import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def seed_all(number: int) -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(number)


@HOOKS.register_module()
class SameForAnyRanks(Hook):
    """Give a sample the same random numbers in whichever process it is; batch norms see no batch, nothing is dropped.

    mmengine's samplers deal the samples out in turn: process ``r`` of ``n`` has those of one process from ``r`` on, in
    steps of ``n``.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        dataset = runner.train_dataloader.dataset
        host = type(dataset)

        def get_seeded(self, index):
            seed_all(index)
            return host.__getitem__(self, index)

        dataset.__class__ = type(host.__name__, (host,), {'__getitem__': get_seeded})
        for name in ('rand', 'randn', 'rand_like', 'randn_like', 'randint'):
            setattr(torch, name, self.seeded_by_sample(getattr(torch, name), runner))

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        for module in runner.model.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
            elif isinstance(module, nn.Dropout):
                module.p = 0.0
            elif hasattr(module, 'drop_prob'):
                module.drop_prob = 0.0

    @staticmethod
    def seeded_by_sample(draw, runner):
        """Draw each row of a tensor ``(samples, ...)`` for itself."""

        def draw_rows(*args, **kwargs):
            batch = draw(*args, **kwargs)
            for row, values in enumerate(batch.view(len(batch), -1)):
                sample = runner.rank + row * runner.world_size
                generator = torch.Generator().manual_seed(10_000 * runner.iter + sample)
                if draw.__name__.startswith('randn'):
                    values.normal_(generator=generator)
                elif draw.__name__ == 'randint':
                    values.random_(0, args[0], generator=generator)
                else:
                    values.uniform_(generator=generator)
            return batch

        return draw_rows
