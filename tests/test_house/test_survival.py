"""Runs that are killed, told to stop, or find the disk full: nothing is lost, and a resumed run ends as the others."""

import errno
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.runner import Runner, ValLoop
from torch.utils.data import SequentialSampler, TensorDataset

from mmplugins.utils.running import launch
from mmplugins.utils.running.saving import is_whole, newest_whole_checkpoint
from mmplugins.utils.running.stop import StopHook, shielded

TINY = Path(__file__).parent / 'tiny'
KILLS = 1  # of each kind of loop, at moments drawn from the number of the kill
BY_EPOCH = {}
INSIDE_EPOCHS = {'default_hooks.checkpoint': dict(type='CheckpointHook', by_epoch=False, interval=1, max_keep_ckpts=1)}
BY_ITERATION = {
    **INSIDE_EPOCHS,
    'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=24, val_interval=8),
    'train_dataloader.sampler': dict(type='InfiniteSampler', shuffle=True),
    'log_processor': dict(by_epoch=False),
    'param_scheduler': [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10)],
}
LOOPS = {'epochs': BY_EPOCH, 'inside epochs': INSIDE_EPOCHS, 'iterations': BY_ITERATION}
loops = pytest.mark.parametrize('changes', LOOPS.values(), ids=LOOPS.keys())


def train(work_dir: Path, changes: dict, resume: bool = False) -> None:
    args = launch.build_parser('').parse_args([str(TINY / 'tiny_random.py'), '--work-dir', str(work_dir)])
    cfg = launch.load_config(args)
    cfg.merge_from_dict(changes)
    cfg.resume = resume
    launch.build_runner(cfg).train()


def train_and_log(*args) -> None:
    sys.stdout = sys.stderr = args[0].with_suffix('.txt').open('a', buffering=1)
    train(*args)


@pytest.fixture
def start(monkeypatch):
    """Start ``train`` in a process of its own, which needs no second to import torch."""
    monkeypatch.syspath_prepend(TINY)

    def start(*args) -> multiprocessing.Process:
        process = multiprocessing.get_context('fork').Process(target=train_and_log, args=args)
        process.start()
        return process

    return start


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """Give the final checkpoint of a run that nobody disturbed."""
    done = {}

    def uninterrupted(start, changes: dict) -> dict:
        key = str(changes)
        if key not in done:
            work_dir = tmp_path_factory.mktemp('whole') / 'run'
            finish(start(work_dir, changes))
            done[key] = final(work_dir)
        return done[key]

    return uninterrupted


def finish(process: multiprocessing.Process) -> int:
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def wait_for(work_dir: Path, iterations: int, process: multiprocessing.Process) -> None:
    log = work_dir.with_suffix('.txt')
    while process.is_alive() and not (log.is_file() and log.read_text().count('(train)') >= iterations):
        time.sleep(0.002)


def final(work_dir: Path) -> dict:
    [path] = [path for path in work_dir.glob('*.pth') if path.stem in ('epoch_6', 'iter_24')]
    return torch.load(path, weights_only=False)  # our own file


def assert_same(found: dict, expected: dict) -> None:
    for key in ('state_dict', 'ema_state_dict', 'optimizer'):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    assert found['meta']['iter'] == expected['meta']['iter']


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(KILLS))
@loops
def test_killed_run_ends_as_the_other(start, uninterrupted, tmp_path, changes, seed):
    expected = uninterrupted(start, changes)
    work_dir = tmp_path / 'run'
    moment = random.Random(f'{changes} {seed}')
    iteration = moment.randrange(24)
    process = start(work_dir, changes)
    wait_for(work_dir, iteration, process)
    time.sleep(moment.uniform(0, 0.05))  # an iteration, with what it saves, takes about as long
    process.kill()
    process.join()
    named = work_dir / 'last_checkpoint'
    assert not named.is_file() or is_whole(Path(named.read_text()))
    assert finish(start(work_dir, changes, True)) == 0
    assert_same(final(work_dir), expected)
    assert len(list(work_dir.glob('*.pth'))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ('changes', 'number'),
    [
        (BY_EPOCH, signal.SIGTERM),
        (BY_EPOCH, signal.SIGINT),
        (BY_ITERATION, signal.SIGTERM),
        ({'optim_wrapper.accumulative_counts': 3}, signal.SIGTERM),  # saves when no gradient waits for the others
    ],
)
def test_signal_saves_and_leaves(start, uninterrupted, tmp_path, changes, number):
    expected = uninterrupted(start, changes)
    work_dir = tmp_path / 'run'
    process = start(work_dir, changes)
    wait_for(work_dir, 6, process)
    os.kill(process.pid, number)
    assert finish(process) == 128 + number
    sentence = (tmp_path / 'run.txt').read_text().splitlines()[-1]
    assert f'{signal.Signals(number).name} after iteration' in sentence and sentence.endswith('Continue with --resume.')
    assert finish(start(work_dir, changes, True)) == 0
    assert_same(final(work_dir), expected)
    assert len(list(work_dir.glob('*.pth'))) == 1


