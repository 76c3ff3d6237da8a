"""The configs of the README, laid over those of the hosts."""

import pytest

from mmplugins.spsa import SPSA

pytest.importorskip('mmdet.models')

PRETRAIN = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
DETECT = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
# Of each ``model = …``: what it is laid over, and which backbone it then has.
SNIPPETS = [(DETECT, 'ResNet'), (PRETRAIN, 'SPSANet'), (DETECT, 'SPSANet'), (PRETRAIN, 'ResNet')]


@pytest.mark.parametrize('number', range(len(SNIPPETS)))
def test_it_builds(readme_models, build_over, number):
    base, kind = SNIPPETS[number]
    models = readme_models('spsa')
    assert len(models) == len(SNIPPETS)
    found = build_over(base, 'spsa', models[number]).backbone
    assert type(found).__name__ == kind
    assert any(isinstance(module, SPSA) for module in found.modules())
