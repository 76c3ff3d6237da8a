"""The weight of the distillation over the training. Not in the paper (arXiv 2309.09571)."""

from __future__ import annotations

import math

from mmengine.runner import IterBasedTrainLoop, Runner

SCHEDULES = ('constant', 'linear', 'cosine')


class WeightSchedule:
    """The weight of the distillation loss as a function of time alone, so that a resumed run continues it exactly.

    Args:
        type: ``'constant'`` (``start`` always), ``'linear'`` or ``'cosine'`` from ``start`` to ``end``.
        start: Weight up to ``begin``.
        end: Weight from ``end_at`` on.
        begin: Epoch or iteration at which it starts to change.
        end_at: Epoch or iteration at which ``end`` is reached; needed unless constant.
        by_epoch: Whether these two are epochs.

    Raises:
        ValueError: An unknown type, or an end that is not behind the beginning.
    """

    def __init__(
        self,
        type: str = 'constant',
        start: float = 1.0,
        end: float = 1.0,
        begin: int = 0,
        end_at: int | None = None,
        by_epoch: bool = True,
    ) -> None:
        if type not in SCHEDULES:
            raise ValueError(f'the type of the weight must be one of {SCHEDULES}, got {type!r}')
        if type != 'constant' and (end_at is None or end_at <= begin):
            raise ValueError(f'a {type} weight needs end_at > begin, got begin={begin}, end_at={end_at}')
        self.type = type
        self.start = start
        self.end = end
        self.begin = begin
        self.end_at = end_at
        self.by_epoch = by_epoch

    def __call__(self, epoch: int, iteration: int) -> float:
        """Return the weight in an epoch and iteration, both counted from 0."""
        if self.type == 'constant':
            return self.start
        now = epoch if self.by_epoch else iteration
        share = min(max((now - self.begin) / (self.end_at - self.begin), 0.0), 1.0)
        if self.type == 'cosine':
            share = (1 - math.cos(math.pi * share)) / 2
        return self.start + (self.end - self.start) * share


def epochs_done(runner: Runner) -> int:
    """Return how many epochs are behind a run; in an iteration-based loop, whose count stays 0, passes over the data.

    A custom sampler may see an image more or less often; a pass is as many images as the data set has.
    """
    if not isinstance(runner.train_loop, IterBasedTrainLoop):
        return runner.epoch
    loader = runner.train_dataloader
    # mmengine gives a batch sampler of the config to the loader, which then has no batch size of its own.
    size = loader.batch_size or loader.batch_sampler.batch_size
    size = sum(size) if isinstance(size, (list, tuple)) else size
    return runner.iter * size * runner.world_size // len(loader.dataset)
