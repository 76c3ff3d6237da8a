"""Public layouts, written by a network with the names of the public code, become weights that compute the same."""

import argparse
import os
import pickle

import numpy as np
import pytest
import torch
from mmpretrain.registry import MODELS

from mmplugins.dsnet.__main__ import main
from mmplugins.dsnet.convert import convert, read_paddle

ARCH = dict(embed_dims=(64, 128, 64, 128), depths=(1, 2, 1, 1), num_heads=(1, 2, 1, 2), global_ratios=(8, 4, 2, 2))


@pytest.fixture
def upstream(literal_net):
    return literal_net(**ARCH, classes=7)


def load(path) -> torch.nn.Module:
    """A classifier with the weights of a converted file, all of them and no others."""
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='DSNet', arch=ARCH),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=7, in_channels=128),
        )
    )
    model.load_state_dict(torch.load(path, weights_only=True)['state_dict'], strict=True)
    return model.eval()


def to_paddle(net: torch.nn.Module) -> dict[str, np.ndarray]:
    """The layout of Paddle: linear weights ``(in, out)``, other names of statistics, no counters, a table of names."""
    linear = {f'{name}.weight' for name, m in net.named_modules() if isinstance(m, torch.nn.Linear)}
    names = {'running_mean': '_mean', 'running_var': '_variance'}
    found = {}
    for key, value in net.state_dict().items():
        module, _, name = key.rpartition('.')
        if name != 'num_batches_tracked':
            value = value.T if key in linear else value
            found[f'{module}.{names.get(name, name)}'] = value.numpy().copy()
    found['StructuredToParameterName@@'] = {key: f'parameter_{i}' for i, key in enumerate(found)}
    return found


def same(path, upstream) -> None:
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(load(path)(x, mode='tensor'), upstream(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(model=s, epoch=3, args=argparse.Namespace(lr=1.0))])
def test_torch(wrap, upstream, tmp_path, capsys):
    torch.save(wrap(upstream.state_dict()), tmp_path / 'public.pth')
    assert main(['convert', str(tmp_path / 'public.pth'), str(tmp_path / 'out/ours.pth')]) == 0
    count = sum(parameter.numel() for parameter in upstream.parameters())
    assert f'ours.pth: {count:,} parameters' in capsys.readouterr().out
    assert os.listdir(tmp_path / 'out') == ['ours.pth']
    same(tmp_path / 'out/ours.pth', upstream)


def test_torch_ema(upstream, literal_net, tmp_path):
    other = {f'module.{key}': value for key, value in literal_net(**ARCH, classes=7).state_dict().items()}
    content = dict(model=other, model_ema=upstream.state_dict())
    torch.save(content, tmp_path / 'public.pth')
    assert main(['convert', str(tmp_path / 'public.pth'), str(tmp_path / 'ours.pth'), '--ema']) == 0
    same(tmp_path / 'ours.pth', upstream)


@pytest.mark.parametrize('protocol', [2, 4, 5])
@pytest.mark.parametrize('named', [False, True], ids=['arrays', 'pairs'])
def test_paddle(protocol, named, upstream, tmp_path):
    content = to_paddle(upstream)
    if named:
        content = {key: (key, value) if isinstance(value, np.ndarray) else value for key, value in content.items()}
    (tmp_path / 'public.pdparams').write_bytes(pickle.dumps(content, protocol))
    assert main(['convert', str(tmp_path / 'public.pdparams'), str(tmp_path / 'ours.pth')]) == 0
    same(tmp_path / 'ours.pth', upstream)


def test_back_is_what_it_was(upstream, literal_net, tmp_path):
    """Also into a fresh network of the public code, which then computes what ours does."""
    torch.save(upstream.state_dict(), tmp_path / 'public.pth')
    assert main(['convert', str(tmp_path / 'public.pth'), str(tmp_path / 'ours.pth')]) == 0
    assert main(['convert', str(tmp_path / 'ours.pth'), str(tmp_path / 'back.pth'), '--back']) == 0
    found = torch.load(tmp_path / 'back.pth', weights_only=True)['model']
    assert found.keys() == upstream.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in upstream.state_dict().items())
    literal_net(**ARCH, classes=7).load_state_dict(found, strict=True)


