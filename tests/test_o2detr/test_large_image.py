"""Patches of large images, with a model that finds bright pixels, and the names of patches."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import nn

from mmplugins.o2detr.__main__ import main
from mmplugins.o2detr.verbs.large_image import default_patch, detect_large_image, shown_scale
from mmplugins.o2detr.verbs.submission import check_patch_names, patch_files, submission_config

PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=(64, 64), keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]


class BrightPixels(nn.Module):
    """Gives a box of 6 x 3 pixels at 30° for each white pixel, and one of a low score for each patch if told to."""

    def __init__(self, noise: bool = False) -> None:
        super().__init__()
        self.cfg = ConfigDict(test_dataloader=dict(dataset=dict(pipeline=PIPELINE)))
        self.noise = noise
        self.sizes = []

    def test_step(self, data):
        samples = data['data_samples']
        self.sizes.append(len(samples))
        for image, sample in zip(data['inputs'], samples, strict=True):
            y, x = (image[0] == 255).nonzero().T
            scale = torch.tensor(sample.scale_factor)
            boxes = torch.cat([torch.stack([x, y], 1) / scale, torch.tensor([[6, 3, 0.5]]).expand(len(x), 3)], 1)
            scores = torch.full((len(x),), 0.9)
            if self.noise:
                boxes = torch.cat([boxes, torch.tensor([[5.0, 5.0, 4.0, 2.0, 0.0]])])
                scores = torch.cat([scores, torch.tensor([0.01])])
            sample.pred_instances = InstanceData(bboxes=boxes, scores=scores, labels=torch.zeros(len(boxes)).long())
        return samples


def spots(height: int, width: int, places) -> np.ndarray:
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in places:
        image[y, x] = 255
    return image


PLACES = [(3, 4), (60, 60), (100, 20), (149, 119), (70, 110)]


@pytest.mark.parametrize('batch_size', [1, 4])
def test_each_object_is_found_once_and_in_its_place(batch_size):
    model = BrightPixels(noise=True)
    found = detect_large_image(model, spots(120, 150, PLACES), 64, 24, batch_size=batch_size).pred_instances
    # (60, 60) is in four patches.
    assert sorted(map(tuple, found.bboxes[:, :2].round().int().tolist())) == sorted(PLACES)
    torch.testing.assert_close(found.bboxes[:, 2:], torch.tensor([[6, 3, 0.5]]).expand(5, 3))
    assert max(model.sizes) == batch_size


def test_low_scores_are_written_on_demand():
    image = spots(120, 150, [])
    assert len(detect_large_image(BrightPixels(noise=True), image, 64, 24).pred_instances) == 0
    assert len(detect_large_image(BrightPixels(noise=True), image, 64, 24, score_thr=0.0).pred_instances) > 1


def test_no_object_anywhere():
    found = detect_large_image(BrightPixels(), spots(120, 150, []), 64, 24)
    assert found.pred_instances.bboxes.shape == (0, 5) and found.img_shape == (120, 150)


def test_image_smaller_than_a_patch():
    found = detect_large_image(BrightPixels(), spots(40, 50, [(20, 10)]), 64, 24).pred_instances
    assert found.bboxes[:, :2].round().tolist() == [[20, 10]]


def test_nothing_is_found_in_padding():
    class InPadding(BrightPixels):
        def test_step(self, data):
            samples = super().test_step(data)
            for sample in samples:
                sample.pred_instances.bboxes[:, 0] = 60
            return samples

    image = spots(40, 50, [(20, 10)])
    assert len(detect_large_image(InPadding(), image, 64, 24).pred_instances) == 0


def test_several_scales():
    model = BrightPixels()
    detect_large_image(model, spots(120, 150, PLACES), 64, 24, ratios=(0.5, 1.0))
    plain = BrightPixels()
    detect_large_image(plain, spots(120, 150, PLACES), 64, 24)
    # Windows of 64 pixels every 40, of 128 every 80; the picture fills the larger ones by less than 0.6 where it ends.
    assert (len(plain.sizes), len(model.sizes)) == (12, 12 + 2)


@pytest.mark.parametrize(('ratios', 'windows'), [((1.0,), 1), ((0.25,), 1), ((0.25, 0.5, 1.0), 3), ((1.0, 2.0), 1 + 9)])
def test_no_ratio_is_dropped(ratios, windows):
    # A picture that fills a sixteenth of the largest window.
    model = BrightPixels()
    detect_large_image(model, spots(64, 64, [(20, 10)]), 64, 16, ratios=ratios)
    assert len(model.sizes) == windows


def test_objects_are_shown_as_large_as_in_training():
    cfg = ConfigDict(BrightPixels().cfg)
    assert default_patch(cfg) == 64 and shown_scale(cfg, 64) == 1 and shown_scale(cfg, 256) == 0.25
    cfg.patch_size = 40
    assert default_patch(cfg) == 40 and shown_scale(cfg, 40) == 1.6
    without = ConfigDict(test_dataloader=dict(dataset=dict(pipeline=[PIPELINE[0], PIPELINE[-1]])))
    with pytest.raises(ValueError, match='neither patch_size nor a Resize.*--patch'):
        default_patch(without)


@pytest.mark.parametrize(
    ('resize', 'patch', 'scale'),
    [
        (dict(type='mmdet.Resize', scale=64), 64, 1.0),
        (dict(type='mmdet.Resize', scale_factor=2.0), None, 2.0),
        (dict(type='mmdet.RandomResize', scale=[(32, 32), (64, 64)]), None, 1.0),
    ],
)
def test_other_ways_to_resize(resize, patch, scale):
    cfg = ConfigDict(test_dataloader=dict(dataset=dict(pipeline=[PIPELINE[0], resize, PIPELINE[-1]])))
    assert shown_scale(cfg, 64) == scale
    if patch:
        assert default_patch(cfg) == patch
    else:
        with pytest.raises(ValueError, match='--patch'):
            default_patch(cfg)


def test_a_small_picture_is_shown_at_the_scale_of_a_patch():
    class Scale(BrightPixels):
        def test_step(self, data):
            self.scales = [sample.scale_factor for sample in data['data_samples']]
            return super().test_step(data)

    model = Scale()
    detect_large_image(model, spots(20, 30, [(20, 10)]), 40, 8)
    assert model.scales == [(1.6, 1.6)]


@pytest.mark.parametrize('overlap', [0, 64, 100])
def test_impossible_overlap(overlap):
    with pytest.raises(ValueError, match=f'overlap must be between 0 and the side of a patch, 64, not {overlap}'):
        detect_large_image(BrightPixels(), spots(80, 80, []), 64, overlap)


def test_gray_array_is_refused():
    with pytest.raises(ValueError, match=r'must be \(H, W, 3\), not \(80, 80\)'):
        detect_large_image(BrightPixels(), np.zeros((80, 80), np.uint8), 64, 24)


def test_names_without_a_position():
    check_patch_names(['P0001__1024__0___824.png', 'a_b__160__8___16.jpg'])
    with pytest.raises(ValueError, match="2 of 3 names have no position, e.g. 'P0002.png'.*<image>__<size>__<x>___<y>"):
        check_patch_names(['P0001__1024__0___824.png', 'P0002.png', 'P0003__1024__7.png'])


def test_folders_of_patches(tmp_path):
    with pytest.raises(FileNotFoundError, match='has no pictures'):
        patch_files(tmp_path)
    for name in ('b__8__0___0.png', 'a__8__4___0.png', 'notes.txt'):
        (tmp_path / name).touch()
    files, suffix = patch_files(tmp_path)
    assert ([path.name for path in files], suffix) == (['a__8__4___0.png', 'b__8__0___0.png'], 'png')
    (tmp_path / 'c__8__0___0.jpg').touch()
    with pytest.raises(ValueError, match='several kinds, jpg, png'):
        patch_files(tmp_path)


def test_submission_is_refused_before_any_work(repo, tmp_path, capsys):
    from mmengine.config import Config

    config = repo / 'configs/o2detr/o2detr_refine-twostage_r50_2xb2-72e_hrsc.py'
    (tmp_path / 'P1.png').touch()
    checkpoint = tmp_path / 'weights.pth'
    checkpoint.touch()
    arguments = ['submit', str(config), str(checkpoint), str(tmp_path), '--out', str(tmp_path / 'out')]
    assert main(arguments) == 1
    assert '1 of 1 names have no position' in capsys.readouterr().err
    (tmp_path / 'P1.png').rename(tmp_path / 'P1__8__0___0.png')
    with pytest.raises(ValueError, match='tests on a HRSCDataset; a submission needs a DOTADataset'):
        submission_config(Config.fromfile(config), tmp_path, tmp_path / 'out')
    assert main([*arguments[:2], 'absent.pth', *arguments[3:]]) == 1
    assert 'not found: absent.pth' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_detect_writes_json_and_polygons(monkeypatch, tmp_path, capsys):
    model = BrightPixels()
    model.cfg.patch_size = 80
    model.dataset_meta = dict(classes=('spot',), palette=[(255, 0, 0)])
    monkeypatch.setattr('mmdet.apis.init_detector', lambda *args, **kwargs: model)
    for name in ('c.py', 'w.pth'):
        (tmp_path / name).touch()
    cv2.imwrite(str(tmp_path / 'frame.png'), spots(120, 150, PLACES))
    command = ['detect', tmp_path / 'c.py', tmp_path / 'w.pth', tmp_path / 'frame.png', '-o', tmp_path / 'out']
    arguments = [*map(str, command), '--patch', '64', '--overlap', '24']
    assert main(arguments) == 0, capsys.readouterr().err
    expected = 'patches of 64 pixels, overlap 24, enlarged 1 times; those of 80 that training shows, 0.8 times'
    assert expected in capsys.readouterr().out
    data = json.loads((tmp_path / 'out/frame.json').read_text())
    assert data['classes'] == ['spot'] and [len(box) for box in data['bboxes']] == [5] * 5 and data['labels'] == [0] * 5
    drawn = cv2.imread(str(tmp_path / 'out/frame.jpg')).astype(int)
    assert drawn.shape == (120, 150, 3) and np.ptp(drawn, axis=2).max() > 60
    (tmp_path / 'frame.png').write_text('no picture')
    assert main(arguments) == 1 and 'is not a picture' in capsys.readouterr().err
    assert main([*arguments[:3], 'absent.png', *arguments[4:]]) == 1
    assert 'not found: absent.png' in capsys.readouterr().err