@pytest.mark.slow
def test_all_ranks_stop_after_the_same_iteration(start_ranks, tmp_path):
    changes = {'train_dataloader.batch_size': 2}
    whole = start_ranks(tmp_path / 'whole', changes)
    assert [finish(process) for process in whole] == [0, 0]
    stop_and_resume(start_ranks, tmp_path / 'run', changes)
    assert_same(final(tmp_path / 'run'), final(tmp_path / 'whole'))


@pytest.mark.slow
def test_sharded_checkpoint_is_a_whole_folder(start_ranks, tmp_path):
    changes = {'train_dataloader.batch_size': 2, 'strategy': dict(type='FSDPStrategy'), 'custom_hooks': []}
    stop_and_resume(start_ranks, tmp_path / 'run', changes)
    [folder] = (tmp_path / 'run').glob('*.pth')
    assert folder.name == 'epoch_6.pth' and is_whole(folder)
    assert sorted(file.name for file in folder.iterdir()) == ['rank0.pth', 'rank1.pth']


def stop_and_resume(start_ranks, work_dir: Path, changes: dict) -> None:
    stopped = start_ranks(work_dir, changes)
    wait_for(work_dir, 6, stopped[0])
    os.kill(stopped[1].pid, signal.SIGTERM)  # the rank that does not write
    assert [finish(process) for process in stopped] == [143, 143]
    assert [finish(process) for process in start_ranks(work_dir, changes, True)] == [0, 0]


@pytest.fixture
def start_ranks(start, monkeypatch):
    """Start two gloo ranks, as torchrun does."""

    def start_ranks(*args) -> list[multiprocessing.Process]:
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            environment = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free.getsockname()[1]), WORLD_SIZE='2')
        processes = []
        for rank in '01':
            for key, value in dict(environment, RANK=rank, LOCAL_RANK=rank).items():
                monkeypatch.setenv(key, value)
            processes.append(start(args[0], {**args[1], 'launcher': 'pytorch'}, *args[2:]))
        return processes

    return start_ranks


@pytest.mark.slow
def test_lost_validation_is_made_up_for(start, uninterrupted, tmp_path, monkeypatch):
    expected = uninterrupted(start, BY_EPOCH)
    with monkeypatch.context() as patch:
        patch.setattr(ValLoop, 'run', lambda self: os._exit(9))
        assert finish(start(tmp_path / 'run', BY_EPOCH)) == 9
    assert finish(start(tmp_path / 'run', BY_EPOCH, True)) == 0
    assert 'Epoch(val) [2]' in (tmp_path / 'run.txt').read_text()
    assert_same(final(tmp_path / 'run'), expected)


@pytest.mark.slow
def test_kill_inside_a_write_leaves_the_checkpoint_before(start, uninterrupted, tmp_path, monkeypatch):
    expected = uninterrupted(start, BY_EPOCH)
    put = LocalBackend.put

    def put_half(self, content: bytes, path: str) -> None:
        put(self, content[: len(content) // 2] if 'epoch_3' in path else content, path)
        if 'epoch_3' in path:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, 'put', put_half)
        assert finish(start(tmp_path / 'run', BY_EPOCH)) == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / 'run').glob('epoch*.pth')) == ['epoch_2.pth']
    assert finish(start(tmp_path / 'run', BY_EPOCH, True)) == 0
    assert_same(final(tmp_path / 'run'), expected)
    assert len(list((tmp_path / 'run').glob('*.pth'))) == 1


def test_half_written_checkpoint_is_skipped(tmp_path, caplog):
    for step in (1, 2):
        torch.save(dict(step=step), tmp_path / f'epoch_{step}.pth')
        os.utime(tmp_path / f'epoch_{step}.pth', (step, step))
    (tmp_path / 'epoch_3.pth').write_bytes((tmp_path / 'epoch_2.pth').read_bytes()[:-100])
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
    torch.save({}, tmp_path / 'best_error_epoch_3.pth')
    logger = logging.getLogger('survival')
    with caplog.at_level('INFO'):
        assert newest_whole_checkpoint(str(tmp_path), logger) == str(tmp_path / 'epoch_2.pth')
    # A run that was moved: the file has the folder of before.
    (tmp_path / 'run').mkdir()
    torch.save({}, tmp_path / 'run/iter_1.pth')
    (tmp_path / 'run/last_checkpoint').write_text(str(tmp_path / 'epoch_2.pth'))
    assert newest_whole_checkpoint(str(tmp_path / 'run'), logger) == str(tmp_path / 'run/iter_1.pth')
    assert 'epoch_3.pth is not whole' in caplog.text and 'epoch_2.pth, the newest whole' in caplog.text