def test_no_way_back_for_what_the_public_code_has_not(upstream, tmp_path, capsys):
    state = convert(upstream.state_dict())
    torch.save(dict(state_dict={**state, 'backbone.norm0.weight': torch.ones(64)}), tmp_path / 'ours.pth')
    assert main(['convert', str(tmp_path / 'ours.pth'), str(tmp_path / 'back.pth'), '--back']) == 1
    assert 'the public code has no weight like backbone.norm0.weight' in capsys.readouterr().err


@pytest.mark.parametrize('ratio', [0.0, 0.25, 1.0])
def test_no_way_back_for_streams_of_different_widths(ratio, tmp_path, capsys):
    net = MODELS.build(dict(type='DSNet', arch=ARCH, split_ratio=ratio, inter_scale_align=False))
    torch.save(dict(state_dict={f'backbone.{key}': value for key, value in net.state_dict().items()}), tmp_path / 'a')
    assert main(['convert', str(tmp_path / 'a'), str(tmp_path / 'back.pth'), '--back']) == 1
    local, wide = 64 - int(64 * ratio), int(64 * ratio)
    message = f'the streams of backbone.stages.0.0.* have {local} (local) and {wide} (global) channels'
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'back.pth').exists()


def test_both_layouts_give_the_same_weights(upstream, tmp_path):
    (tmp_path / 'public.pdparams').write_bytes(pickle.dumps(to_paddle(upstream), 2))
    expected, found = convert(upstream.state_dict()), convert(read_paddle(tmp_path / 'public.pdparams'))
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_without_head(upstream):
    state = convert({key: value for key, value in upstream.state_dict().items() if not key.startswith('head.')})
    assert not [key for key in state if not key.startswith('backbone.')]


class Malicious:
    def __reduce__(self):
        return os.mkdir, ('hacked',)


def test_a_pickle_cannot_run_code(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.pdparams').write_bytes(pickle.dumps(dict(a=Malicious())))
    torch.save(dict(model=Malicious()), tmp_path / 'a.pth')
    for name in ('a.pdparams', 'a.pth'):
        assert main(['convert', name, 'b.pth']) == 1
        assert 'mkdir' in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ['a.pdparams', 'a.pth']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.update(fc=torch.zeros(1)), 'fc is the name of no weight of DS-Net'),
        (lambda s: s.update({'blocks1.0.attn.weight': torch.zeros(1)}), 'blocks1.0.attn.weight is the name of no'),
        (lambda s: s.pop('blocks2.1.conv.weight'), '1 weights are missing, too many or of another shape'),
        (lambda s: s.pop('norm.bias'), 'backbone.norm3.bias for one'),
        (lambda s: s.update({'head.bias': torch.zeros(3)}), 'head.fc.bias for one'),
        (lambda s: s.pop('patch_embed3.proj.weight'), 'not the weights of a whole DS-Net'),
        (lambda s: s.clear(), 'not the weights of a whole DS-Net'),
    ],
    ids=['unknown', 'unknown block', 'missing', 'missing norm', 'shape', 'no stage', 'empty'],
)
def test_wrong_weights(change, message, upstream, tmp_path, capsys):
    state = dict(upstream.state_dict())
    change(state)
    torch.save(state, tmp_path / 'public.pth')
    assert main(['convert', str(tmp_path / 'public.pth'), str(tmp_path / 'ours.pth')]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'ours.pth').exists()


@pytest.mark.parametrize(
    ('name', 'content', 'options', 'message'),
    [
        ('missing.pth', None, [], 'No such file'),
        ('missing.pdparams', None, [], 'No such file'),
        ('a.pth', b'text', [], 'is not a checkpoint that can be read safely'),
        ('a.pdparams', b'text', [], 'is no file of Paddle weights'),
        ('a.pdparams', pickle.dumps([1]), [], 'is no file of Paddle weights'),
        ('a.pdparams', pickle.dumps({'a.b': 'text'}), [], 'is no file of Paddle weights'),
        ('a.pth', dict(model=3), [], "has no weights under 'model'"),
        ('a.pth', dict(model={}), ['--ema'], "has no weights under 'model_ema'"),
        ('a.pth', dict(model={}), ['--back'], "has no weights under 'state_dict'"),
        ('a.pth', dict(state_dict={}), ['--back', '--ema'], '--ema is for public checkpoints of PyTorch'),
        ('a.pdparams', pickle.dumps({}), ['--ema'], '--ema is for public checkpoints of PyTorch'),
    ],
)
def test_wrong_files(name, content, options, message, tmp_path, capsys):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    assert main(['convert', str(path), str(tmp_path / 'ours.pth'), *options]) == 1
    assert message in capsys.readouterr().err
