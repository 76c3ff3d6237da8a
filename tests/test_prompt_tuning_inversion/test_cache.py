"""Inversions on the disk."""

import os
import sys
from pathlib import Path

import pytest
import torch

from mmplugins.prompt_tuning_inversion import EditDataSample, Inversion, InversionCache

SOURCES = ['a red three', 'a blue two']
TARGETS = ['a green three', 'a red two']


@pytest.fixture
def cache(tmp_path) -> InversionCache:
    return InversionCache(tmp_path / 'cache')


class Counting:
    """Count the inversions of an editor."""

    def __init__(self, editor, monkeypatch):
        self.images, invert = 0, editor.invert

        def counted(images, *args):
            self.images += len(images)
            return invert(images, *args)

        monkeypatch.setattr(editor, 'invert', counted)


def test_round_trip_gives_the_same_edit(cache, make_editor, images, monkeypatch):
    editor = make_editor()
    count = Counting(editor, monkeypatch)
    made, hits = cache.invert(editor, images, SOURCES)
    assert hits == [False, False]
    read, hits = cache.invert(editor, images, SOURCES)
    assert hits == [True, True]
    assert count.images == 2
    assert read.settings == made.settings
    assert all(torch.equal(value, read.tensors()[name]) for name, value in made.tensors().items())
    assert torch.equal(editor.edit(made, TARGETS, 0.6), editor.edit(read, TARGETS, 0.6))
    assert sorted(path.suffix for path in cache.folder.iterdir()) == ['.safetensors'] * 2


@pytest.mark.slow
def test_only_missing_images_are_inverted(cache, make_editor, images, monkeypatch):
    editor = make_editor()
    cache.invert(editor, images[:1], SOURCES[:1])
    count = Counting(editor, monkeypatch)
    both, hits = cache.invert(editor, images, SOURCES)
    assert (hits, count.images) == ([True, False], 1)
    torch.testing.assert_close(both.embeds, editor.invert(images, SOURCES).embeds, rtol=1e-4, atol=1e-4)


def test_a_run_that_was_killed_goes_on(make_editor, images, tmp_path, monkeypatch):
    def run(editor, number):
        samples = [EditDataSample(prompt=prompt) for prompt in TARGETS[:number]]
        return torch.stack([sample.edits for sample in editor(list(images[:number]), samples)])

    editor = make_editor(cache=dict(folder=str(tmp_path / 'kept')))
    run(editor, 1)
    count = Counting(editor, monkeypatch)
    edits = run(editor, 2)
    assert count.images == 1
    torch.testing.assert_close(edits, run(make_editor(), 2), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    'change',
    [dict(guidance=4.0), dict(num_steps=4), dict(inner_steps=3), dict(lr=2e-2), dict(lr_decay=False),
     dict(init='target'), dict(early_stop=1e-5), dict(tokens='content'), dict(teacher_forcing=True),
     dict(prediction_type='v_prediction'), dict(parts=dict(dtype='bf16')), dict(parts=dict(clip_skip=1)),
     dict(kind='DDIMInversionEditor')],
    ids=lambda change: '-'.join(map(str, change)) if 'parts' not in change else next(iter(change['parts'])),
)  # fmt: skip
def test_other_settings_are_another_file(cache, make_editor, images, change):
    keys = [cache.path_of(make_editor(**kwargs), images[0], 'a', None) for kwargs in ({}, change)]
    assert keys[0] != keys[1]


def test_other_pixels_and_prompts_are_another_file(cache, make_editor, images):
    editor = make_editor(init='target')
    changed = images[0].clone()
    changed[0, 0, 0] += 1e-3
    keys = {cache.path_of(editor, *item, None) for item in ((images[0], 'a'), (changed, 'a'), (images[0], 'b'))}
    assert len(keys) == 3
    assert len({cache.path_of(editor, image, 'a', None) for image in (images[0], images[0].transpose(1, 2))}) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ('kwargs', 'same'),
    [(dict(), True), (dict(init='text:a red one'), True), (dict(init='source'), True), (dict(init='target'), False),
     (dict(kind='NullTextInversionEditor'), True), (dict(tokens='content'), False),
     (dict(kind='SDEditEditor'), True)],
    ids=['null', 'text', 'source', 'target', 'null-text', 'content', 'sdedit'],
)  # fmt: skip
def test_inversions_that_do_not_depend_on_the_prompt_serve_all(cache, make_editor, images, kwargs, same, monkeypatch):
    editor = make_editor(**kwargs)
    cache.invert(editor, images[:1], TARGETS[:1], SOURCES[:1])
    count = Counting(editor, monkeypatch)
    _, (hit,) = cache.invert(editor, images[:1], TARGETS[1:], SOURCES[:1])
    assert (hit, count.images) == (same, 0 if same else 1)


