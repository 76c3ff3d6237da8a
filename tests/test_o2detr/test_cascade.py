"""Cascaded fine-tuning: a RoI head on the boxes of an O²DETR."""

import inspect
import itertools
import textwrap

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmrotate.structures.bbox import rbbox_overlaps

from mmplugins.o2detr.cascade import O2DETRCascade
from mmplugins.o2detr.match_costs import gaussian_kld

MOUNTED = ('roi_head.', 'roi_neck.')


def is_base(name):
    return not name.startswith(MOUNTED)


@pytest.fixture
def prepared(make_batch):
    def prepare(model, **kwargs):
        return model.data_preprocessor(make_batch(**kwargs), model.training).values()

    return prepare


@pytest.mark.parametrize('fpn', [False, True], ids=['neck', 'fpn'])
@pytest.mark.parametrize('num_stages', [1, 2, 3])
def test_frozen_base_gets_no_gradient(build_model, cascade_changes, prepared, num_stages, fpn):
    model = build_model(**cascade_changes(num_stages, fpn)).train()
    losses = model.loss(*prepared(model))
    assert {name.split('.')[0] for name in losses} == {f's{i}' for i in range(num_stages)}
    assert all(value.isfinite().all() for value in losses.values())
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    grads = {name: p.grad is not None for name, p in model.named_parameters()}
    assert not any(has for name, has in grads.items() if is_base(name))
    assert all(has for name, has in grads.items() if not is_base(name))


@pytest.mark.parametrize('roi_neck', [False, True], ids=['neck', 'roi_neck'])
def test_base_with_another_neck(build_model, cascade_changes, prepared, roi_neck):
    """The base's maps are those of the base alone, whatever else reads the backbone."""
    fpn = dict(type='mmdet.FPN', in_channels=[16, 32, 64], out_channels=32, num_outs=4, _delete_=True)
    base, model = build_model(neck=fpn).eval(), build_model(neck=fpn, **cascade_changes(fpn=roi_neck)).eval()
    model.load_state_dict(base.state_dict(), strict=False)
    inputs, samples = prepared(model)
    maps = model.extract_feat(inputs)[0]
    assert all(torch.equal(a, b) for a, b in zip(maps, base.extract_feat(inputs), strict=True))
    assert all(value.isfinite().all() for value in model.train().loss(inputs, samples).values())


def test_frozen_base_does_not_change_while_training(build_model, cascade_changes, prepared):
    model = build_model(**cascade_changes()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    losses = model.loss(*prepared(model))
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and not any(is_base(name) for name in changed)  # running statistics of norms included


def test_finetuned_base_learns_too(build_model, cascade_changes, prepared):
    model = build_model(**cascade_changes(finetune_base=True)).train()
    losses = model.loss(*prepared(model))
    assert {'loss_cls', 'loss_bbox', 'loss_iou', 's0.loss_cls', 's1.loss_cls'} <= set(losses)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize('finetune_base', [False, True])
def test_queries_made_of_true_boxes_propose_nothing(build_model, cascade_changes, prepared, finetune_base):
    groups = dict(dynamic=True, num_dn_queries=10)
    changes = dict(with_box_refine=True, as_two_stage=True, dn_cfg=dict(group_cfg=groups))
    model = build_model(**cascade_changes(finetune_base=finetune_base, **changes)).train()
    inputs, samples = prepared(model)
    maps, _ = model.extract_feat(inputs)
    head_inputs, proposals = model.forward_base(maps, samples)
    assert ('dn_meta' in head_inputs) == finetune_base
    # A base that learns learns from them too.
    assert ('dn_loss_cls' in model.loss(inputs, samples)) == finetune_base
    model.dn_cfg = None
    for found, expected in zip(proposals, model.forward_base(maps, samples)[1], strict=True):
        assert torch.allclose(found.scores, expected.scores, rtol=1e-4)
        assert torch.allclose(found.bboxes.tensor, expected.bboxes.tensor, rtol=1e-3, atol=1e-3)


def test_learning_rates_of_the_docstring(build_model, cascade_changes):
    model = build_model(**cascade_changes(finetune_base=True, fpn=True))
    keys = {'roi_head': dict(lr_mult=10), 'roi_neck': dict(lr_mult=10)}
    wrapper = build_optim_wrapper(
        model,
        dict(optimizer=dict(type='AdamW', lr=1e-5), type='OptimWrapper', paramwise_cfg=dict(custom_keys=keys)),
    )
    rate = {id(p): group['lr'] for group in wrapper.param_groups for p in group['params']}
    for name, p in model.named_parameters():
        assert rate[id(p)] == pytest.approx(1e-5 if is_base(name) else 1e-4), name


@pytest.mark.parametrize('config', ['o2detr-cascade_r50_2xb2-12e_dota', 'o2detr-cascade_r18-w16-fpn_1xb4-12e_hit-uav'])
def test_a_child_config_takes_what_the_docstring_says(config, repo, tmp_path):
    lines = inspect.getdoc(O2DETRCascade).splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith('::'))
    block = itertools.takewhile(lambda line: not line or line.startswith('    '), lines[start + 1 :])
    text = textwrap.dedent('\n'.join(block))
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {str(repo / "configs/o2detr" / config)!r} + ".py"\n{text}')
    cfg = Config.fromfile(path)
    assert cfg.model.finetune_base and cfg.optim_wrapper.optimizer.lr == 1e-5
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.roi_head == dict(lr_mult=10)


