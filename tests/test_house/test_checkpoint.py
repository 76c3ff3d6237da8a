"""Reading checkpoints: weights come back, code does not run."""

import argparse

import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer

from mmplugins.utils.checkpoint import load_without_code


class Payload:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def test_weights_are_read_and_logs_are_not(tmp_path):
    content = dict(
        state_dict={'a.weight': torch.randn(2, 3)},
        meta=dict(epoch=3, name='x'),
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1]))),
        args=argparse.Namespace(lr=0.1),
    )
    torch.save(content, tmp_path / 'a.pth')
    found = load_without_code(tmp_path / 'a.pth')
    assert torch.equal(found['state_dict']['a.weight'], content['state_dict']['a.weight'])
    assert found['meta'] == content['meta'] and not hasattr(found['args'], 'lr')


@pytest.mark.parametrize(
    'payload',
    [Payload(print, 'run!'), Payload(getattr, 'text', 'upper'), Payload(eval, '1 + 1')],
    ids=['print', 'getattr', 'eval'],
)
def test_no_function_of_the_file_is_called(tmp_path, capsys, payload):
    torch.save(dict(state_dict={}, meta=payload), tmp_path / 'evil.pth')
    if payload.call[0] is getattr:  # mmengine's logs name it: it is read as something empty
        assert not callable(load_without_code(tmp_path / 'evil.pth')['meta'])
    else:
        with pytest.raises(ValueError, match='evil.pth is not a checkpoint that can be read safely'):
            load_without_code(tmp_path / 'evil.pth')
    assert 'run!' not in capsys.readouterr().out


def test_broken_and_absent_files_are_told(tmp_path):
    torch.save(dict(a=torch.zeros(10)), tmp_path / 'half.pth')
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'half.pth').read_bytes()[:200])
    with pytest.raises(ValueError, match='half.pth is not a checkpoint'):
        load_without_code(tmp_path / 'half.pth')
    with pytest.raises(FileNotFoundError):
        load_without_code(tmp_path / 'absent.pth')