@pytest.mark.slow
@pytest.mark.parametrize('damage', ['cut', 'flipped', 'text', 'empty', 'other tensors'])
def test_broken_files_are_made_again_with_a_warning(cache, make_editor, images, damage, caplog):
    import logging

    from mmengine.logging import MMLogger
    from safetensors.torch import save_file

    editor = make_editor()
    first, _ = cache.invert(editor, images[:1], SOURCES[:1])
    path = cache.path_of(editor, images[0], SOURCES[0], None)
    content = bytearray(path.read_bytes())
    if damage == 'other tensors':
        save_file({'a': torch.zeros(2)}, path)
    else:
        flipped = content.copy()
        flipped[-5] ^= 0xFF
        path.write_bytes({'cut': content[:-9], 'flipped': flipped, 'text': b'hello', 'empty': b''}[damage])
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        again, hits = cache.invert(editor, images[:1], SOURCES[:1])
    logger.removeHandler(caplog.handler)
    assert hits == [False]
    assert 'cannot be used' in caplog.text and path.name in caplog.text
    assert torch.equal(again.embeds, first.embeds)
    assert cache.read(path) is not None


def test_an_interrupted_inversion_leaves_nothing(cache, make_editor, images):
    def interrupt(stage, done, total, loss):
        if (stage, done) == ('tune', 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.invert(make_editor(), images, SOURCES, progress=interrupt)
    assert not cache.folder.exists()


def test_an_interrupted_write_leaves_nothing(cache, make_editor, images, monkeypatch):
    import safetensors.torch

    def half(tensors, path, metadata):
        path.write_bytes(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(safetensors.torch, 'save_file', half)
    with pytest.raises(KeyboardInterrupt):
        cache.invert(make_editor(), images, SOURCES)
    assert not list(cache.folder.iterdir())


def test_the_least_used_make_room(cache, make_editor, images):
    editor = make_editor(kind='SDEditEditor')
    paths = []
    for number, image in enumerate(images.repeat(2, 1, 1, 1) + torch.arange(4).view(4, 1, 1, 1) / 8):
        cache.max_bytes = 1 << 30
        cache.invert(editor, image[None], ['a'])
        paths.append(cache.path_of(editor, image, 'a', None))
        os.utime(paths[-1], (1000 + number, 1000 + number))
    assert cache.read(paths[0]) is not None  # used again: now the newest
    cache.max_bytes = 3 * paths[0].stat().st_size
    cache.invert(editor, images[:1] - 0.5, ['a'])
    assert [path.is_file() for path in paths] == [True, False, False, True]
    cache.max_bytes = 1
    last = cache.path_of(editor, images[1] - 0.5, 'a', None)
    cache.invert(editor, images[1:] - 0.5, ['a'])
    assert list(cache.folder.iterdir()) == [last]


def test_files_of_other_processes_are_left_alone(cache, make_editor, images):
    editor = make_editor(kind='SDEditEditor')
    cache.invert(editor, images[:1], ['a'])
    written = next(cache.folder.iterdir())
    half = cache.folder / f'.1.{written.name}'
    half.write_bytes(b'h' * (1 << 16))
    cache.folder.joinpath('gone.safetensors').symlink_to('nowhere')  # listed, and no longer there
    cache.max_bytes = 3 * written.stat().st_size
    cache.invert(editor, images[1:], ['a'])
    assert half.is_file() and written.is_file()


def test_files_of_other_users_are_read_and_stay(cache, make_editor, images, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError('not yours')

    editor = make_editor(kind='SDEditEditor')
    cache.invert(editor, images[:1], ['a'])
    written = next(cache.folder.iterdir())
    monkeypatch.setattr(os, 'utime', refuse)
    assert cache.read(written) is not None and written.is_file()
    monkeypatch.setattr(Path, 'unlink', refuse)
    cache.max_bytes = 1
    cache.make_room(cache.folder / 'mine.safetensors')
    written.write_bytes(b'damaged')
    assert cache.read(written) is None


def test_a_missing_package_deletes_nothing(cache, make_editor, images, monkeypatch):
    cache.invert(make_editor(kind='SDEditEditor'), images[:1], ['a'])
    (written,) = cache.folder.iterdir()
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    with pytest.raises(ImportError, match='pip install'):
        cache.read(written)
    assert written.is_file()


def test_it_lies_in_the_users_cache_folder(user_cache, tmp_path, monkeypatch):
    assert InversionCache().folder == user_cache / 'inversions'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setattr(Path, 'home', lambda: tmp_path)
    assert InversionCache().folder == tmp_path / '.cache/mmplugins/prompt_tuning_inversion/inversions'


@pytest.mark.slow
def test_split_and_join(make_editor, images):
    inversion = make_editor().invert(images, SOURCES)
    joined = Inversion.join(inversion.split())
    assert all(torch.equal(value, joined.tensors()[name]) for name, value in inversion.tensors().items())
    with pytest.raises(ValueError, match='different settings'):
        Inversion.join([inversion, make_editor(lr=0.1).invert(images, SOURCES)])
