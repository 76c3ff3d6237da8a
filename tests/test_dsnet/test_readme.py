"""The configs of the README, laid over those of the hosts."""

import pytest

pytest.importorskip('mmdet.models')

PRETRAIN = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
DETECT = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
# Of each ``model = …``: what it is laid over, and what is then where.
SNIPPETS = [(PRETRAIN, 'backbone', 'DSNet'), (DETECT, 'backbone', 'DSNet'), (DETECT, 'neck', 'DSFPN')]


@pytest.mark.parametrize('number', range(len(SNIPPETS)))
def test_it_builds(readme_models, build_over, number):
    base, part, kind = SNIPPETS[number]
    models = readme_models('dsnet')
    assert len(models) == len(SNIPPETS)
    assert type(getattr(build_over(base, 'dsnet', models[number]), part)).__name__ == kind
