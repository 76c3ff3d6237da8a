"""Every command of docs/tools.md runs, in its order, on few images."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / 'docs/tools.md').read_text(encoding='utf-8')
COMMANDS = [line for block in re.findall(r'^```bash\n(.*?)^```', PAGE, re.M | re.S) for line in block.splitlines()]
FEW = ' --cfg-options ' + ' '.join(
    f'{part}_dataloader.{option}'
    for part in ('train', 'val', 'test')
    for option in ('dataset.indices=8', 'num_workers=0', 'persistent_workers=False')
)
# What mmengine calls of TensorBoard and wandb, which are not installed here; what they are given goes to files.
LOGGERS = """
import sys, types

def note(file, *names):
    with open(f'{folder}/{{file}}.log', 'a') as log:
        print(*names, file=log)

def nothing(*args, **kwargs):
    return None

class SummaryWriter:
    def __init__(self, folder): pass
    add_text = close = nothing
    def add_scalar(self, name, *args, **kwargs): note('tensorboard', name)

sys.modules['torch.utils.tensorboard'] = types.SimpleNamespace(SummaryWriter=SummaryWriter)
sys.modules['wandb'] = types.SimpleNamespace(
    init=lambda **kwargs: note('wandb', kwargs['project']), log=lambda scalars, **kwargs: note('wandb', *scalars),
    config=types.SimpleNamespace(update=nothing), run=types.SimpleNamespace(log_code=nothing),
    define_metric=nothing, join=nothing)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Return a folder with the page's config, and with the loggers pretended."""
    folder = tmp_path_factory.mktemp('tools')
    for name in ('configs', 'tests', 'tools'):
        (folder / name).symlink_to(ROOT / name)
    (folder / 'mine.py').write_text(re.search(r'^```python\n(.*?)^```', PAGE, re.M | re.S)[1])
    (folder / 'loggers').mkdir()
    (folder / 'loggers/sitecustomize.py').write_text(LOGGERS.format(folder=folder))
    return folder


@pytest.mark.parametrize('command', COMMANDS)
def test_command_of_the_page(command, folder, run):
    if command.startswith('python tools/'):
        command += FEW
    if command.startswith('python tools/train.py'):
        command += ' train_cfg.max_epochs=1 train_cfg.val_interval=1 default_hooks.logger.interval=1'
    command = command.replace('epoch_12.pth', 'epoch_1.pth')
    run('bash', '-ec', command, cwd=folder, env={'PYTHONPATH': str(folder / 'loggers')})


def test_what_they_leave(folder):
    assert 'loss_cls' in (folder / 'tensorboard.log').read_text()
    logged = (folder / 'wandb.log').read_text()
    assert logged.startswith('cells\n') and 'coco/bbox_mAP' in logged
    (scalars,) = folder.glob('work_dirs/mine/*/vis_data/scalars.json')
    assert {'loss_cls', 'coco/bbox_mAP'} <= {
        key for line in scalars.read_text().splitlines() for key in json.loads(line)
    }
    assert (folder / 'work_dirs/loss.png').is_file()
    assert len([file for file in (folder / 'work_dirs/look').rglob('*') if file.is_file()]) == 8
