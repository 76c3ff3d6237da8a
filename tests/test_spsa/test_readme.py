"""The configs of the README, laid over those of the hosts."""

import re

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmplugins.spsa import SPSA

pytest.importorskip('mmdet.models')

PRETRAIN = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
DETECT = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
# Of each ``model = …``: what it is laid over, and what is then where.
SNIPPETS = [
    (DETECT, 'backbone', 'ResNet'),
    (PRETRAIN, 'backbone', 'SPSANet'),
    (DETECT, 'backbone', 'SPSANet'),
    (PRETRAIN, 'backbone', 'ResNet'),
]


@pytest.fixture
def snippets(repo):
    text = (repo / 'projects/spsa/README.md').read_text(encoding='utf-8')
    text = text.partition('## Use it in your config')[2].partition('\n## ')[0]
    code = ''.join(re.findall(r'```python\n(.*?)```', text, re.DOTALL))
    return re.findall(r'^model = \S.*\n(?:[ )].*\n)*', code, re.MULTILINE)


@pytest.mark.parametrize('number', range(len(SNIPPETS)))
def test_it_builds(snippets, number, tmp_path):
    base, part, kind = SNIPPETS[number]
    assert len(snippets) == len(SNIPPETS)
    imports = "custom_imports = dict(imports=['mmplugins.spsa'], allow_failed_imports=False)"
    (tmp_path / 'mine.py').write_text(f'_base_ = {base!r}\n{imports}\n{snippets[number]}')
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    found = getattr(MODELS.build(cfg.model), part)
    assert type(found).__name__ == kind
    assert any(isinstance(module, SPSA) for module in found.modules())
