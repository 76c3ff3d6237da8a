import numpy as np
import pytest
import torch

from mmplugins.hgkd.weights import read_checkpoint

WEIGHTS = {'0.weight': torch.randn(2, 3), '0.bias': torch.randn(2)}


@pytest.mark.parametrize('key', [None, 'state_dict', 'model', 'module', 'teacher'])
def test_layouts_of_torch_files(tmp_path, key):
    torch.save({key: WEIGHTS, 'epoch': 3} if key else WEIGHTS, tmp_path / 'x.pth')
    found = read_checkpoint(tmp_path / 'x.pth')
    assert found['meta'] == {} and set(found['state_dict']) == set(WEIGHTS)
    assert torch.equal(found['state_dict']['0.bias'], WEIGHTS['0.bias'])


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_plain_files(tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    if suffix == '.npz':
        np.savez(path, **{key: value.numpy() for key, value in WEIGHTS.items()})
    else:
        pytest.importorskip('safetensors.torch').save_file(WEIGHTS, path)
    found = read_checkpoint(path)['state_dict']
    assert all(torch.equal(found[key], WEIGHTS[key]) for key in WEIGHTS)


class Evil:
    def __reduce__(self):
        return (print, ('code of the checkpoint runs',))


def test_no_code_of_the_file_runs(tmp_path, capsys):
    torch.save(dict(state_dict=WEIGHTS, meta=Evil()), tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='evil.pth is not a checkpoint that can be read safely'):
        read_checkpoint(tmp_path / 'evil.pth')
    assert 'code of' not in capsys.readouterr().out


@pytest.mark.parametrize('content', [dict(epoch=3), [1, 2]], ids=['dict', 'list'])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='x.pth holds'):
        read_checkpoint(tmp_path / 'x.pth')


@pytest.mark.parametrize('suffix', ['.pth', '.npz', '.safetensors'])
def test_truncated_files(tmp_path, suffix):
    path = tmp_path / f'x{suffix}'
    if suffix == '.npz':
        np.savez(path, **{key: value.numpy() for key, value in WEIGHTS.items()})
    elif suffix == '.safetensors':
        pytest.importorskip('safetensors.torch').save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match='cannot|read safely'):
        read_checkpoint(path)