@pytest.mark.parametrize('last', [1, 10], ids=['started anew', 'to its end'])
def test_copied_run_goes_on_from_the_checkpoint_that_was_the_last(tmp_path, last):
    copy = tmp_path / 'copy'
    copy.mkdir()
    (copy / 'last_checkpoint').write_text(str(tmp_path / f'run/epoch_{last}.pth'))  # the folder of before
    for second, step in enumerate((1, 10, 9)):
        torch.save({}, copy / f'epoch_{step}.pth')
        os.utime(copy / f'epoch_{step}.pth', (second, second))
    logger = logging.getLogger('survival')
    assert newest_whole_checkpoint(str(copy), logger) == str(copy / f'epoch_{last}.pth')
    (copy / f'epoch_{last}.pth').write_bytes(b'half')
    assert newest_whole_checkpoint(str(copy), logger) == str(copy / 'epoch_9.pth')


def test_checkpoint_in_an_object_store_is_found(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('s3://bucket/run/epoch_3.pth')
    assert newest_whole_checkpoint(str(tmp_path), logging.getLogger('survival')) == 's3://bucket/run/epoch_3.pth'


def test_config_can_name_the_runner(start, tmp_path):
    """As for the hosts' tools, which know nothing of ours."""
    changes = dict(runner_type='mmplugins.utils.running.runner.SurvivingRunner')
    process = start(tmp_path / 'run', changes)
    wait_for(tmp_path / 'run', 6, process)
    process.terminate()
    assert finish(process) == 143


def test_nothing_to_resume_starts_anew(start, tmp_path):
    assert finish(start(tmp_path / 'run', {}, True)) == 0
    assert 'the run starts from its beginning' in (tmp_path / 'run.txt').read_text()


@pytest.mark.slow
def test_full_disk_is_one_sentence_and_loses_nothing(start, uninterrupted, tmp_path, monkeypatch):
    expected = uninterrupted(start, BY_EPOCH)
    put = LocalBackend.put

    def put_until_full(self, content: bytes, path: str) -> None:
        if 'epoch_3' in path:
            Path(path).write_bytes(content[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        put(self, content, path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, 'put', put_until_full)
        assert finish(start(tmp_path / 'run', BY_EPOCH)) == 1
    log = (tmp_path / 'run.txt').read_text()
    assert 'No space left on device' in log.splitlines()[-1] and 'Traceback' not in log
    assert sorted(path.name for path in (tmp_path / 'run').glob('*.pth')) == ['epoch_2.pth']
    assert finish(start(tmp_path / 'run', BY_EPOCH, True)) == 0
    assert_same(final(tmp_path / 'run'), expected)


@pytest.mark.slow
def test_best_checkpoint_is_replaced_when_the_better_one_is_there(start, tmp_path, monkeypatch):
    remove = LocalBackend.remove

    def remove_when_replaced(self, path: str) -> None:
        kind = Path(path).name.split('_')[0]  # best or epoch
        assert len(list(Path(path).parent.glob(f'{kind}*.pth'))) == 2
        remove(self, path)

    monkeypatch.setattr(LocalBackend, 'remove', remove_when_replaced)
    best = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1, save_best='error', rule='less')
    assert finish(start(tmp_path / 'run', {'default_hooks.checkpoint': best})) == 0
    assert len(list((tmp_path / 'run').glob('best*.pth'))) == len(list((tmp_path / 'run').glob('epoch*.pth'))) == 1


@pytest.mark.slow
def test_epoch_of_another_length_starts_anew(start, tmp_path):
    process = start(tmp_path / 'run', INSIDE_EPOCHS)
    wait_for(tmp_path / 'run', 6, process)
    process.kill()
    process.join()
    assert finish(start(tmp_path / 'run', {**INSIDE_EPOCHS, 'train_dataloader.batch_size': 2}, True)) == 0
    assert 'The epoch had 4 batches and has 8 now' in (tmp_path / 'run.txt').read_text()


def test_signal_to_the_group_does_not_reach_workers(tmp_path):
    loader = Runner.build_dataloader(
        dict(dataset=TensorDataset(torch.arange(4)), batch_size=1, num_workers=1, sampler=SequentialSampler(range(4)))
    )
    loader.worker_init_fn = shielded(lambda worker: (tmp_path / 'group').write_text(str(os.getpgrp())))
    assert len(list(loader)) == 4
    assert int((tmp_path / 'group').read_text()) != os.getpgrp()


def test_forked_processes_die_of_the_signal_that_the_run_only_notes():
    # As ``Pool.terminate`` does while a validation counts; some are told before they have run at all.
    hook, context = StopHook(), multiprocessing.get_context('fork')
    gate = context.Semaphore(0)
    children = [context.Process(target=gate.acquire) for _ in range(20)]
    hook.before_train(None)
    try:
        for child in children:
            child.start()
            child.terminate()
        deadline = time.time() + 20
        while any(child.is_alive() for child in children) and time.time() < deadline:
            time.sleep(0.01)
        assert [child.exitcode for child in children] == [-signal.SIGTERM] * 20
        os.kill(os.getpid(), signal.SIGTERM)
        assert hook.received == signal.SIGTERM
    finally:
        for child in children:
            child.kill()
        hook.release()
