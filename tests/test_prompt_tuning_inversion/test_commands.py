"""``python -m mmplugins.prompt_tuning_inversion``, on a random folder and in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmplugins.prompt_tuning_inversion.__main__ import main
from mmplugins.prompt_tuning_inversion.pictures import read_image

FAST = ['--steps', '4', '--inner', '2', '--guidance', '3']


@pytest.fixture
def here(tmp_path, monkeypatch, folder):
    """A folder with an image, as working directory."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(3)
    Image.fromarray((torch.rand(20, 30, 3) * 255).byte().numpy()).save('photo.png')
    return tmp_path


def run(*args) -> int:
    return main([str(arg) for arg in args])


def edit(folder, *args) -> int:
    return run('edit', '--image', 'photo.png', '--prompt', 'a red three', '--model', folder, *FAST, *args)


def test_edit_writes_all_files(here, folder, capsys):
    assert edit(folder, '--eta', '0', '0.7') == 0
    names = sorted(path.name for path in Path('pti_out').iterdir())
    assert names == [
        'compare.png', 'edit_eta0.00.png', 'edit_eta0.70.png', 'prompt_alone.png', 'recon.png', 'report.json',
        'source.png', 'vae.png',
    ]  # fmt: skip
    report = json.loads(Path('pti_out/report.json').read_text())
    assert report['size'] == [16, 24]
    assert report['settings']['guidance'] == 3
    assert 0 < report['updates'] <= 8
    assert report['from_cache'] is False
    assert report['peak_memory_mib'] > 0
    assert {'torch', 'diffusers'} <= set(report['versions'])
    near = report['metrics']
    assert set(near) == {'vae', 'recon', 'prompt_alone', 'edit_eta0.00', 'edit_eta0.70'}
    # A strength of 0 is the reconstruction.
    assert near['edit_eta0.00']['psnr'] == near['recon']['psnr']
    assert (Path('pti_out/edit_eta0.00.png').read_bytes()) == Path('pti_out/recon.png').read_bytes()
    assert read_image('pti_out/source.png').size == (24, 16)
    captured = capsys.readouterr()
    assert 'written to pti_out' in captured.out
    assert 'inversion' in captured.err and 'tuning' in captured.err and 'loss=' in captured.err


@pytest.mark.parametrize(
    ('args', 'strengths', 'made'),
    [(['--eta', '0.7'], [0.7, 1.0], True), (['--eta', '0.7', '1'], [0.7, 1.0], True),
     (['--eta', '0.7', '--method', 'negative-prompt', '--source-prompt', 'a', '--attention', '1', '1'], [0.7], False)],
    ids=['without', 'with', 'attention'],
)  # fmt: skip
def test_the_prompt_alone_is_sampled_once_and_without_attention_maps(here, folder, monkeypatch, args, strengths, made):
    from mmplugins.prompt_tuning_inversion.editor import InversionEditor

    seen, real = [], InversionEditor.edit
    monkeypatch.setattr(InversionEditor, 'edit', lambda self, *args: seen.append(args[2]) or real(self, *args))
    assert edit(folder, *args) == 0
    assert seen == strengths
    assert Path('pti_out/prompt_alone.png').is_file() == made
    if '1' in args[:3]:
        assert Path('pti_out/prompt_alone.png').read_bytes() == Path('pti_out/edit_eta1.00.png').read_bytes()


@pytest.mark.slow
def test_second_strength_tunes_nothing(here, folder, monkeypatch):
    assert edit(folder, '--eta', '0.5') == 0
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: pytest.fail('an update'))
    assert edit(folder, '--eta', '0.9', '--out', 'second') == 0
    report = json.loads(Path('second/report.json').read_text())
    assert (report['from_cache'], report['updates']) == (True, 0)