@pytest.mark.parametrize('num_stages', [1, 2])
def test_zero_deltas_give_the_proposals(build_model, cascade_changes, prepared, num_stages):
    changes = cascade_changes(num_stages)
    changes['test_cfg.rcnn']['nms']['iou_threshold'] = 0.999
    model = build_model(**changes).eval()
    for stage in model.roi_head.bbox_head:
        torch.nn.init.zeros_(stage.fc_reg.weight)
        torch.nn.init.zeros_(stage.fc_reg.bias)
    # Distinct, well inside the image: the host's coder clamps centers.
    torch.nn.init.normal_(model.bbox_head.reg_branches[-1][-1].weight, std=0.5)
    inputs, samples = prepared(model)
    _, proposals = model.forward_base(model.extract_feat(inputs)[0], samples)
    results = model.predict(inputs, samples, rescale=False)
    for proposal, result in zip(proposals, results, strict=True):
        distance = gaussian_kld(result.pred_instances.bboxes, proposal.bboxes.tensor)
        assert len(distance) and (distance.amin(1) < 1e-4).all()


def test_prediction_of_a_picture_whose_sides_were_scaled_differently(
    build_model, cascade_changes, prepared, scaled_rectangles
):
    model = build_model(**cascade_changes()).eval()
    inputs, samples = prepared(model)
    for sample in samples:
        sample.set_metainfo(dict(scale_factor=(0.5, 0.8)))
    seen = [sample.pred_instances.bboxes for sample in model.predict(inputs, samples, rescale=False)]
    found = [sample.pred_instances.bboxes for sample in model.predict(inputs, samples, rescale=True)]
    for before, after in zip(seen, found, strict=True):
        assert len(before) and (gaussian_kld(after, scaled_rectangles(before, (2.0, 1.25))).diagonal() < 1e-3).all()


def test_prediction_is_regular_and_free_of_overlaps(build_model, cascade_changes, prepared):
    model = build_model(**cascade_changes()).eval()
    for result in model.predict(*prepared(model)):
        boxes, labels = result.pred_instances.bboxes, result.pred_instances.labels
        assert type(boxes) is torch.Tensor and boxes.shape[1] == 5
        assert (boxes[:, 2] >= boxes[:, 3]).all() and (boxes[:, 3] > 0).all()
        assert ((boxes[:, 4] >= 0) & (boxes[:, 4] < torch.pi)).all()
        same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
        assert (rbbox_overlaps(boxes, boxes)[same] <= 0.1 + 1e-4).all()


