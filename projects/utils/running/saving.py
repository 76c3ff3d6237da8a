"""Checkpoints of a run that may be killed at any moment."""

from __future__ import annotations

import re
from collections import deque
from logging import Logger
from pathlib import Path
from zipfile import is_zipfile

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import find_latest_checkpoint

from ..atomic import write_text
from .random_state import random_state


def is_whole(path: Path) -> bool:
    """Whether ``torch.save`` came to its end: the index of the archive is the last that it writes."""
    if path.is_dir():  # a file for each rank
        parts = list(path.iterdir())
        return bool(parts) and all(is_zipfile(part) for part in parts)
    return is_zipfile(path)


def newest_whole_checkpoint(work_dir: str, logger: Logger) -> str | None:
    """Find what a run can be resumed from; a checkpoint that is not whole is named in the log and left alone.

    Args:
        work_dir: Folder of the run. Its ``last_checkpoint`` says where the checkpoints are, if they are elsewhere.
        logger: Of the run.

    Returns:
        Path of the one that ``last_checkpoint`` names, if it is whole; else of the last written of ``epoch_<n>.pth``
        and ``iter_<n>.pth``; or None.
    """
    last = find_latest_checkpoint(work_dir) or ''
    if '://' in last:  # an object store shows an upload when it is whole
        logger.info(f'Resume from {last}.')
        return last
    named = Path(last or Path(work_dir, 'none'))
    # The name has a folder in it: that of the config's `out_dir`, or one from which the run has moved.
    found = _numbered(Path(work_dir)) or _numbered(named.parent)
    if named.exists() and (not found or named.parent in {path.parent for path in found}):
        found.add(named)
    # A copy of the folder has other times. Not by number: a run that was started anew beside an old one has lower ones.
    for path in sorted(found, key=lambda path: (path.name == named.name, path.stat().st_mtime_ns), reverse=True):
        if is_whole(path):
            logger.info(f'Resume from {path}, the newest whole checkpoint.')
            return str(path)
        logger.warning(f'{path} is not whole: its writer was stopped. It is skipped.')
    logger.info(f'No whole checkpoint in {work_dir}: the run starts from its beginning.')
    return None


def _numbered(folder: Path) -> set[Path]:
    """Find ``epoch_<n>.pth`` and ``iter_<n>.pth``."""
    return {path for path in folder.glob('*.pth') if re.fullmatch(r'(epoch|iter)_\d+\.pth', path.name)}


class SafeCheckpointHook(CheckpointHook):
    """Delete an old checkpoint when the new one is there; keep what a resumed run needs to go on as if never stopped.

    mmengine's hook deletes first: a run with ``max_keep_ckpts=1`` that is killed while it writes has nothing left.
    """

    def save_now(self, runner: object) -> str:
        """Save at the end of an iteration, whatever the interval, on all ranks at once; return the path."""
        done = runner.iter + 1
        key = f'iter_{done}.pth' if self.by_epoch else done
        self._save_as(runner, key, dict(epoch=runner.epoch, iter=done), by_epoch=False)
        return self.last_ckpt

    def after_val_epoch(self, runner: object, metrics: dict) -> None:
        """Note that these weights are validated: a resumed run repeats a validation that was lost."""
        runner.message_hub.update_info('iter_of_validation', runner.iter)
        super().after_val_epoch(runner, metrics)

    def _save_checkpoint_with_step(self, runner: object, step: int, meta: dict) -> None:
        """Take the place of the host's method, which does the same in another order."""
        self._save_as(runner, step, meta, self.by_epoch)

    def _save_as(self, runner: object, key: int | str, meta: dict, by_epoch: bool) -> None:
        """Save, name the file in ``last_checkpoint``, delete what is outdated.

        Args:
            runner: The runner.
            key: Epoch or iteration, or name of a file, as ``keep_ckpt_ids`` of the host lists them.
            meta: Epoch and iteration to go on from.
            by_epoch: What mmengine's flexible runner derives these two from.
        """
        outdated = []
        if self.max_keep_ckpts > 0:
            kept = [*(other for other in self.keep_ckpt_ids if other != key), key]
            # With the outdated ones: should the run be killed before they are deleted, the host does it on resume.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
            outdated = kept[: -self.max_keep_ckpts]
            self.keep_ckpt_ids = deque(kept, self.max_keep_ckpts)
        self.last_ckpt = self._path(key)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.message_hub.update_info('random_states', all_gather_object(random_state()))
        runner.save_checkpoint(
            self.out_dir,
            Path(self.last_ckpt).name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_text(Path(runner.work_dir, 'last_checkpoint'), self.last_ckpt)
            for other in outdated:
                _delete(self.file_backend, self._path(other))

    def _path(self, key: int | str) -> str:
        name = key if isinstance(key, str) else self.filename_tmpl.format(key)
        return self.file_backend.join_path(self.out_dir, name)

    def _save_best_checkpoint(self, runner: object, metrics: dict) -> None:
        """Delete the best checkpoint so far when the better one is there; the host deletes it first."""
        backend = self.file_backend
        self.file_backend = _Postponed(backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
            best = {getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()}
            for path in self.file_backend.deleted - best:
                _delete(backend, path)
        finally:
            self.file_backend = backend


class _Postponed:
    """A file backend that only notes what it is told to delete."""

    def __init__(self, backend: object) -> None:
        self.backend = backend
        self.deleted = set()

    def __getattr__(self, name: str) -> object:
        return getattr(self.backend, name)

    def remove(self, path: str) -> None:
        self.deleted.add(path)

    rmtree = remove


def _delete(backend: object, path: str) -> None:
    """Delete a checkpoint: a file, or a folder with a file for each rank."""
    if backend.isfile(path):
        backend.remove(path)
    elif backend.isdir(path):
        backend.rmtree(path)
