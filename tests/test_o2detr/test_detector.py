"""The whole detector: losses, predictions, all variants, bad input."""

import copy
import math

import pytest
import torch
from mmdet.models.layers import DeformableDetrTransformerEncoder
from mmdet.models.losses import FocalLoss
from mmengine.config import Config
from mmrotate.registry import MODELS
from torch.nn.functional import pad

from mmplugins.o2detr import DWSepEncoder
from mmplugins.o2detr.encoder import NoEncoder
from mmplugins.o2detr.proposals import probabilistic_iou

VARIANTS = {
    'base': {},
    'refine': dict(with_box_refine=True),
    'two_stage': dict(as_two_stage=True),
    'refine_two_stage': dict(with_box_refine=True, as_two_stage=True),
    'denoising': dict(
        with_box_refine=True,
        as_two_stage=True,
        recompute_query_pos=True,
        dn_cfg=dict(group_cfg=dict(dynamic=True, num_dn_queries=10)),
    ),
    'plain_two_stage': dict(as_two_stage=True, distinct_thr=None, **{'bbox_head.tokens_per_gt': 1}),
}
variants = pytest.mark.parametrize('changes', VARIANTS.values(), ids=VARIANTS)


def prepared(model, batch):
    return model.data_preprocessor(batch, model.training).values()


@variants
@pytest.mark.parametrize('encoder', ['dwsep', 'deformable', 'none'])
def test_losses_and_gradients(build_model, make_batch, encoder, changes):
    model = build_model(encoder, **changes).train()
    losses = model.loss(*prepared(model, make_batch()))
    assert all(value.isfinite() for value in losses.values())
    expected = {'loss_cls', 'loss_bbox', 'loss_iou', 'd0.loss_cls', 'd0.loss_bbox', 'd0.loss_iou'}
    if changes.get('as_two_stage'):
        expected |= {'enc_loss_cls', 'enc_loss_bbox', 'enc_loss_iou'}
    if 'dn_cfg' in changes:
        expected |= {f'{layer}dn_loss_{name}' for layer in ('', 'd0.') for name in ('cls', 'bbox', 'iou')}
    assert set(losses) == expected
    sum(losses.values()).backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert not {name for name, grad in grads.items() if grad is None or not grad.isfinite().all()}


@pytest.mark.parametrize(
    ('name', 'cls'), [('dwsep', DWSepEncoder), ('deformable', DeformableDetrTransformerEncoder), ('none', NoEncoder)]
)
def test_encoders_by_name(build_model, name, cls):
    assert type(build_model(name).encoder) is cls


@variants
@pytest.mark.parametrize('rescale', [True, False])
def test_predictions(build_model, make_batch, changes, rescale):
    model = build_model(**changes).eval()
    results = model.predict(*prepared(model, make_batch()), rescale=rescale)
    for result in results:
        found = result.pred_instances
        assert type(found.bboxes) is torch.Tensor and found.bboxes.shape == (20, 5) and found.bboxes.isfinite().all()
        height, width = result.ori_shape if rescale else result.img_shape
        assert (found.bboxes[:, 0] <= width).all() and (found.bboxes[:, 1] <= height).all()
        assert (found.scores.diff() <= 0).all()


