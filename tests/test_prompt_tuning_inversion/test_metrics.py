"""How near pictures are, against scikit-image."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from mmplugins.prompt_tuning_inversion import EditDataSample
from mmplugins.prompt_tuning_inversion.evaluation.nearness import mse, psnr, ssim
from mmplugins.prompt_tuning_inversion.evaluation.networks import IMAGENET
from mmplugins.prompt_tuning_inversion.pictures import as_saved, to_image, to_tensor


def pair():
    image = as_saved(torch.rand(3, 24, 31) * 2 - 1)
    return (image + 0.2 * torch.randn_like(image)).clamp(-1, 1), image


def numpy(picture) -> np.ndarray:
    return ((picture + 1) / 2).permute(1, 2, 0).double().numpy()


def test_psnr_is_that_of_scikit_image():
    metrics = pytest.importorskip('skimage.metrics', reason='needs scikit-image')
    picture, image = pair()
    expected = metrics.peak_signal_noise_ratio(numpy(image), numpy(picture), data_range=1)
    assert psnr(picture, image) == pytest.approx(expected, abs=1e-6)


def test_ssim_is_that_of_scikit_image():
    metrics = pytest.importorskip('skimage.metrics', reason='needs scikit-image')
    picture, image = pair()
    expected = metrics.structural_similarity(
        numpy(image), numpy(picture), data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(picture, image) == pytest.approx(expected, abs=1e-6)


def test_ends():
    picture, image = pair()
    assert psnr(image, image) == pytest.approx(100)
    assert ssim(image, image) == pytest.approx(1)
    assert ssim(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5)) == pytest.approx(1)


def masked_pair():
    """Pictures that differ everywhere, a mask of their left half, and both as PIE-Bench's evaluation takes them."""
    picture, image = pair()
    mask = torch.zeros(24, 31, dtype=torch.bool)
    mask[:, :12] = True
    return picture, image, mask, [numpy(one) * (1 - mask[..., None].double().numpy()) for one in (image, picture)]


def test_a_part_is_the_whole_of_blackened_pictures():
    metrics = pytest.importorskip('skimage.metrics', reason='needs scikit-image')
    picture, image, mask, blackened = masked_pair()
    assert mse(picture, image, mask) == pytest.approx(metrics.mean_squared_error(*blackened), abs=1e-9)
    expected = metrics.peak_signal_noise_ratio(*blackened, data_range=1)
    assert psnr(picture, image, mask) == pytest.approx(expected, abs=1e-6)
    expected = metrics.structural_similarity(
        *blackened, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(picture, image, mask) == pytest.approx(expected, abs=1e-6)


def test_a_mask_that_covers_all_leaves_nothing():
    picture, image = pair()
    for judge in (mse, psnr, ssim):
        assert np.isnan(judge(picture, image, torch.ones(24, 31, dtype=torch.bool)))


def sample(**fields) -> dict:
    picture, image = pair()
    fields = dict(
        dict(source=image, recon=picture, edits=torch.stack([image, picture]), etas=(0.5, 1.0), mask=None), **fields
    )
    return EditDataSample(prompt='a', **fields).to_dict()


@pytest.mark.parametrize(
    ('kind', 'name', 'function'), [('EditPSNR', 'psnr', psnr), ('EditSSIM', 'ssim', ssim), ('EditMSE', 'mse', mse)]
)
def test_means_over_samples_without_those_that_the_mask_covers(kind, name, function):
    metric = METRICS.build(dict(type=kind))
    samples = [sample(), sample(), sample(mask=torch.ones(24, 31, dtype=torch.bool))]
    metric.process(None, samples[:1])
    metric.process(None, samples[1:])
    found = metric.evaluate(3)
    assert sorted(found) == [f'{name}/eta0.5', f'{name}/eta1', f'{name}/recon']
    files = [to_tensor(to_image(one['recon'])) for one in samples[:2]]  # pictures are judged as their files
    expected = np.mean([function(file, one['source']) for file, one in zip(files, samples, strict=False)])
    assert found[f'{name}/recon'] == pytest.approx(expected)
    assert found[f'{name}/eta0.5'] == pytest.approx(dict(psnr=100, ssim=1, mse=0)[name])


@pytest.mark.parametrize(
    'config',
    [
        dict(type='EditLPIPS', backbone='nowhere.pth'),
        dict(type='EditCLIPScore', pretrained='nowhere'),
        dict(type='EditStructureDistance', pretrained='nowhere'),
    ],
    ids=['lpips', 'clip', 'structure'],
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


@pytest.mark.parametrize('edited_part', [False, True])
def test_clip_score_is_the_cosine_of_the_model(clip, edited_part):
    folder, model, tokenizer, images = clip
    metric = METRICS.build(dict(type='EditCLIPScore', pretrained=str(folder), edited_part=edited_part))
    image, mask = as_saved(torch.rand(3, 16, 16) * 2 - 1), torch.zeros(16, 16, dtype=torch.bool)
    mask[:, 5:] = True
    pixels = (image + 1) / 2 * (mask if edited_part else 1)
    mean, std = torch.tensor(images.image_mean), torch.tensor(images.image_std)
    with torch.no_grad():
        ids = tokenizer(['a red three'], return_tensors='pt').input_ids
        output = model(ids, ((pixels - mean[:, None, None]) / std[:, None, None])[None])
    expected = 100 * (output.text_embeds[0] @ output.image_embeds[0]).item()
    assert expected > 1
    assert metric.judge(image, dict(prompt='a red three', mask=mask)) == pytest.approx(expected, abs=1e-3)
    assert metric.name == ('clip_edited' if edited_part else 'clip')
    if edited_part:
        assert np.isnan(metric.judge(image, dict(prompt='a red three', mask=None)))


def test_structure_distance_is_that_of_keys(vit):
    folder, model = vit
    metric = METRICS.build(dict(type='EditStructureDistance', pretrained=str(folder)))
    image, picture = (as_saved(torch.rand(3, 224, 224) * 2 - 1) for _ in range(2))
    mean, std = (torch.tensor(one)[:, None, None] for one in IMAGENET)
    maps = []
    for one in (image, picture):
        with torch.no_grad():
            hidden = model(((((one + 1) * 127.5) - mean) / std)[None], output_hidden_states=True).hidden_states[-2]
            last = model.encoder.layer[-1]
            keys = last.attention.attention.key(last.layernorm_before(hidden))[0].double().numpy()
        norms = np.linalg.norm(keys, axis=1)
        maps.append(keys @ keys.T / np.outer(norms, norms))
    expected = np.square(maps[0] - maps[1]).mean()
    assert expected > 1e-4
    assert metric.judge(picture, dict(source=image)) == pytest.approx(expected, rel=1e-3)
    assert metric.judge(image, dict(source=image)) == pytest.approx(0, abs=1e-9)
    wide = torch.rand(3, 64, 96) * 2 - 1
    assert metric.judge(wide, dict(source=-wide)) > 0


def test_structure_distance_looks_at_an_image_once(vit, monkeypatch):
    metric = METRICS.build(dict(type='EditStructureDistance', pretrained=str(vit[0])))
    seen, cosines = [], metric.cosines
    monkeypatch.setattr(metric, 'cosines', lambda picture: seen.append(picture) or cosines(picture))
    samples = [sample(), sample()]
    metric.process(None, samples)
    assert len(seen) == 2 * (1 + 3)
    found = metric.evaluate(2)['structure_distance/recon']
    alone = [F.mse_loss(cosines(as_saved(one['recon'])), cosines(one['source'])).item() for one in samples]
    assert found == pytest.approx(np.mean(alone), rel=1e-5)