@pytest.mark.slow
def test_second_prompt_tunes_nothing_with_the_empty_start(here, folder, monkeypatch):
    assert edit(folder) == 0
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: pytest.fail('an update'))
    assert edit(folder, '--prompt', 'a blue nine') == 0
    with pytest.raises(pytest.fail.Exception, match='an update'):
        edit(folder, '--init', 'target', '--prompt', 'a blue nine')


@pytest.mark.slow
def test_invert_fills_the_cache(here, folder, monkeypatch):
    assert run('invert', '--image', 'photo.png', '--model', folder, *FAST, '--out', 'inverted') == 0
    assert not list(Path('inverted').glob('edit*')) and Path('inverted/recon.png').is_file()
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: pytest.fail('an update'))
    assert edit(folder) == 0


@pytest.mark.slow
def test_no_cache(here, folder, user_cache):
    assert edit(folder, '--no-cache') == 0
    assert not (user_cache / 'inversions').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    'args',
    [('--method', 'ddim'), ('--method', 'sdedit'), ('--method', 'edit-friendly'),
     ('--method', 'negative-prompt', '--source-prompt', 'a blue one'),
     ('--attention', '0.8', '0.4', '--weight', 'three', '2', '--init', 'source', '--source-prompt', 'a blue one'),
     ('--method', 'null-text', '--source-prompt', 'a blue one'),
     ('--low-mem', '--dtype', 'bf16'), ('--init', 'source', '--source-prompt', 'a blue one', '--tokens', 'content'),
     ('--resize', 'stretch', '--size', '32', '--no-lr-decay', '--early-stop', '0', '--edit-guidance', '1.5')],
    ids=lambda args: args[1] if args[0] in ('--method', '--init', '--resize') else args[0],
)  # fmt: skip
def test_methods_and_options(here, folder, args):
    assert edit(folder, *args) == 0
    assert Path('pti_out/compare.png').is_file()


@pytest.mark.slow
def test_batch_goes_on_after_an_image_that_cannot_be_read(here, folder, capsys):
    Image.new('RGB', (16, 16), 'red').save('square.png')
    Image.new('RGB', (16, 16), 'blue').save('other.png')
    Path('broken.png').write_text('no picture')
    pairs = [dict(image=f'{name}.png', prompt=f'a <{name}> one') for name in ('square', 'broken', 'other', 'photo')]
    Path('pairs.json').write_text(json.dumps(pairs))
    status = run('batch', 'pairs.json', '--model', folder, *FAST, '--batch-size', 2, '--eta', 0.5, '--out', 'all')
    assert status == 1
    captured = capsys.readouterr()
    assert 'broken: ' in captured.err and 'cannot be read as an image' in captured.err
    assert '3 of 4 images edited' in captured.out
    assert captured.err.endswith('batch: not edited: broken; the next run tries them again\n')
    summary = json.loads(Path('all/report.json').read_text())
    assert (summary['images'], summary['failed']) == (3, 1)
    assert [row['sample_id'] for row in summary['samples'] if 'error' in row] == ['broken']
    reports = [json.loads(Path(f'all/{name}/report.json').read_text()) for name in ('square', 'other', 'photo')]
    assert [report['batch'] for report in reports] == [2, 2, 1]
    mean = sum(report['metrics']['recon']['psnr'] for report in reports) / 3
    assert summary['mean']['recon']['psnr'] == pytest.approx(mean, abs=1e-3)
    page = Path('all/index.html').read_text()
    assert (
        'src="square/compare.png"' in page and 'a &lt;square&gt; one' in page and 'cannot be read as an image' in page
    )


@pytest.fixture
def three(here):
    """A list of three images of one size."""
    for name in ('a', 'b', 'c'):
        torch.manual_seed(ord(name))
        Image.fromarray((torch.rand(16, 16, 3) * 255).byte().numpy()).save(f'{name}.png')
    Path('pairs.json').write_text(json.dumps([dict(image=f'{name}.png', prompt='a red three') for name in 'abc']))

    def batch(folder, *args) -> tuple[int, dict]:
        status = run('batch', 'pairs.json', '--model', folder, *FAST, '--eta', 0.5, '--out', 'all', *args)
        return status, json.loads(Path('all/report.json').read_text())

    return batch


