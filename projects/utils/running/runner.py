"""Runners whose work outlives a kill, a full disk and the end of a job's time."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import torch.distributed as dist
from mmengine.config import ConfigDict
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import FlexibleRunner, Runner
from torch import nn
from torch.utils.data import DataLoader

from .resume import EpochLoop, ResumeHook
from .saving import SafeCheckpointHook, is_whole, newest_whole_checkpoint
from .sharded import ShardedStrategy
from .stop import StopHook, shielded


class _Surviving:
    """What both runners add to mmengine's.

    - A checkpoint is written beside, renamed, and only then is an old one deleted; what ``last_checkpoint`` names is
      whole.
    - ``resume`` takes the newest whole one, and goes on inside an epoch: batches, random numbers and validations are
      those of a run that never stopped. Random numbers of data loader *workers* are not kept: with
      ``num_workers > 0`` a picture may be augmented in another way than in the run that was not stopped.
    - SIGTERM and Ctrl-C save at the end of the iteration.
    - A disk that is full ends the run in one sentence.

    ``tools/train.py`` uses them for every config that has no ``runner_type`` of its own. The hosts' tools, and so
    ``mim train``, use mmengine's, for which nothing of this holds, unless the config says
    ``runner_type = 'mmplugins.utils.running.runner.SurvivingRunner'``.
    """

    def register_hook(self, hook: Hook | dict, priority: str | int | None = None) -> None:
        """Take our checkpoint hook where the config says mmengine's."""
        if isinstance(hook, dict) and str(hook.get('type')).rpartition('.')[2] == 'CheckpointHook':
            hook = {**hook, 'type': SafeCheckpointHook}
        super().register_hook(hook, priority)

    def register_hooks(self, *args, **kwargs) -> None:
        """Add ours to those of the config."""
        super().register_hooks(*args, **kwargs)
        self.stop_hook = StopHook()
        self.register_hook(ResumeHook())
        self.register_hook(self.stop_hook)

    def build_train_loop(self, loop: dict) -> object:
        """Take our loop over epochs where the config says mmengine's."""
        name = str(loop.get('type', 'EpochBasedTrainLoop' if loop.get('by_epoch') else ''))
        if name.rpartition('.')[2] == 'EpochBasedTrainLoop':
            loop = ConfigDict({key: value for key, value in loop.items() if key != 'by_epoch'}, type=EpochLoop)
        return super().build_train_loop(loop)

    def load_or_resume(self) -> None:
        """Find out what to resume from, unless the config or the user names it."""
        if self._resume is True and not self._has_loaded:
            if self._load_from is None:
                resume_newest(self)
            elif Path(self._load_from).exists() and not is_whole(Path(self._load_from)):
                raise SystemExit(f'{self._load_from} is not whole: its writer was stopped. --resume finds one that is.')
        super().load_or_resume()

    def train(self) -> nn.Module:
        """Train; an error of the disk that the user can put right is one sentence."""
        try:
            return super().train()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise
            where = error.filename or self.work_dir
            raise SystemExit(
                f'{error.strerror}: {where}. The run stopped after iteration {self.iter}; '
                'make room and continue with --resume from the last checkpoint, which is whole.'
            ) from None
        finally:
            self.stop_hook.release()

    def save_checkpoint(
        self, out_dir: str, filename: str, file_client_args: dict | None = None, *, backend_args=None, **kwargs
    ) -> None:
        """Write beside ``filename``, rename when all is on the disk."""
        options = dict(file_client_args=file_client_args, backend_args=backend_args, **kwargs)
        # An object store shows an upload when it is whole.
        if file_client_args or backend_args or '://' in str(out_dir):
            super().save_checkpoint(out_dir, filename, **options)
            return
        temporary = Path(out_dir, f'.{filename}')
        try:
            super().save_checkpoint(out_dir, temporary.name, **options)
            if temporary.is_dir():  # of sharded weights each rank writes its part
                dist.barrier()
            if is_main_process():
                _put_in_place(temporary, Path(out_dir, filename))
        finally:
            if temporary.is_file() and is_main_process():  # the writer failed
                temporary.unlink()


def resume_newest(runner: Runner | FlexibleRunner) -> None:
    """Make a runner go on from the newest whole checkpoint of its work dir; the main process decides for all.

    Where there is none, it starts as its config says: from ``load_from``, or from its beginning.
    """
    found = [newest_whole_checkpoint(runner.work_dir, runner.logger) if is_main_process() else None]
    broadcast_object_list(found)
    if found[0]:
        runner._resume, runner._load_from = True, found[0]
    elif runner._load_from is None:
        runner._resume = False  # mmengine would take one that is not whole


def _put_in_place(temporary: Path, path: Path) -> None:
    """Rename a file or folder that is on the disk in full."""
    for part in temporary.iterdir() if temporary.is_dir() else [temporary]:
        with part.open('rb') as file:
            os.fsync(file.fileno())  # network file systems report a full disk only now
    if path.is_dir():
        shutil.rmtree(path)  # a folder cannot be renamed over another
    os.replace(temporary, path)


class SurvivingRunner(_Surviving, Runner):
    """mmengine's runner, with what :class:`_Surviving` adds."""

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """Build a loader whose workers leave signals to the run."""
        return _shield(Runner.build_dataloader(dataloader, *args, **kwargs))


class SurvivingFlexibleRunner(_Surviving, FlexibleRunner):
    """mmengine's runner of a config with a ``strategy``, with what :class:`_Surviving` adds."""

    def build_strategy(self, strategy: dict, **kwargs) -> object:
        """Take our strategy where the config says mmengine's FSDP, which cannot be resumed."""
        if isinstance(strategy, dict) and strategy['type'] == 'FSDPStrategy':
            strategy = {**strategy, 'type': ShardedStrategy}
        return super().build_strategy(strategy, **kwargs)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """Build a loader whose workers leave signals to the run."""
        return _shield(FlexibleRunner.build_dataloader(dataloader, *args, **kwargs))


def _shield(loader: DataLoader) -> DataLoader:
    loader.worker_init_fn = shielded(loader.worker_init_fn)
    return loader