@variants
def test_an_image_is_the_same_alone_and_in_a_batch(build_model, make_batch, changes):
    # Backbone and neck see the padding; everything after them must not.
    model = build_model(**changes).eval()
    maps = [torch.randn(1, 32, 8 // 2**level, 12 // 2**level) for level in range(3)]
    maps.append(torch.randn(1, 32, 1, 2))
    sizes = [16, 8, 4, 2]
    padded = [pad(x, (0, size - x.size(3), 0, size - x.size(2))) for x, size in zip(maps, sizes, strict=True)]
    sample = make_batch(((64, 96),), (1,))['data_samples'][0]
    outs = []
    for feats, shape in ((maps, (64, 96)), (padded, (128, 128))):
        own = copy.deepcopy(sample)
        own.set_metainfo(dict(batch_input_shape=shape))
        head_inputs = model.forward_transformer(tuple(feats), [own])
        outs.append(model.bbox_head(**head_inputs))
    assert torch.allclose(outs[0][0], outs[1][0], atol=1e-4) and torch.allclose(outs[0][1], outs[1][1], atol=1e-4)


@variants
@pytest.mark.parametrize('boxes', [(0, 0), (0, 3), (40, 1)], ids=['none', 'one_empty', 'many'])
def test_any_number_of_boxes(build_model, make_batch, changes, boxes):
    model = build_model(**changes).train()
    losses = model.loss(*prepared(model, make_batch(boxes=boxes)))
    assert all(value.isfinite() for value in losses.values())


def test_denoising_queries_change_nothing_that_is_matched(build_model, make_batch):
    """Nothing leaks from true boxes, and all parameters learn where no image of the batch has boxes."""
    model = build_model(**VARIANTS['denoising']).train()
    inputs, samples = prepared(model, make_batch())
    with_queries = model.loss(inputs, samples)
    model.dn_cfg = None
    without = model.loss(inputs, samples)
    assert all(torch.allclose(with_queries[name], value, rtol=1e-4) for name, value in without.items())
    assert set(with_queries) - set(without) == {
        f'{layer}dn_loss_{name}' for layer in ('', 'd0.') for name in ('cls', 'bbox', 'iou')
    }
    model.dn_cfg = VARIANTS['denoising']['dn_cfg']
    sum(model.loss(*prepared(model, make_batch(boxes=(0, 0)))).values()).backward()
    assert model.dn_query_generator.label_embedding.weight.grad is not None  # or DDP would wait for it


def test_denoising_of_nothing_asks_no_loss_of_nothing(build_model, make_batch, monkeypatch):
    """On CUDA mmcv's focal loss stops at no rows."""
    model, sizes = build_model(**VARIANTS['denoising']).train(), []
    forward = FocalLoss.forward
    monkeypatch.setattr(
        FocalLoss, 'forward', lambda self, p, *a, **k: sizes.append(len(p)) or forward(self, p, *a, **k)
    )
    losses = model.loss(*prepared(model, make_batch(boxes=(0, 0))))
    assert all(sizes) and losses['dn_loss_cls'] == 0


def test_positions_are_those_of_the_box_of_the_layer_before(build_model, make_batch):
    model = build_model(with_box_refine=True, as_two_stage=True, recompute_query_pos=True).eval()
    asked = []
    embed = model.embed_boxes
    model.embed_boxes = lambda boxes: asked.append(boxes) or embed(boxes)
    inputs, samples = prepared(model, make_batch())
    references = model.forward_transformer(model.extract_feat(inputs), samples)['references']
    assert [torch.equal(*pair) for pair in zip(asked, references[:2], strict=True)] == [True, True]


@pytest.mark.parametrize('stage', [dict(as_two_stage=True), dict(with_box_refine=True), {}])
@pytest.mark.parametrize('option', [dict(recompute_query_pos=True), dict(dn_cfg={})])
def test_boxes_that_a_detector_has_not_are_refused(build_model, stage, option):
    with pytest.raises(ValueError, match=f'there are no boxes for {next(iter(option))}'):
        build_model(**stage, **option)


def test_fewer_tokens_than_queries(build_model, make_batch):
    model = build_model(as_two_stage=True, num_queries=500).eval()
    found = model.predict(*prepared(model, make_batch()))[0].pred_instances
    assert len(found.bboxes) == 20


def test_proposals_of_padding_and_border_are_not_chosen(build_model, make_batch):
    model = build_model(as_two_stage=True).eval()
    inputs, samples = prepared(model, make_batch())
    encoder_inputs, _ = model.pre_transformer(model.extract_feat(inputs), samples)
    decoder_inputs, _ = model.pre_decoder(**model.forward_encoder(**encoder_inputs))
    references = decoder_inputs['reference_points']
    places = references[..., :4]
    assert references.shape == (2, 12, 5) and ((places > 0) & (places < 1)).all()


def test_without_data_samples(build_model):
    logits, boxes = build_model().eval()(torch.rand(2, 3, 64, 96), mode='tensor')
    assert logits.shape == (2, 2, 12, 3) and boxes.shape == (2, 2, 12, 5)


def test_state_dict_round_trip(build_model):
    first, second = build_model(), build_model()
    for p in first.parameters():
        torch.nn.init.normal_(p, std=0.1)
    second.load_state_dict(first.state_dict())
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(first.eval()(x, mode='tensor')[1], second.eval()(x, mode='tensor')[1])


def test_refinement_starts_from_the_boxes_before(build_model):
    model = build_model(with_box_refine=True).eval()
    # The second layer's branch says "unchanged".
    torch.nn.init.normal_(model.bbox_head.reg_branches[0][-1].weight, std=0.3)
    _, boxes = model(torch.rand(1, 3, 64, 64), mode='tensor')
    assert torch.allclose(boxes[1, ..., :4], boxes[0, ..., :4], atol=1e-4) and boxes[0].std(1).min() > 0


@variants
def test_half_precision_trains(build_model, make_batch, changes):
    model = build_model(**changes).train()
    inputs = prepared(model, make_batch())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(*inputs)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())


@variants
def test_boxes_have_full_precision_under_autocast(build_model, changes):
    model = build_model(**changes).eval()
    for branch in model.bbox_head.reg_branches:
        torch.nn.init.normal_(branch[-1].weight, std=0.3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        boxes = model(torch.rand(1, 3, 64, 96), mode='tensor')[1]
    assert boxes.dtype == torch.float32
    # Numbers that bfloat16 has are rare among those with 24 bits; an angle is the output of a layer and half.
    assert (boxes != boxes.bfloat16().float())[..., :4].float().mean() > 0.9


def test_queries_do_not_repeat_each_other(build_model):
    # Boxes of a fresh model are the anchors: of the second level, a tenth of the image and half of one apart.
    model = build_model(as_two_stage=True, num_queries=30).eval()
    memory, shapes = torch.randn(1, 401, 32), torch.tensor([[1, 1], [20, 20]])
    largest = {}
    for thr in (0.4, None):
        model.distinct_thr = thr
        boxes = model.pre_decoder(memory, None, shapes)[0]['reference_points'][0]
        boxes = boxes * torch.tensor([1, 1, 1, 1, math.pi])
        largest[thr] = probabilistic_iou(boxes, boxes).tril(-1).max()
    assert largest[0.4] <= 0.4 < largest[None]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'encoder.type': 'conv'}, r"type of the encoder must be one of \['deformable', 'dwsep', 'none'\]"),
        ({'encoder.layer_cfg.mixer_cfg.embed_dims': 16}, 'mixer_cfg has embed_dims 16'),
        ({'positional_encoding.num_feats': 8}, "'positional_encoding': 16"),
        ({'bbox_head.embed_dims': 64}, "'bbox_head': 64"),
        ({'num_feature_levels': 3}, 'num_feature_levels is 3, num_levels of the decoder'),
        ({'bbox_head.angle_version': 'oc'}, "'le180' or 'le90'"),
    ],
)
def test_wrong_configs(model_cfg, changes, message):
    cfg = Config(dict(model=model_cfg()))
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        MODELS.build(cfg.model)


def test_another_head(model_cfg):
    cfg = model_cfg(bbox_head=dict(type='mmdet.DeformableDETRHead', _delete_=True, num_classes=3))
    cfg.train_cfg = None
    for loss in ('cls', 'bbox', 'iou'):
        cfg.bbox_head[f'loss_{loss}'] = dict(type='mmdet.FocalLoss' if loss == 'cls' else 'mmdet.L1Loss')
    with pytest.raises(TypeError, match='must be an O2DETRHead, not DeformableDETRHead'):
        MODELS.build(cfg)


def test_neck_with_another_number_of_maps(build_model, make_batch):
    model = build_model(**{'neck.num_outs': 3}).eval()
    with pytest.raises(ValueError, match='the neck gives 3 maps, num_feature_levels is 4'):
        model.predict(*prepared(model, make_batch()))
