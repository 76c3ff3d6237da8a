"""Pictures of reconstructions: what they show, and that drawing does not disturb the run."""

from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from mmengine.dataset import default_collate
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

from mmplugins.cae.targets.codebook import fit_kmeans, windows_of
from mmplugins.cae.tokens import split_places
from mmplugins.cae.visualization import ReconstructionHook, fixed_chance, pca_columns

ARCH = dict(embed_dims=24, num_layers=1, num_heads=4, feedforward_channels=48)
PIXELS = dict(type='mmpretrain.PixelTarget', patch_size=8)
HOG = dict(type='mmpretrain.HOGTarget', patch_size=8, pool=4)


def build(kind: str, target: dict, num_classes: int, head: dict | None = None) -> torch.nn.Module:
    """A tiny CAE for images of 16 x 24 pixels."""
    preprocessor = dict(
        type='mmpretrain.TwoNormDataPreprocessor', mean=[120.0, 110, 100], std=[60.0, 60, 60],
        second_mean=[0.0, 0, 0], second_std=[255.0, 255, 255], to_rgb=True,
    )  # fmt: skip
    depth = 0 if kind == 'CAEv2' else 1
    return MODELS.build(
        dict(
            type=f'mmpretrain.{kind}',
            data_preprocessor=preprocessor,
            backbone=dict(type='mmpretrain.CAEViT', arch=ARCH, img_size=(16, 24), patch_size=8),
            neck=dict(
                type='mmpretrain.CAERegressorNeck', num_classes=num_classes, embed_dims=24, grid_size=(2, 3),
                regressor_depth=1, decoder_depth=depth, num_heads=4,
            ),
            head=dict(type=f'mmpretrain.{kind}Head', **(head or {})),
            target_generator=target,
        )
    )  # fmt: skip


