"""The editors in mmengine's Runner."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmplugins.prompt_tuning_inversion import EditDataSample, SaveEditGridHook

ETAS = (0.3, 0.9)


@pytest.fixture
def cfg(folder, tmp_path, repo) -> Config:
    """The small config on a random folder and three images of two sizes."""
    pairs = []
    for name, size in (('a', (16, 16)), ('b', (24, 16)), ('c', (16, 16))):
        pixels = (torch.rand(size[1], size[0], 3) * 255).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / f'{name}.png')
        pairs.append(dict(image=f'{name}.png', prompt='a red three', source_prompt='a blue one'))
    (tmp_path / 'pairs.json').write_text(json.dumps(pairs))
    cfg = Config.fromfile(repo / 'configs/prompt_tuning_inversion/pti_tiny_1xb4_tinted-mnist.py')
    cfg.merge_from_dict({
        'model.parts.pretrained': str(folder), 'model.num_steps': 4, 'model.inner_steps': 2, 'model.eta': ETAS,
        'test_dataloader.dataset.data_root': str(tmp_path), 'work_dir': str(tmp_path / 'work'),
        'test_dataloader.dataset.pipeline': [dict(type='LoadEditImage', size=16, multiple=4)],
    })  # fmt: skip
    cfg.test_evaluator = [metric for metric in cfg.test_evaluator if metric.type != 'TintedDigitAccuracy']
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['PromptTuningInversion', 'NullTextInversionEditor'])
def test_metrics_and_pictures(cfg, kind, tmp_path):
    cfg.model.type = kind
    cfg.experiment_name = kind
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    assert sorted(metrics) == [
        f'{name}/{picture}' for name in ('psnr', 'ssim') for picture in ('eta0.3', 'eta0.9', 'recon')
    ]  # fmt: skip
    folder = next((tmp_path / 'work').glob('*/edits'))
    assert sorted(path.name for path in folder.iterdir()) == ['a.png', 'b.png', 'c.png', 'index.html']
    assert folder.joinpath('index.html').read_text().count('<figure>') == 3


@pytest.mark.slow
def test_samples_are_what_single_images_give(make_editor):
    editor = make_editor(eta=ETAS)
    images = [torch.rand(3, 16, 16), torch.rand(3, 16, 24), torch.rand(3, 16, 16)]
    samples = [EditDataSample(prompt=prompt) for prompt in ('a red one', 'a blue two', 'a green three')]
    with torch.no_grad():
        found = editor.test_step(dict(inputs=images, data_samples=samples))
    assert [sample.prompt for sample in found] == ['a red one', 'a blue two', 'a green three']
    for image, sample in zip(images, found, strict=True):
        inversion = editor.invert(image[None], sample.prompt)
        assert sample.edits.shape == (2, *image.shape)
        torch.testing.assert_close(sample.recon, editor.reconstruct(inversion)[0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(sample.edits[1], editor.edit(inversion, sample.prompt, 0.9)[0], rtol=1e-3, atol=1e-3)
        assert torch.equal(sample.source, image)


@pytest.mark.slow
def test_number_of_pictures_is_limited(cfg, tmp_path):
    cfg.custom_hooks = [dict(type='SaveEditGridHook', out_dir='few', max_images=1)]
    cfg.experiment_name = 'few'
    Runner.from_cfg(cfg).test()
    assert len(list((tmp_path / 'work').glob('*/few/*.png'))) == 1


def test_the_page_says_how_near_and_where_nothing_is_compared(tmp_path):
    source = torch.linspace(-1, 1, 3 * 8 * 8).view(3, 8, 8)
    right = torch.zeros(8, 8, dtype=torch.bool)
    right[:, 4:] = True
    hook, runner = SaveEditGridHook(), SimpleNamespace(log_dir=tmp_path, experiment_name='masks')
    for name, mask in (('none', None), ('right', right), ('all', torch.ones_like(right))):
        sample = EditDataSample(metainfo=dict(sample_id=name), prompt='a', source=source, vae=source, recon=source / 2)
        sample.set_data(dict(mask=mask, edits=source[None], etas=(0.5,)))
        hook.after_test_iter(runner, 0, outputs=[sample])
    error = ((source - source / 2) / 2).square()  # of values from 0 to 1; what is masked is equal
    expected = [-10 * np.log10(part) for part in (error.mean(), error[..., :4].mean() / 2)]
    notes = [note for _, _, note in hook.entries]
    assert notes[:2] == [f'reconstruction {near:.1f} dB' for near in expected]
    assert notes[2] == 'the mask covers the whole picture: nothing is compared'