@pytest.mark.slow
@pytest.mark.parametrize('size', [1, 3])
def test_one_image_that_fails_is_a_row_and_the_next_run_goes_on(three, folder, monkeypatch, capsys, size):
    from mmplugins.prompt_tuning_inversion.editor import InversionEditor

    bad, edit_samples = read_image('b.png').getpixel((0, 0)), InversionEditor.edit_samples

    def fragile(self, samples, images, inversion, etas):
        for image in images:
            if tuple(((image[:, 0, 0] + 1) * 127.5).round().int().tolist()) == bad:
                raise FloatingPointError('the loss is not finite')
        edit_samples(self, samples, images, inversion, etas)

    monkeypatch.setattr(InversionEditor, 'edit_samples', fragile)
    status, report = three(folder, '--batch-size', size)
    assert (status, report['images'], report['failed']) == (1, 2, 1)
    assert [row.get('error') for row in report['samples']] == [
        None, 'FloatingPointError: the loss is not finite', None,
    ]  # fmt: skip
    assert 'the loss is not finite' in Path('all/index.html').read_text()
    stamps = {name: Path(f'all/{name}/compare.png').stat().st_mtime_ns for name in 'ac'}
    monkeypatch.setattr(InversionEditor, 'edit_samples', edit_samples)
    capsys.readouterr()
    status, report = three(folder, '--batch-size', size)
    assert (status, report['images'], report['failed']) == (0, 3, 0)
    assert capsys.readouterr().out.count(': kept') == 2
    assert stamps == {name: Path(f'all/{name}/compare.png').stat().st_mtime_ns for name in 'ac'}


@pytest.mark.slow
def test_other_settings_edit_again(three, folder, capsys):
    three(folder)
    for args in (['--guidance', '4'], ['--edit-guidance', '2', '--guidance', '4'], ['--eta', '0.6']):
        capsys.readouterr()
        assert three(folder, *args)[0] == 0
        assert 'kept' not in capsys.readouterr().out
    assert [path.name for path in Path('all/a').glob('edit*')] == ['edit_eta0.60.png']


@pytest.mark.slow
def test_strengths_that_differ_in_the_third_digit_have_files_of_their_own(here, folder):
    assert edit(folder, '--eta', '0.701', '0.704', '0.7') == 0
    names = {'edit_eta0.701', 'edit_eta0.704', 'edit_eta0.70'}
    assert {path.stem for path in Path('pti_out').glob('edit*')} == names
    assert names < set(json.loads(Path('pti_out/report.json').read_text())['metrics'])


@pytest.mark.slow
def test_batch_judges_outside_the_mask_as_the_runner_does(here, folder):
    Path('annotation_images').mkdir()
    Image.fromarray((torch.rand(512, 512, 3) * 255).byte().numpy()).save('annotation_images/one.png')
    entry = dict(image_path='one.png', original_prompt='a blue [three]', editing_prompt='a red [three]',
                 editing_type_id='6', mask=[0, 512 * 300])  # fmt: skip
    Path('mapping_file.json').write_text(json.dumps({'000': entry}))
    args = ('--model', folder, *FAST, '--eta', 0.5, '--size', 16, '--out', 'all')
    assert run('batch', 'mapping_file.json', *args) == 0
    report = json.loads(Path('all/000/report.json').read_text())
    image, picture = (np.asarray(read_image(f'all/000/{name}.png')) / 255 for name in ('source', 'edit_eta0.50'))
    counts = np.zeros((16, 16, 1))
    counts[9:] = 1  # centers from row 304 of 512 on
    error = np.square((image - picture) * counts).mean()
    assert report['metrics']['edit_eta0.50']['psnr'] == pytest.approx(-10 * np.log10(error), abs=1e-3)


