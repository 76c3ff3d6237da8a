"""The config of the README loads and builds."""

import re

from mmengine.config import Config
from mmrotate.registry import MODELS

from mmplugins.o2detr import O2DETR


def test_config_of_the_page_builds(repo, tmp_path):
    page = (repo / 'projects/o2detr/README.md').read_text(encoding='utf-8')
    (code,) = re.findall(r'```python\n(_base_.*?)```', page, re.DOTALL)
    path = tmp_path / 'mine.py'
    path.write_text(code.replace("'./", f"'{repo}/configs/o2detr/"))  # beside ours, as the page says
    model = MODELS.build(Config.fromfile(path).model)
    assert isinstance(model, O2DETR) and model.dn_cfg and type(model.bbox_head.loss_cls).__name__ == 'QualityFocalLoss'