@pytest.mark.parametrize('weight', [0.0, 0.3, 1.0])
def test_scores_are_the_geometric_mean_of_base_and_head(build_model, cascade_changes, prepared, weight):
    """With nothing suppressed: of each proposal and class one detection."""
    changes = cascade_changes()
    changes['test_cfg.rcnn'] = dict(score_thr=0.0, nms=dict(type='nms_rotated', iou_threshold=1.1), max_per_img=1000)
    model = build_model(base_score_weight=weight, **changes).eval()
    inputs, samples = prepared(model)
    base_maps, roi_maps = model.extract_feat(inputs)
    _, proposals = model.forward_base(base_maps, samples)
    alone = model.roi_head.predict_bbox(roi_maps, [x.metainfo for x in samples], proposals, rcnn_test_cfg=None)
    for found, base, head in zip(model.predict(inputs, samples), proposals, alone, strict=True):
        expected = base.cls_scores**weight * head.scores[:, :-1] ** (1 - weight)
        assert torch.equal(base.cls_scores.max(1).values, base.scores) and len(found.pred_instances) == expected.numel()
        scores = found.pred_instances.scores
        assert torch.allclose(scores, expected.flatten().sort(descending=True).values, atol=1e-6)
        for label in range(expected.shape[1]):
            own = scores[found.pred_instances.labels == label]
            assert torch.allclose(own, expected[:, label].sort(descending=True).values, atol=1e-6)


def test_the_head_alone_detects_as_the_host(build_model, cascade_changes, prepared):
    model = build_model(base_score_weight=0.0, **cascade_changes()).eval()
    inputs, samples = prepared(model)
    base_maps, roi_maps = model.extract_feat(inputs)
    _, proposals = model.forward_base(base_maps, samples)
    expected = model.roi_head.predict(roi_maps, proposals, samples, rescale=False)
    for found, one in zip(model.predict(inputs, samples, rescale=False), expected, strict=True):
        found = found.pred_instances
        assert torch.equal(found.scores, one.scores) and torch.equal(found.labels, one.labels)
        assert len(one) and (gaussian_kld(found.bboxes, one.bboxes).diagonal() < 1e-4).all()


def test_loads_a_checkpoint_of_the_base(build_model, cascade_changes, prepared):
    base, cascade = build_model(), build_model(**cascade_changes())
    for p in base.parameters():
        torch.nn.init.normal_(p, std=0.02)
    missing, unexpected = cascade.load_state_dict(base.state_dict(), strict=False)
    assert not unexpected and missing and not any(is_base(name) for name in missing)
    inputs, samples = prepared(cascade.eval())
    maps = cascade.extract_feat(inputs)[0]
    expected = base.eval().extract_feat(inputs)
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


@pytest.mark.parametrize('boxes', [(0, 0), (0, 3), (40, 1)], ids=['none', 'one_empty', 'many'])
def test_any_number_of_boxes(build_model, cascade_changes, prepared, boxes):
    model = build_model(**cascade_changes()).train()
    losses = model.loss(*prepared(model, boxes=boxes))
    assert all(value.isfinite().all() for value in losses.values())


def test_degenerate_ground_truth(build_model, cascade_changes, make_batch):
    model = build_model(**cascade_changes()).train()
    batch = make_batch()
    batch['data_samples'][0].gt_instances.bboxes.tensor[:, 2:4] = 0
    losses = model.loss(*model.data_preprocessor(batch, True).values())
    assert all(value.isfinite().all() for value in losses.values())


def test_forward_without_samples(build_model, cascade_changes):
    model = build_model(**cascade_changes()).eval()
    scores, deltas = model(torch.rand(2, 3, 64, 64), mode='tensor')
    assert [x.shape for x in scores] == [(10, 4)] * 2 and [x.shape for x in deltas] == [(10, 5)] * 2


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('roi_head.bbox_head.1.num_classes', 7, 'stage 1 of the RoI head has 7 classes, the base 3'),
        ('roi_head.bbox_head.0.bbox_coder.angle_version', 'oc', "stage 0 needs angle_version='le90'"),
        ('train_cfg.rcnn', None, 'one config for each of 2 stages'),
        ('test_cfg.rcnn', None, r"test_cfg\['rcnn'\] is missing"),
        ('base_score_weight', 1.5, 'from 0'),
    ],
)
def test_wrong_configs(model_cfg, cascade_changes, key, value, message):
    from mmengine.config import Config
    from mmrotate.registry import MODELS

    cfg = Config(dict(model=model_cfg(**cascade_changes())))
    if value is None:
        del cfg.model[key.split('.')[0]]['rcnn']
    else:
        cfg.merge_from_dict({f'model.{key}': value})
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg.model)