@pytest.mark.slow
def test_batch_is_what_single_edits_are(here, folder):
    Path('pairs.json').write_text(json.dumps([dict(image='photo.png', prompt='a red three')]))
    assert run('batch', 'pairs.json', '--model', folder, *FAST, '--eta', 0.5, '--out', 'all', '--no-cache') == 0
    assert edit(folder, '--eta', 0.5, '--no-cache') == 0
    for name in ('recon', 'edit_eta0.50'):
        assert Path(f'all/photo/{name}.png').read_bytes() == Path(f'pti_out/{name}.png').read_bytes()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--guidance', '0'], 'guidance 0 leaves the prompt without influence'),
        (['--guidance', '-2'], 'guidance must be a number and not negative'),
        (['--eta', '1.2'], 'eta must be from 0'),
        (['--steps', '0'], 'number of steps must be'),
        (['--model', 'nowhere'], 'no diffusers folder nowhere'),
        (['--image', 'nowhere.png'], 'no image nowhere.png'),
        (['--method', 'null-text'], 'needs a prompt that says what is in the image'),
        (['--device', 'cuda:99'], '--device cuda:99 cannot be used'),
        (['--device', 'mps'], '--device mps cannot be used'),
        (['--device', 'gpu!'], '--device gpu! cannot be used'),
        (['--early-stop', 'nan'], 'early_stop one not below, got 0.01 and nan'),
        (['--lr', 'nan'], 'lr must be a number above 0'),
        (['--guidance', 'nan'], 'guidance must be a number'),
        (['--size', '0'], 'size must be at least 1 pixel, got 0'),
        (['--eta', '0.5', '0.5'], 'eta holds a strength twice'),
        (['--attention', '0.8', '0.4'], 'invert from the prompt of the image'),
        (['--attention', '2', '0', '--method', 'negative-prompt'], 'must be from 0 to 1'),
        (['--attention', '1', '1', '--method', 'sdedit'], 'not for sdedit'),
        (['--weight', 'three', '2'], '--weight needs --attention'),
        (['--weight', 'three', 'much', '--attention', '1', '1', '--init', 'source'], 'could not convert'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_what_the_user_can_put_right_is_said_in_a_line(here, folder, capsys, args, message):
    if 'cuda:99' in args and torch.cuda.is_available():
        pytest.skip('this machine has a GPU')
    assert edit(folder, *args) == 1
    error = capsys.readouterr().err
    assert message in error and 'Traceback' not in error
    assert not Path('pti_out').exists()


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--init', 'target'], 'give --prompt, or leave --init out'),
        (['--init', 'target', '--method', 'ddim'], 'give --prompt, or leave --init out'),
        (['--tokens', 'content'], '--tokens content tunes those of the prompt of the edit: give --prompt'),
    ],
    ids=lambda value: ' '.join(value) if isinstance(value, list) else '',
)
def test_invert_needs_the_prompt_that_it_depends_on(here, folder, capsys, args, message):
    assert run('invert', '--image', 'photo.png', '--model', folder, *FAST, *args) == 1
    assert message in capsys.readouterr().err


def test_weak_guidance_and_uneven_steps_are_warnings(here, folder, capsys):
    assert edit(folder, '--guidance', '1', '--steps', '3') == 0
    error = capsys.readouterr().err
    assert 'warning: guidance 1.0 does not guide' in error
    assert 'warning: 3 steps do not divide 1000' in error


@pytest.mark.slow
def test_interrupt_leaves_no_unfinished_inversion(here, folder, capsys, monkeypatch, user_cache):
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert edit(folder) == 130
    assert 'interrupted' in capsys.readouterr().err
    assert not list(user_cache.glob('inversions/*'))
    assert not Path('pti_out').exists()


def test_without_diffusers_the_error_names_the_command(here, folder, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'diffusers', None)
    assert edit(folder) == 1
    assert 'pip install --no-build-isolation -e ".[pti]"' in capsys.readouterr().err
