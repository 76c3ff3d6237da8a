"""What needs a trained model: the tiny one of the package, on the images of tests/data/pti."""

import json

import pytest
import torch

from mmplugins.prompt_tuning_inversion import DDIMInversionEditor, NullTextInversionEditor, PromptTuningInversion
from mmplugins.prompt_tuning_inversion.__main__ import main
from mmplugins.prompt_tuning_inversion.evaluation.nearness import psnr
from mmplugins.prompt_tuning_inversion.pictures import read_image, to_tensor
from mmplugins.prompt_tuning_inversion.tinted_digits.judge import color_of, to_pixels

TINY = dict(type='DiffusionParts', pretrained='tiny')
COMMON = dict(num_steps=10, guidance=5.0)
UPDATES = dict(inner_steps=5, lr=5e-2, early_stop=None)  # few and long ones, to be quick


@pytest.fixture(scope='module')
def pairs(repo) -> list[dict]:
    """The first four pairs."""
    return json.loads((repo / 'tests/data/pti/pairs.json').read_text())[:4]


@pytest.fixture(scope='module')
def images(repo, pairs) -> torch.Tensor:
    return torch.stack([to_tensor(read_image(repo / 'tests/data/pti' / pair['image'])) for pair in pairs])


@pytest.fixture(scope='module')
def prompts(pairs) -> tuple[list[str], list[str]]:
    """Of the edits and of the images."""
    return [pair['prompt'] for pair in pairs], [pair['source_prompt'] for pair in pairs]


@pytest.fixture(scope='module')
def tuned(images, prompts):
    """Editor and inversion."""
    editor = PromptTuningInversion(TINY, **UPDATES, **COMMON)
    return editor, editor.invert(images, prompts[0])


def fidelity(editor, inversion) -> torch.Tensor:
    """PSNR of each reconstruction to what the autoencoder makes of the image."""
    pictures = zip(editor.reconstruct(inversion), editor.parts.decode(inversion.source), strict=True)
    return torch.tensor([psnr(*pair) for pair in pictures])


@pytest.mark.slow
def test_reconstruction_without_guidance_is_not_worse_than_any_guided_one_without_tuning(images, prompts, tuned):
    editor, inversion = tuned
    null = editor.parts.encode_text([''] * len(images))[None]
    with torch.no_grad():
        latents = editor.sample(inversion.noise, null, null, guidance=0.0)
    vae = editor.parts.decode(inversion.source)
    free = torch.tensor([psnr(*pair) for pair in zip(editor.parts.decode(latents), vae, strict=True)])
    assert free.mean() > 25
    for guidance in (3.0, 7.5):
        ddim = DDIMInversionEditor(TINY, num_steps=10, guidance=guidance, init='source')
        assert (free >= fidelity(ddim, ddim.invert(images, *prompts))).all()


@pytest.mark.slow
def test_tuning_reconstructs_every_image_better_than_no_tuning(images, prompts, tuned):
    ddim = DDIMInversionEditor(TINY, init='target', **COMMON)
    gain = fidelity(*tuned) - fidelity(ddim, ddim.invert(images, prompts[0]))
    assert gain.min() > 3, gain


@pytest.mark.slow
def test_null_text_reconstructs_every_image_better_than_no_tuning(images, prompts):
    editor = NullTextInversionEditor(TINY, **UPDATES, **COMMON)
    ddim = DDIMInversionEditor(TINY, init='source', **COMMON)
    gain = fidelity(editor, editor.invert(images, *prompts)) - fidelity(ddim, ddim.invert(images, *prompts))
    assert gain.min() > 3, gain


@pytest.mark.slow
def test_updates_lower_the_loss_of_nearly_every_step(tuned):
    before, after = tuned[1].losses.mean(-1).unbind(1)
    assert (after <= before).float().mean() >= 0.95


@pytest.mark.slow
def test_more_updates_are_better(images, prompts, tuned):
    few = PromptTuningInversion(TINY, **{**UPDATES, 'inner_steps': 1}, **COMMON).invert(images, prompts[0])
    assert tuned[1].losses[:, 1].mean() < few.losses[:, 1].mean()


@pytest.mark.slow
@pytest.mark.parametrize('guidance', [3.0, 7.5])
def test_empty_start_is_not_worse_than_unconditional_reconstruction(images, prompts, guidance):
    kwargs = dict(UPDATES, num_steps=10, guidance=guidance)
    tuned, plain = (PromptTuningInversion(TINY, **{**kwargs, 'inner_steps': steps}) for steps in (5, 0))
    assert fidelity(tuned, tuned.invert(images, prompts[0])).mean() >= fidelity(plain, plain.invert(images, '')).mean()


@pytest.mark.slow
def test_edit_changes_the_color_and_keeps_more_with_less_strength(pairs, images, prompts, tuned):
    editor, inversion = tuned
    edits = {eta: editor.edit(inversion, prompts[0], eta) for eta in (0.0, 0.7, 1.0)}
    colors = {eta: [color_of(to_pixels(edit)) for edit in found] for eta, found in edits.items()}
    assert colors[0.0] == [pair['source_prompt'].split()[1] for pair in pairs]
    wanted = [pair['prompt'].split()[1] for pair in pairs]
    assert sum(a == b for a, b in zip(colors[0.7], wanted, strict=True)) >= 3
    shapes = [image.amax(0) for image in images]
    errors = {
        eta: torch.stack([(edit.amax(0) - shape).square().mean() for edit, shape in zip(found, shapes, strict=True)])
        for eta, found in edits.items()
    }
    assert errors[0.0].mean() < errors[0.7].mean() < errors[1.0].mean()


@pytest.mark.slow
def test_command_of_the_quick_start(repo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = repo / 'tests/data/pti/red_zero.png'
    args = ['edit', '--image', str(image), '--prompt', 'a green zero', '--steps', '10', '--inner', '5', '--lr', '0.05']
    assert main([*args, '--eta', '0.7']) == 0
    report = json.loads((tmp_path / 'pti_out/report.json').read_text())
    assert report['metrics']['recon']['psnr'] > report['metrics']['prompt_alone']['psnr'] + 3
    assert color_of(to_pixels(to_tensor(read_image('pti_out/edit_eta0.70.png')))) == 'green'
    captured = capsys.readouterr()
    assert 'model: tiny' in captured.out
    assert 'does not know' not in captured.err
    assert main([*args, '--prompt', 'a purple zero', '--no-cache', '--inner', '0']) == 0
    assert 'the tiny model does not know: purple' in capsys.readouterr().err


def test_folder_is_small_and_in_half_precision():
    from safetensors import safe_open

    from mmplugins.prompt_tuning_inversion.diffusion.folder import TINY as FOLDER

    files = [path for path in FOLDER.rglob('*') if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 6e6
    with safe_open(FOLDER / 'unet/diffusion_pytorch_model.safetensors', 'pt') as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}
