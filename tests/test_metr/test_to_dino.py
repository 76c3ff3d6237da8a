"""METR's weights in the host's own detectors."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict

from mmplugins.metr.__main__ import main
from mmplugins.metr.positions import matched
from mmplugins.metr.to_dino import DROPPED, POSITIONS, convert, host_config, load_state_dict

HOST = {'METR': 'DINO', 'DeformableMETR': 'DeformableDETR'}


@pytest.fixture(params=sorted(HOST))
def trained(request, detector_cfg, tmp_path):
    """Config, checkpoint and weights of a detector, as a training run leaves them."""
    cfg = Config(dict(model=detector_cfg(request.param)))
    # Weights that no initialization gives, so that a weight that was not taken over shows.
    state = {
        key: torch.randn_like(value.float())
        for key, value in MODELS.build(copy.deepcopy(cfg.model)).state_dict().items()
    }
    cfg.dump(tmp_path / 'metr.py')
    torch.save(dict(state_dict=state, meta=dict(epoch=1)), tmp_path / 'metr.pth')
    return cfg, tmp_path, state


def test_host_takes_over_all_but_its_own_parts(trained):
    cfg, folder, state = trained
    arguments = [folder / 'metr.py', folder / 'metr.pth', '--num-classes', 7, '--num-queries', 12]
    assert main(['to-dino', *map(str, arguments), '--out', str(folder / 'host.pth')]) == 0
    host = Config.fromfile(folder / 'host.py')
    assert list(host) == ['model']  # so that it can stand in `_base_` beside any other file
    assert host.model.type == HOST[cfg.model.type]
    detector = MODELS.build(host.model)
    result = detector.load_state_dict(torch.load(folder / 'host.pth', weights_only=True)['state_dict'], strict=False)
    assert not result.unexpected_keys
    assert all(key.startswith(DROPPED) for key in result.missing_keys)
    for part in ('backbone', 'neck', 'encoder', 'decoder', 'bbox_head.reg_branches', 'memory_trans_fc', 'level_embed'):
        taken = {key: value for key, value in detector.state_dict().items() if key.startswith(part)}
        assert taken
        for key, value in taken.items():
            expected = matched(state[key], value.size(1)) if key == POSITIONS else state[key]
            assert torch.equal(value.float(), expected), key


@pytest.mark.parametrize('trained', ['METR'], indirect=True)
def test_its_config_stands_beside_the_runtime(trained):
    _, folder, _ = trained
    arguments = [folder / 'metr.py', folder / 'metr.pth', '--num-classes', 7, '--out', folder / 'host.pth']
    assert main(['to-dino', *map(str, arguments)]) == 0
    child = folder / 'child.py'
    child.write_text("_base_ = ['host.py', 'mmdet::_base_/default_runtime.py']\nload_from = 'host.pth'\n")
    assert Config.fromfile(child).model.type == 'DINO'


@pytest.mark.parametrize('trained', ['METR'], indirect=True)
def test_converted_host_trains(trained, mixed_batch):
    # Not Deformable DETR: the host's own works with 256 channels only (`get_proposal_pos_embed`).
    cfg, _, _ = trained
    model = host_config(cfg.model, num_classes=4, num_queries=12)
    detector = MODELS.build(copy.deepcopy(model))
    metr = MODELS.build(copy.deepcopy(cfg.model))
    for built in (metr, detector):
        built.init_weights()  # the host makes `level_embed` of memory as it finds it
    detector.load_state_dict(convert(metr.state_dict(), model), strict=False)
    detector.train()
    data = detector.data_preprocessor(mixed_batch, True)
    loss, _ = detector.parse_losses(detector.loss(data['inputs'], data['data_samples']))
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize('trained', ['METR'], indirect=True)
def test_what_the_config_leaves_to_the_head_and_what_it_imports(trained, mixed_batch, monkeypatch, capsys):
    """A head of defaults, no denoising; a backbone of another plugin that starts from a file that is not here."""
    cfg, folder, _ = trained
    cfg.model.bbox_head = dict(type='METRHead', embed_dims=32, prior_prob=0.02)
    cfg.model.dn_cfg = None
    metr = MODELS.build(copy.deepcopy(cfg.model))
    metr.init_weights()  # the host makes `level_embed` of memory as it finds it
    torch.save(dict(state_dict=metr.state_dict()), folder / 'metr.pth')
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='no/such.pth')
    (folder / 'own_backbones.py').touch()
    monkeypatch.syspath_prepend(folder)
    cfg.custom_imports = dict(imports=['mmplugins.metr', 'own_backbones'], allow_failed_imports=False)
    cfg.dump(folder / 'metr.py')
    arguments = [folder / 'metr.py', folder / 'metr.pth', '--num-classes', 4, '--num-queries', 12]
    assert main(['to-dino', *map(str, arguments), '--out', str(folder / 'host.pth')]) == 0
    assert 'no denoising' in capsys.readouterr().out
    host = Config.fromfile(folder / 'host.py')
    assert host.custom_imports == dict(imports=['own_backbones'], allow_failed_imports=False)
    detector = MODELS.build(host.model)
    detector.init_weights()
    detector.load_state_dict(torch.load(folder / 'host.pth', weights_only=True)['state_dict'], strict=False)
    data = detector.train().data_preprocessor(mixed_batch, True)
    losses = detector.loss(data['inputs'], data['data_samples'])
    assert all(value.isfinite() for value in losses.values())
    assert losses['dn_loss_cls'] > 0


def test_config_of_another_model(trained, tmp_path, capsys):
    cfg, folder, state = trained
    wider = ConfigDict(cfg.model)
    wider.backbone = dict(cfg.model.backbone, base_channels=16)
    wider.neck = dict(cfg.model.neck, in_channels=[32, 64, 128])
    with pytest.raises(ValueError, match='do not belong together'):
        convert(state, host_config(wider, 4, 12))
    with pytest.raises(ValueError, match='FasterRCNN'):
        host_config(ConfigDict(type='FasterRCNN'), 4, 12)
    missing = ['to-dino', str(folder / 'metr.py'), str(folder / 'none.pth'), '--num-classes', '7', '--out', 'x.pth']
    assert main(missing) == 1
    assert 'none.pth' in capsys.readouterr().err


class Payload:
    """An object whose unpickling runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), 'w'))


def test_checkpoint_does_not_run_code(tmp_path):
    torch.save(dict(state_dict={}, meta=Payload(tmp_path / 'owned')), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='read safely'):
        load_state_dict(tmp_path / 'bad.pth')
    assert not (tmp_path / 'owned').exists()
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'bad.pth').read_bytes()[:200])
    with pytest.raises(ValueError, match='read safely'):
        load_state_dict(tmp_path / 'half.pth')
    torch.save(dict(weights={}), tmp_path / 'other.pth')
    with pytest.raises(ValueError, match='state_dict'):
        load_state_dict(tmp_path / 'other.pth')
