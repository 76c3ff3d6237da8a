"""Weights of a network from any file, and into a network without leaving holes."""

import functools
import sys
import threading
import types
from collections import OrderedDict
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torch import nn

from mmplugins.utils.weights import is_torchscript, load_strictly, read_weights


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize('wrapper', [None, 'state_dict', 'model', 'module', 'teacher'])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_checkpoints_of_torch(network, tmp_path, wrapper, prefix):
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({wrapper: state, 'epoch': 3} if wrapper else state, tmp_path / 'a.pth')
    assert_same(read_weights(tmp_path / 'a.pth'), network.state_dict())


def test_safetensors(network, tmp_path):
    save_file = pytest.importorskip('safetensors.torch').save_file
    save_file(network.state_dict(), tmp_path / 'a.safetensors')
    assert_same(read_weights(tmp_path / 'a.safetensors'), network.state_dict())
    torch.save(network.state_dict(), tmp_path / 'pickle.safetensors')  # is not read as anything else
    with pytest.raises(ValueError, match='pickle.safetensors is not a checkpoint that can be read safely'):
        read_weights(tmp_path / 'pickle.safetensors')


def test_address_with_a_question(network, tmp_path):
    np.savez(tmp_path / 'a.npz', **network.state_dict())
    folder = functools.partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(('127.0.0.1', 0), folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = read_weights(f'http://127.0.0.1:{server.server_port}/a.npz?download=true')
        server.shutdown()
    assert_same(found, network.state_dict())


def test_torchscript(network, tmp_path):
    torch.jit.script(network).save(str(tmp_path / 'a.pt'))
    torch.save(network.state_dict(), tmp_path / 'b.pt')
    assert is_torchscript(tmp_path / 'a.pt') and not is_torchscript(tmp_path / 'b.pt')
    assert_same(read_weights(tmp_path / 'a.pt'), network.state_dict())


def test_whole_module_of_dall_e(tmp_path, monkeypatch):
    """OpenAI's file is a pickled module of the package `dall_e`, which need not be there to read it."""

    def of(home, name):
        cls = type(name, (nn.Module,), {'__module__': f'dall_e.{home}'})
        setattr(modules[f'dall_e.{home}'], name, cls)
        return cls()

    modules = {name: types.ModuleType(name) for name in ('dall_e', 'dall_e.encoder', 'dall_e.utils')}
    encoder, block, conv = of('encoder', 'Encoder'), of('encoder', 'EncoderBlock'), of('utils', 'Conv2d')
    encoder.device, encoder.group_count = torch.device('cpu'), 4
    conv.w, conv.b = nn.Parameter(torch.randn(4, 3, 1, 1), requires_grad=False), nn.Parameter(torch.randn(4))
    block.id_path, block.res_path = nn.Identity(), nn.Sequential(OrderedDict(relu_1=nn.ReLU(), conv_1=conv))
    encoder.blocks = nn.Sequential(OrderedDict(group_1=nn.Sequential(OrderedDict(block_1=block, pool=nn.MaxPool2d(2)))))
    expected = encoder.state_dict()
    with monkeypatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        torch.save(encoder, tmp_path / 'encoder.pkl')
    assert_same(read_weights(tmp_path / 'encoder.pkl'), expected)


def test_what_cannot_be_read_is_told(network, tmp_path):
    torch.save(network, tmp_path / 'whole.pth')  # classes that are not known to be harmless
    torch.save({'epoch': 3}, tmp_path / 'empty.pth')
    with pytest.raises(ValueError, match='whole.pth is not a checkpoint that can be read safely'):
        read_weights(tmp_path / 'whole.pth')
    with pytest.raises(ValueError, match=r"empty.pth holds no weights; its keys are \['epoch'\]"):
        read_weights(tmp_path / 'empty.pth')
    with pytest.raises(FileNotFoundError, match='absent.pth'):
        read_weights(tmp_path / 'absent.pth')


def test_loading_leaves_no_hole(network):
    other = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    state = {f'backbone.{name}': value for name, value in network.state_dict().items()}
    load_strictly(other, {**state, 'head.weight': torch.zeros(1)}, 'a.pth')
    assert_same(other.state_dict(), network.state_dict())
    del state['backbone.0.weight']
    with pytest.raises(
        ValueError, match=r'a.pth does not fit Sequential: 1 weights differ \(0.weight: .* nothing found'
    ):
        load_strictly(other, state, 'a.pth')
