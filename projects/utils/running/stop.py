"""SIGTERM, which Slurm sends before it takes a node away, and Ctrl-C: save, say so, leave."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from functools import partial
from types import FrameType

import torch
import torch.distributed as dist
from mmengine.dist import is_distributed
from mmengine.hooks import Hook

from .saving import SafeCheckpointHook


class StopHook(Hook):
    """Save at the end of the iteration in which a signal arrives, and exit with 128 + its number: 143 for SIGTERM.

    torchrun hands the signal on, gives its processes 30 seconds, and exits with 1 itself; srun exits with 143.
    All ranks stop after the same iteration, whichever were told. With gradient accumulation it is the next one that
    updates the weights. A signal during a validation is acted on after the next iteration; mmengine's checkpoint hook
    saves before it validates. A second Ctrl-C ends a run of one process at once.
    """

    priority = 'LOWEST'  # after the hooks that change what is saved: schedulers, averages of weights

    def __init__(self) -> None:
        self.received = 0
        self.previous = {}
        self.group = None

    def before_train(self, runner: object) -> None:
        """Listen from here on; until now there is nothing to save."""
        if is_distributed():
            # On the CPU: to ask the others must not wait for a GPU.
            self.group = dist.new_group(backend='gloo')
        if threading.current_thread() is threading.main_thread():  # Python's rule for signals
            self.previous = {number: signal.signal(number, self._note) for number in SIGNALS}
            _LISTENING.add(self)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT and not is_distributed():  # torchrun hands a Ctrl-C on, so ranks get it twice
            signal.signal(number, self.previous[number])

    def after_train_iter(self, runner: object, *args, **kwargs) -> None:
        """Leave if any rank was told to."""
        number = self._any_received()
        wrappers = getattr(runner.optim_wrapper, 'optim_wrappers', {'': runner.optim_wrapper}).values()
        if number and all(wrapper.should_update() for wrapper in wrappers):
            self.release()
            saved = self._save(runner)
            runner.logger.warning(f'{signal.Signals(number).name} after iteration {runner.iter + 1}: {saved}')
            raise SystemExit(128 + number)

    def _any_received(self) -> int:
        """Return the signal that this or another rank received, or 0."""
        if self.group is None:
            return self.received
        flag = torch.tensor(self.received)
        dist.all_reduce(flag, dist.ReduceOp.MAX, self.group)
        return int(flag)

    def _save(self, runner: object) -> str:
        hooks = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
        if not hooks:
            return 'nothing is saved, because the config has no checkpoint hook.'
        path = hooks[0].save_now(runner)
        if self.group is not None:
            dist.barrier(self.group)  # torchrun and srun kill all when the first has left, and one is still writing
        return f'saved {path}. Continue with --resume.'

    def after_train(self, runner: object) -> None:
        """Stop listening."""
        self.release()

    def release(self) -> None:
        """Give the signals back to whoever handled them."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}
        _LISTENING.discard(self)


# A fork inherits handlers. A process that only notes SIGTERM cannot be ended by it, and ``Pool.terminate``, which
# mmdet's ``eval_map`` reaches when it forgets its pool, waits for it for ever. So the signals are blocked from before a
# fork until the child handles them as the run did before it trained: none that comes in between is lost.
SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LISTENING: set[StopHook] = set()
_MASK = threading.local()


def _before_fork() -> None:
    _MASK.before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _MASK.before)


def _after_fork_in_child() -> None:
    for hook in list(_LISTENING):
        hook.release()
    _after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def shielded(init: Callable[[int], None] | None) -> Callable[[int], None]:
    """Make a ``worker_init_fn`` of a data loader that also keeps the worker from signals that are meant for the run.

    Slurm and a terminal send them to the process group. A worker that dies of one takes the iteration with it.
    """
    return partial(_init_shielded, init)


def _init_shielded(init: Callable[[int], None] | None, worker: int) -> None:
    os.setpgid(0, 0)  # the run still ends it, by its process id
    if init is not None:
        init(worker)
