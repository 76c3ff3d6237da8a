"""How near pictures are, against scikit-image."""

import logging

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from mmplugins.prompt_tuning_inversion import EditDataSample
from mmplugins.prompt_tuning_inversion.evaluation.metrics import psnr, ssim


def pair():
    image = torch.rand(3, 24, 31) * 2 - 1
    return (image + 0.2 * torch.randn_like(image)).clamp(-1, 1), image


def numpy(picture) -> np.ndarray:
    return ((picture + 1) / 2).permute(1, 2, 0).double().numpy()


def test_psnr_is_that_of_scikit_image():
    metrics = pytest.importorskip('skimage.metrics', reason='needs scikit-image')
    picture, image = pair()
    expected = metrics.peak_signal_noise_ratio(numpy(image), numpy(picture), data_range=1)
    assert psnr(picture, image) == pytest.approx(expected, abs=1e-4)


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip('skimage.metrics', reason='needs scikit-image')
    picture, image = pair()
    expected = metrics.structural_similarity(
        numpy(image), numpy(picture), data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(picture, image) == pytest.approx(expected, abs=1e-3)


def test_ends():
    picture, image = pair()
    assert psnr(image, image) == pytest.approx(100)
    assert ssim(image, image) == pytest.approx(1)
    assert ssim(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5)) == pytest.approx(1)


def test_only_what_is_outside_the_mask_counts():
    picture, image = pair()
    mask = torch.zeros(24, 31, dtype=torch.bool)
    mask[:, :12] = True
    picture[:, :, 12:] = image[:, :, 12:]
    assert psnr(picture, image, mask) == pytest.approx(100)
    assert psnr(picture, image) < 40
    assert ssim(picture, image, mask) > ssim(picture, image)
    assert np.isnan(psnr(picture, image, torch.ones_like(mask)))
    assert np.isnan(ssim(picture, image, torch.ones_like(mask)))


def sample(**fields) -> dict:
    picture, image = pair()
    fields = dict(
        dict(source=image, recon=picture, edits=torch.stack([image, picture]), etas=(0.5, 1.0), mask=None), **fields
    )
    return EditDataSample(prompt='a', **fields).to_dict()


@pytest.mark.parametrize(('kind', 'name', 'function'), [('EditPSNR', 'psnr', psnr), ('EditSSIM', 'ssim', ssim)])
def test_means_over_samples_without_those_that_the_mask_covers(kind, name, function):
    metric = METRICS.build(dict(type=kind))
    samples = [sample(), sample(), sample(mask=torch.ones(24, 31, dtype=torch.bool))]
    metric.process(None, samples[:1])
    metric.process(None, samples[1:])
    found = metric.evaluate(3)
    assert sorted(found) == [f'{name}/eta0.5', f'{name}/eta1', f'{name}/recon']
    expected = np.mean([function(one['recon'], one['source']) for one in samples[:2]])
    assert found[f'{name}/recon'] == pytest.approx(expected)
    assert found[f'{name}/eta0.5'] == pytest.approx(100 if name == 'psnr' else 1)


@pytest.mark.parametrize(
    'config',
    [dict(type='EditLPIPS', backbone='nowhere.pth'), dict(type='EditCLIPScore', pretrained='nowhere')],
    ids=['lpips', 'clip'],
)
def test_metrics_without_weights_say_so_and_are_left_out(config, caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING):
        metric = METRICS.build(config)
    logger.removeHandler(caplog.handler)
    assert 'not available offline' in caplog.text
    metric.process(None, [sample()])
    assert metric.evaluate(1) == {}


def test_clip_score_is_the_cosine_of_the_model(tmp_path):
    transformers = pytest.importorskip('transformers')
    from mmplugins.prompt_tuning_inversion.tinted_digits.parts import build_tokenizer

    tokenizer = build_tokenizer()
    text = dict(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=8, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    model = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    ).eval()
    model.save_pretrained(tmp_path)
    images = transformers.CLIPImageProcessor(size=dict(shortest_edge=16), crop_size=dict(height=16, width=16))
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(tmp_path)
    metric = METRICS.build(dict(type='EditCLIPScore', pretrained=str(tmp_path)))
    image = torch.full((3, 16, 16), 0.3)
    found = metric.judge(image, dict(prompt='a red three'))
    mean, std = torch.tensor(images.image_mean), torch.tensor(images.image_std)
    pixels = (((image + 1) / 2) - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        output = model(tokenizer(['a red three'], return_tensors='pt').input_ids, pixels[None])
    expected = 100 * (output.text_embeds[0] @ output.image_embeds[0]).item()
    assert found == pytest.approx(expected, abs=1e-2)