class Photos(torch.utils.data.Dataset):
    """Random photos; the mask is drawn anew each time."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, place: int) -> dict:
        image = torch.from_numpy(np.random.RandomState(place).randint(0, 256, (3, 16, 24), dtype=np.uint8))
        sample = DataSample()
        sample.mask = torch.from_numpy(np.random.permutation(6).reshape(2, 3) < 3)
        return dict(inputs=[image, image], data_samples=sample)


@pytest.fixture
def runner(tmp_path) -> SimpleNamespace:
    loader = SimpleNamespace(dataset=Photos(), collate_fn=default_collate)
    return SimpleNamespace(train_dataloader=loader, log_dir=str(tmp_path), epoch=0, max_epochs=3)


def columns(picture: np.ndarray, row: int) -> list[np.ndarray]:
    """Cut a picture into columns of 24 pixels, 4 apart."""
    strip = picture[row * 20 : row * 20 + 16]
    return [strip[:, i * 28 : i * 28 + 24] for i in range((picture.shape[1] + 4) // 28)]


@pytest.fixture
def codebook(tmp_path) -> dict:
    centers = fit_kmeans(windows_of(torch.rand(4, 3, 16, 24), 8, 8).flatten(0, 1), 5)
    np.savez(tmp_path / 'tokens.npz', centers=centers.numpy(), patch_size=8, window=8)
    return dict(type='mmpretrain.KMeansTokenTarget', codebook=str(tmp_path / 'tokens.npz'))


@pytest.mark.parametrize('kind', ['pixels', 'tokens'])
def test_v1_shows_image_mask_prediction_and_the_best_there_is(runner, codebook, kind):
    model = build('CAEv1', PIXELS, 192) if kind == 'pixels' else build('CAEv1', codebook, 5)
    hook = ReconstructionHook(num_images=2)
    batch = hook.read_images(runner)
    picture = hook.draw(model, batch)
    assert picture.shape == (2 * 20 - 4, 4 * 28 - 4, 3) and picture.dtype == np.uint8
    for row in range(2):
        image, visible, found, best = columns(picture, row)
        source = batch['inputs'][0][row].numpy()[::-1].transpose(1, 2, 0)  # the pipeline gives BGR
        assert np.abs(image.astype(int) - source).max() <= 1
        hidden = np.kron(batch['data_samples'][row].mask.numpy(), np.ones((8, 8))) > 0
        assert hidden.sum() == 3 * 64
        for column in (visible, found, best):
            assert np.abs(column[~hidden].astype(int) - image[~hidden]).max() <= 1
        assert np.abs(visible[hidden].astype(int) - 128).max() <= 1
        assert np.abs(found[hidden].astype(int) - image[hidden]).max() > 20  # it has learned nothing
        if kind == 'pixels':
            assert np.abs(best[hidden].astype(int) - image[hidden]).max() <= 1


def test_perfect_prediction_looks_perfect(runner, monkeypatch):
    model = build('CAEv1', PIXELS, 192)

    def perfect(images, mask):
        target = model.target_generator((images * 60 + torch.tensor([120.0, 110, 100])[:, None, None]) / 255)
        return None, target[mask].unflatten(0, (len(mask), -1))

    monkeypatch.setattr(model, 'reconstruct', perfect)
    hook = ReconstructionHook(num_images=1)
    image, _, found, _ = columns(hook.draw(model, hook.read_images(runner)), 0)
    assert np.abs(found.astype(int) - image).max() <= 1


@pytest.mark.parametrize('supervision', ['both', 'visible', 'masked'])
def test_v2_shows_features_and_leaves_unsupervised_places_gray(runner, monkeypatch, supervision):
    model = build('CAEv2', HOG, 108, dict(supervision=supervision))
    hook = ReconstructionHook(num_images=2)
    batch = hook.read_images(runner)

    def perfect(images, mask):  # any positive factor: only directions count
        views = torch.stack(batch['inputs'][1] if isinstance(batch['inputs'][1], list) else list(batch['inputs'][1]))
        target = model.make_target(views.flip(1).float() / 255)
        return [3 * group for group in model.head.groups(target, split_places(mask))]

    monkeypatch.setattr(model, 'predict_groups', perfect)
    picture = hook.draw(model, batch)
    for row in range(2):
        _, _, found, target = columns(picture, row)
        assert np.abs(found.astype(int) - target).max() <= 1
        hidden = np.kron(batch['data_samples'][row].mask.numpy(), np.ones((8, 8))) > 0
        gray = np.abs(target.astype(int) - 128).max(-1) <= 1
        if supervision != 'both':
            assert gray[hidden if supervision == 'visible' else ~hidden].all()
        assert not gray.all()


def test_other_targets_show_latents(runner):
    class Tokenizer(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 6, dtype=torch.long)

    model = build('CAEv1', PIXELS, 192)
    model.target_generator = Tokenizer()
    hook = ReconstructionHook(num_images=2)
    assert hook.draw(model, hook.read_images(runner)).shape == (36, 108, 3)


def test_colors_are_those_of_the_target():
    target = torch.randn(2, 6, 5)
    found, best = pca_columns(target, target, (2, 3))
    assert torch.equal(found, best) and found.shape == (2, 3, 2, 3)
    assert found.min() == 0 and found.max() == 1
    other, _ = pca_columns(-target, target, (2, 3))
    assert (other - best).abs().max() > 0.5


def test_pictures_come_on_time_and_do_not_disturb(runner, tmp_path):
    model = build('CAEv1', PIXELS, 192)
    model.train()
    runner.model = model
    hook = ReconstructionHook(interval=2, num_images=2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for epoch in range(3):
        runner.epoch = epoch
        hook.after_train_epoch(runner)
    assert sorted(path.name for path in (tmp_path / 'pictures').iterdir()) == ['epoch_2.png', 'epoch_3.png']
    assert model.training and not model.target_generator.training
    assert torch.equal(torch.get_rng_state(), before[0]) and np.array_equal(np.random.get_state()[1], before[1])
    assert all(parameter.grad is None for parameter in model.parameters())
    pictures = [mmcv.imread(tmp_path / f'pictures/epoch_{epoch}.png') for epoch in (2, 3)]
    assert np.array_equal(*pictures)  # the same images, crops and masks; nothing was trained


def test_chance_is_fixed_inside_and_free_outside():
    with fixed_chance(1):
        first = torch.rand(1), np.random.rand()
    outside = torch.rand(1)
    with fixed_chance(1):
        second = torch.rand(1), np.random.rand()
    assert torch.equal(first[0], second[0]) and first[1] == second[1]
    assert not torch.equal(outside, torch.rand(1))


def test_wrong_interval_is_told():
    with pytest.raises(ValueError, match='interval=0 and num_images=6 must be at least 1'):
        ReconstructionHook(interval=0)
