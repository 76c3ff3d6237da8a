"""``python -m mmplugins.prompt_tuning_inversion``, on a random folder and in this process."""

import json
from pathlib import Path

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
        'compare.png', 'ddim.png', 'edit_eta0.00.png', 'edit_eta0.70.png', 'recon.png', 'report.json', 'source.png',
        'vae.png',
    ]  # fmt: skip
    report = json.loads(Path('pti_out/report.json').read_text())
    assert report['size'] == [16, 24]
    assert report['settings']['guidance'] == 3
    assert 0 < report['updates'] <= 8
    assert report['from_cache'] is False
    assert report['peak_memory_mib'] > 0
    assert {'torch', 'diffusers'} <= set(report['versions'])
    near = report['metrics']
    assert set(near) == {'vae', 'recon', 'ddim', 'edit_eta0.00', 'edit_eta0.70'}
    # A strength of 0 is the reconstruction.
    assert near['edit_eta0.00']['psnr'] == near['recon']['psnr']
    assert (Path('pti_out/edit_eta0.00.png').read_bytes()) == Path('pti_out/recon.png').read_bytes()
    assert read_image('pti_out/source.png').size == (24, 16)
    captured = capsys.readouterr()
    assert 'written to pti_out' in captured.out
    assert 'inversion' in captured.err and 'tuning' in captured.err and 'loss=' in captured.err


@pytest.mark.slow
def test_second_strength_tunes_nothing(here, folder, monkeypatch):
    assert edit(folder, '--eta', '0.5') == 0
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: pytest.fail('an update'))
    assert edit(folder, '--eta', '0.9', '--out', 'second') == 0
    report = json.loads(Path('second/report.json').read_text())
    assert (report['from_cache'], report['updates']) == (True, 0)


@pytest.mark.slow
def test_second_prompt_tunes_nothing_with_the_empty_start(here, folder, monkeypatch):
    assert edit(folder, '--init', 'null') == 0
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: pytest.fail('an update'))
    assert edit(folder, '--init', 'null', '--prompt', 'a blue nine') == 0
    with pytest.raises(pytest.fail.Exception, match='an update'):
        edit(folder, '--prompt', 'a blue nine')


@pytest.mark.slow
def test_invert_fills_the_cache(here, folder, monkeypatch):
    assert run('invert', '--image', 'photo.png', '--init', 'null', '--model', folder, *FAST, '--out', 'inverted') == 0
    assert not list(Path('inverted').glob('edit*')) and Path('inverted/recon.png').is_file()
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: pytest.fail('an update'))
    assert edit(folder, '--init', 'null') == 0


@pytest.mark.slow
def test_no_cache(here, folder):
    assert edit(folder, '--no-cache') == 0
    assert not Path('.pti_cache').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    'args',
    [('--method', 'ddim'), ('--method', 'sdedit'), ('--method', 'null-text', '--source-prompt', 'a blue one'),
     ('--low-mem', '--dtype', 'bf16'), ('--init', 'source', '--source-prompt', 'a blue one', '--tokens', 'content'),
     ('--resize', 'stretch', '--size', '32', '--no-lr-decay', '--early-stop', '0', '--edit-guidance', '1.5')],
    ids=lambda args: args[1] if args[0] != '--low-mem' else 'low-mem',
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
    summary = json.loads(Path('all/report.json').read_text())
    assert (summary['images'], len(summary['failed'])) == (3, 1)
    reports = [json.loads(Path(f'all/{name}/report.json').read_text()) for name in ('square', 'other', 'photo')]
    assert [report['batch'] for report in reports] == [2, 2, 1]
    mean = sum(report['metrics']['recon']['psnr'] for report in reports) / 3
    assert summary['mean']['recon']['psnr'] == pytest.approx(mean, abs=1e-3)
    page = Path('all/index.html').read_text()
    assert 'src="square/compare.png"' in page and 'a &lt;square&gt; one' in page and 'broken' not in page


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
        (['--guidance', '-2'], 'guidance must not be negative'),
        (['--eta', '1.2'], 'eta must be from 0'),
        (['--steps', '0'], 'number of steps must be'),
        (['--model', 'nowhere'], 'no diffusers folder nowhere'),
        (['--image', 'nowhere.png'], 'no image nowhere.png'),
        (['--method', 'null-text'], 'needs a prompt that says what is in the image'),
        (['--device', 'cuda:99'], 'cuda'),
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


def test_invert_needs_a_prompt_to_start_from_it(here, folder, capsys):
    assert run('invert', '--image', 'photo.png', '--model', folder, *FAST) == 1
    assert 'give --prompt, or --init null' in capsys.readouterr().err


def test_weak_guidance_and_uneven_steps_are_warnings(here, folder, capsys):
    assert edit(folder, '--guidance', '1', '--steps', '3') == 0
    error = capsys.readouterr().err
    assert 'warning: guidance 1.0 does not guide' in error
    assert 'warning: 3 steps do not divide 1000' in error


@pytest.mark.slow
def test_interrupt_leaves_no_unfinished_inversion(here, folder, capsys, monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, 'step', lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert edit(folder) == 130
    assert 'interrupted' in capsys.readouterr().err
    assert not list(Path('.pti_cache').glob('*')) if Path('.pti_cache').exists() else True
    assert not Path('pti_out').exists()


def test_without_diffusers_the_error_names_the_command(here, folder, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'diffusers', None)
    assert edit(folder) == 1
    assert 'pip install --no-build-isolation -e ".[pti]"' in capsys.readouterr().err
