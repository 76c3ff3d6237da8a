"""A resumed run goes on as if it had never stopped: the same batches, random numbers and validations."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sized
from itertools import islice

import torch
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader

from .random_state import set_random_state


class EpochLoop(EpochBasedTrainLoop):
    """mmengine's loop over epochs, which can also be resumed inside an epoch.

    mmengine starts the epoch anew: batches that were trained on come a second time. Here the sampler gives their
    indices again, and they are dropped without being loaded.
    """

    def run_epoch(self) -> None:
        """Train on one epoch, or on what is left of it."""
        hub = self.runner.message_hub
        length = self._max_iters // self._max_epochs  # len() of some batch samplers draws a whole epoch
        done = self._batches_done(length)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(_from_batch(self.dataloader, done), done):
            # Before the hooks of the iteration, one of which may save it.
            hub.update_info('batches_done', [index + 1, length])
            self.run_iter(index, batch)
        hub.update_info('batches_done', [0, length])
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches_done(self, length: int) -> int:
        """Return how many batches of the epoch a resumed run had behind it; 0 in a fresh epoch."""
        done, old_length = self.runner.message_hub.get_info('batches_done', (0, length))
        if done and old_length != length:
            self.runner.logger.warning(
                f'The epoch had {old_length} batches and has {length} now (number of processes, batch size or data set '
                f'changed): it starts anew; {done} batches of it were done.'
            )
            return 0
        return done


def _from_batch(loader: DataLoader, start: int) -> DataLoader:
    """Return a loader of the batches of ``loader`` from number ``start`` on; the earlier ones are not loaded."""
    if not start:
        return loader
    rest = copy.copy(loader)
    # DataLoader refuses an assignment, because its workers would not notice; there are none yet.
    vars(rest)['batch_sampler'] = _From(loader.batch_sampler, start)
    rest.generator = torch.Generator()  # a new iterator draws a number, which the run that did not stop did not draw
    return rest


class _From:
    """A batch sampler without its first batches."""

    def __init__(self, batches: Sized, start: int) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[list[int]]:
        return islice(self.batches, self.start, None)

    def __len__(self) -> int:
        return len(self.batches) - self.start


class ResumeHook(Hook):
    """Take up the random numbers of each rank, and run a validation that was due and is not recorded in the checkpoint.

    It may have been done: mmengine saves before it validates, and after it only a better best checkpoint.
    """

    priority = 'LOWEST'

    def before_train(self, runner: object) -> None:
        """Do nothing in a fresh run."""
        info, loop = runner.message_hub.runtime_info, runner.train_loop
        if not loop.iter:
            return
        states = info.get('random_states', [])
        if len(states) == runner.world_size:
            set_random_state(states[runner.rank])
        if not isinstance(loop, EpochBasedTrainLoop):
            loop.dataloader.generator = torch.Generator()  # as in _from_batch; there is one iterator for all epochs
        if runner.val_loop is not None and info.get('iter_of_validation') != loop.iter and _is_validation_due(loop):
            runner.val_loop.run()


def _is_validation_due(loop: object) -> bool:
    """Whether mmengine's loop validates at this place."""
    if isinstance(loop, EpochBasedTrainLoop):
        now, end = loop.epoch, loop.max_epochs
        if loop.runner.message_hub.get_info('batches_done', (0, 0))[0]:
            return False
    else:
        now, end = loop.iter, loop.max_iters
    return now >= loop.val_begin and (now % loop.val_interval == 0 or now == end)
