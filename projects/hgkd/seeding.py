"""Random numbers that depend on the epoch alone, so that a run that was cut off can be continued exactly.

Not in the paper (arXiv 2309.09571). A student's loss depends on which cells are hidden, and mmengine's checkpoints hold
no random states: a resumed run draws other masks and crops than one that was not interrupted.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmpretrain.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seeds Python, numpy and torch at the start of each epoch from the run's seed, the epoch and the rank.

    With a checkpoint for each epoch, a run resumed on the same number of processes has then the losses of an
    uninterrupted one. For epoch-based loops; workers of a data loader must not be persistent, for they keep their own
    generators.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed."""
        # Distinct for each (seed, epoch, rank), and far apart for neighbors.
        seed = int(np.random.SeedSequence([runner.seed, runner.epoch, runner.rank]).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)  # all devices
