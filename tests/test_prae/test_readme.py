"""The config of the README can be tested by the hosts' tools."""

import re

from mmengine.config import Config
from mmengine.runner import Runner


def test_config_of_the_page_makes_a_runner_that_tests(repo, tmp_path):
    page = (repo / 'projects/prae/README.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'```python\n(_base_.*?)```', page, re.DOTALL)
    (tmp_path / 'mine.py').write_text(code)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.type == 'EnsembleDetector' and len(cfg.model.detectors) == 2
    # Of members that are here; the runner refuses loaders without loops.
    cfg.model = Config.fromfile(repo / 'configs/prae/fcos_r18-w16_1xb8-12e_bccd.py').model
    cfg.work_dir = str(tmp_path)
    assert Runner.from_cfg(cfg).cfg.test_cfg.type == 'TestLoop'
