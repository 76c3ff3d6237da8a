"""What is looked at before a training, and the verb that prints it."""

import re

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmplugins.hgkd import hook
from mmplugins.hgkd.__main__ import main
from mmplugins.hgkd.check import random_teacher
from mmplugins.hgkd.teachers.probe import check_teacher, noise_image
from mmplugins.hgkd.teachers.provider import TeacherProvider

transformers = pytest.importorskip('transformers')


class Patches(nn.Module):
    """Tokens of a convolution of 8 pixels, in an order of choice."""

    def __init__(self, order=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.order, self.last = nn.Conv2d(3, 16, 8, 8), order, nn.Identity()

    def forward(self, x):
        tokens = self.conv(x).flatten(2).transpose(1, 2)
        order = torch.randperm(tokens.shape[1]) if self.order == 'random' else self.order
        return self.last(tokens if order is None else tokens[:, order])


def check(network, size=(48, 64), taps=('last',), **options):
    return check_teacher(TeacherProvider(network, taps, **options), noise_image(3, size))


def test_tokens_in_their_order():
    (target,) = check(Patches())
    assert target.shape == (1, 16, 6, 8)


def test_another_order_in_each_pass():
    with pytest.raises(ValueError, match="two passes over one image differ at the tap 'last'"):
        check(Patches('random'))


@pytest.mark.parametrize('order', ['columns first', 'shuffled'])
def test_tokens_in_another_order(order):
    index = torch.arange(48).view(6, 8).t().flatten() if order == 'columns first' else torch.randperm(48)
    with pytest.raises(ValueError, match='lit patch is not found at its place'):
        check(Patches(index))


def test_transformers_mae_shuffles_whatever_its_mask_ratio():
    config = transformers.ViTMAEConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=64, mask_ratio=0.0
    )
    with pytest.raises(ValueError, match='two passes over one image differ'):
        check(transformers.ViTMAEModel(config), (64, 64), ['layernorm'])


def test_hiera_before_and_in_its_last_stage():
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    hiera = timm.models.hiera.Hiera(img_size=(96, 96), embed_dim=16, num_heads=1, stages=(1, 1, 1, 1))
    with pytest.raises(ValueError, match='lit patch is not found at its place'):
        check(hiera, (96, 96), ['blocks.1'])
    assert check(hiera, (96, 96), ['blocks.3'])[0].shape[2:] == (3, 3)


class TestVerb:
    def test_masked_student(self, repo, capsys):
        assert main(['check', str(repo / 'configs/hgkd/hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10.py')]) == 0
        text = capsys.readouterr().out
        assert 'teacher: MAEViT, 0.53 M parameters, mode full' in text
        assert 'layers.3: 96 channels, grid 6 x 6, a position is 16 x 16 pixels' in text
        assert 'it sees 4 of 3 x 3 cells of 32 pixels' in text
        kept = int(re.search(r'(\d+) kept by backbone and neck for a batch of 40', text)[1])
        assert kept > 60  # of the backbone alone it would be 42

    def test_a_teacher_in_half_precision(self, repo, tmp_path, capsys):
        """It is float16 on the GPUs of the training, float32 here."""
        cfg = Config.fromfile(repo / 'configs/hgkd/hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10.py')
        cfg.custom_hooks[1].autocast = 'float16'
        cfg.dump(tmp_path / 'mine.py')
        assert main(['check', str(tmp_path / 'mine.py'), '--random']) == 0
        assert 'layers.3: 96 channels, grid 6 x 6' in capsys.readouterr().out

    @pytest.mark.slow
    def test_a_paper_scale_config(self, repo, capsys):
        config = repo / 'configs/hgkd/hgkd_sparse-r50_mae-base_8xb512-amp-coslr-300e_in1k.py'
        assert main(['check', str(config), '--random']) == 0
        assert 'layers.11: 768 channels, grid 14 x 14' in capsys.readouterr().out

    @pytest.mark.slow
    def test_detector(self, repo, capsys):
        pytest.importorskip('mmdet.models')
        config = repo / 'configs/hgkd/retinanet_r18-w16_vit-tiny_1xb8-8e_bccd.py'
        assert main(['check', str(config), '--random']) == 0
        text = capsys.readouterr().out
        assert 'the teacher sees (3, 192, 256), normalized with mean [127.5, 127.5, 127.5]' in text
        assert 'blocks.11: 192 channels, grid 12 x 16' in text and 'student backbone.layer3: 64 channels' in text

    @pytest.mark.parametrize('top_level', [True, False])
    def test_teacher_sees_pixels_as_in_the_run(self, repo, tmp_path, monkeypatch, top_level):
        """From a preprocessor in the model, and from one beside it, which the runner puts into the model."""
        cfg = Config.fromfile(repo / 'configs/hgkd/hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10.py')
        if top_level:
            cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
        cfg.custom_hooks[1].input_norm = dict(mean=[127.5] * 3, std=[50.0] * 3)
        cfg.dump(tmp_path / 'mine.py')
        seen = {}
        monkeypatch.setattr(hook, 'TeacherProvider', lambda *args, **kwargs: seen.update(kwargs) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(['check', str(tmp_path / 'mine.py')])
        scale, shift = seen['input_norm']
        assert scale == pytest.approx([58.395 / 50, 57.12 / 50, 57.375 / 50])
        assert shift == pytest.approx([(123.675 - 127.5) / 50, (116.28 - 127.5) / 50, (103.53 - 127.5) / 50])

    def test_config_without_a_teacher(self, repo, capsys):
        assert main(['check', str(repo / 'configs/hgkd/resnet50_8xb256-coslr-300e_in1k_from-hgkd.py')]) == 1
        assert 'has 0 GenerativeDistillHook' in capsys.readouterr().err


@pytest.mark.parametrize('kind', ['transformers.Dinov2Model.from_pretrained', 'CLIPGenerator'])
def test_random_weights_of_what_always_reads_some(kind):
    with pytest.raises(ValueError, match=f'--random cannot build a teacher of {kind}, which reads its weights'):
        random_teacher(dict(type=kind, pretrained_model_name_or_path='nobody/nothing'))


def test_random_weights_read_no_file(tmp_path):
    pytest.importorskip('timm')
    cfg = dict(type='timm.create_model', model_name='resnet18', checkpoint_path=str(tmp_path / 'absent.pth'))
    assert sum(parameter.numel() for parameter in random_teacher(cfg).parameters()) > 1e7
