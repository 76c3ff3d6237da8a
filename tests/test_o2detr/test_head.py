"""Targets, losses and predictions of the head."""

import copy
import math

import pytest
import torch
from mmdet.models.dense_heads import DeformableDETRHead
from mmengine.structures import InstanceData
from mmrotate.models.losses import GDLoss
from mmrotate.registry import MODELS
from mmrotate.structures import RotatedBoxes

from mmplugins.o2detr import PeriodicRBoxL1Loss
from mmplugins.o2detr.angles import box_factors, regularize
from mmplugins.o2detr.targets import prepare_gt

SHAPE = (96, 160)
META = dict(img_shape=SHAPE, scale_factor=(1.0, 1.0), img_path='a.png')
COSTS = [dict(type='mmdet.FocalLossCost', weight=2.0), dict(type='RBoxL1Cost'), dict(type='GDCost')]


@pytest.fixture
def make_head():
    def make(**changes):
        cfg = dict(
            type='O2DETRHead',
            num_classes=3,
            embed_dims=16,
            num_pred_layer=2,
            train_cfg=dict(assigner=dict(type='mmdet.HungarianAssigner', match_costs=COSTS)),
            test_cfg=dict(max_per_img=10),
        )
        head = MODELS.build({**cfg, **changes})
        head.init_weights()
        return head

    return make


def gt_of(boxes, labels=None):
    labels = torch.zeros(len(boxes), dtype=torch.long) if labels is None else torch.tensor(labels)
    return InstanceData(bboxes=RotatedBoxes(boxes), labels=labels)


def perfect(boxes, labels, queries=8):
    """Logits and normalized boxes that say exactly the ground truth; the other queries say nothing."""
    logits = torch.full((queries, 3), -20.0)
    logits[range(len(boxes)), labels] = 20.0
    pred = torch.full((queries, 5), 0.5)
    pred[: len(boxes)] = regularize(boxes) / box_factors(SHAPE, boxes)
    return logits, pred


class TestForward:
    def test_center_and_sides_are_the_hosts(self, make_head):
        ours = make_head()
        host = DeformableDETRHead(
            num_classes=3,
            embed_dims=16,
            num_pred_layer=2,
            loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True),
            loss_bbox=dict(type='mmdet.L1Loss'),
            loss_iou=dict(type='mmdet.GIoULoss'),
            train_cfg=None,
        )
        state = ours.state_dict()
        host.load_state_dict({key: state[key][: len(value)] for key, value in host.state_dict().items()})
        hidden, points = torch.randn(2, 2, 7, 16), [torch.rand(2, 7, 2)] * 3
        logits, boxes = ours(hidden, points)
        with torch.no_grad():
            expected = host(hidden, points)
        assert torch.allclose(logits, expected[0]) and torch.allclose(boxes[..., :4], expected[1], atol=1e-6)

    def test_boxes_start_unturned(self, make_head):
        _, boxes = make_head()(torch.randn(2, 1, 4, 16), [torch.rand(1, 4, 2)] * 2)
        assert not boxes[..., 4].any()


class TestTargets:
    def test_ground_truth_is_not_changed(self):
        gt = gt_of(torch.tensor([[50.0, 40, 10, 30, 1.0], [50, 40, 20, 20, 0.3]]))
        before = gt.bboxes.tensor.clone()
        prepared = prepare_gt(gt, META, 3, 1.0).bboxes
        assert torch.equal(gt.bboxes.tensor, before)
        assert prepared[0].tolist() == pytest.approx([50, 40, 30, 10, 1 + math.pi / 2])
        assert prepared[1].tolist() == pytest.approx([50, 40, 20, 20, 0.3])  # a square stays as it is

    @pytest.mark.parametrize('given', ['le180', 'le90', 'oc', 'le135'])
    def test_any_convention_gives_the_same_targets(self, random_boxes, given):
        boxes = random_boxes(20, SHAPE)
        host = RotatedBoxes(boxes)
        if given != 'le180':
            host.regularize_boxes(given)
        prepared = prepare_gt(gt_of(host.tensor), META, 3, 1.0).bboxes
        assert torch.allclose(prepared, regularize(boxes), atol=1e-4)

    @pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal', 'rotate'])
    def test_flips_commute(self, random_boxes, direction):
        # Four corners of the object, moved as the pixels of the picture are, against the box moved by the host.
        boxes = random_boxes(30, SHAPE)
        height, width = SHAPE
        corners = RotatedBoxes.rbox2corner(boxes)
        host = RotatedBoxes(boxes)
        if direction == 'rotate':  # by 90 degrees about the middle of the picture
            host.rotate_((width / 2, height / 2), 90)
            middle = torch.tensor([width / 2, height / 2])
            moved = (corners - middle) @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]]) + middle
        else:
            host.flip_(SHAPE, direction)
            moved = corners.clone()
            if direction != 'vertical':
                moved[..., 0] = width - moved[..., 0]
            if direction != 'horizontal':
                moved[..., 1] = height - moved[..., 1]
        target = prepare_gt(gt_of(host.tensor), META, 3, 1.0).bboxes
        found = RotatedBoxes.rbox2corner(target)
        distance = torch.cdist(found, moved)
        assert distance.amin(2).max() < 1e-3 and distance.amin(1).max() < 1e-3

    def test_perfect_predictions_are_matched_to_themselves(self, make_head, random_boxes):
        boxes, labels = random_boxes(4, SHAPE), [0, 1, 2, 0]
        logits, pred = perfect(boxes, labels)
        gt = prepare_gt(gt_of(boxes, labels), META, 3, 1.0)
        found, positions, targets = make_head()._get_targets_single(logits, pred, gt, META)
        assert positions.tolist() == [0, 1, 2, 3] and found.tolist() == [0, 1, 2, 0, 3, 3, 3, 3]
        assert torch.allclose(targets, pred[:4], atol=1e-5)


class TestLoss:
    def losses(self, head, logits, pred, gts, metas):
        outs = [x[None].requires_grad_() for x in (torch.stack(logits), torch.stack(pred))]
        return head.loss_by_feat(*outs, None, None, gts, metas), outs

    def test_zero_at_the_optimum(self, make_head, random_boxes):
        boxes, labels = random_boxes(4, SHAPE), [0, 1, 2, 0]
        logits, pred = perfect(boxes, labels)
        losses, _ = self.losses(make_head(), [logits], [pred], [gt_of(boxes, labels)], [META])
        assert all(value.item() == pytest.approx(0, abs=1e-4) for value in losses.values())

    def test_is_the_sum_over_matched_pairs(self, make_head, random_boxes):
        # Two images of different shapes and numbers of boxes.
        head = make_head()
        metas = [META, dict(META, img_shape=(128, 64))]
        gts = [gt_of(random_boxes(n, meta['img_shape']), [0] * n) for n, meta in zip((3, 1), metas, strict=True)]
        logits, pred = list(torch.randn(2, 8, 3)), list(torch.rand(2, 8, 5) * 0.8 + 0.1)
        losses, _ = self.losses(head, logits, pred, gts, metas)
        l1, gaussian = 0, 0
        kld = GDLoss('kld', fun='log1p', tau=1.0, sqrt=False, reduction='sum')
        for logit, box, gt, meta in zip(logits, pred, gts, metas, strict=True):
            prepared = prepare_gt(gt, meta, 3, 1.0)
            _, pos, _ = head._get_targets_single(logit, box, prepared, meta)
            factors = box_factors(meta['img_shape'], box)
            pixels = box * factors
            assigned = head.assigner.assign(InstanceData(scores=logit, bboxes=pixels), prepared, meta).gt_inds[pos] - 1
            matched = prepared.bboxes[assigned]
            l1 += PeriodicRBoxL1Loss(reduction='sum')(box[pos], matched / factors)
            gaussian += 2 * kld(pixels[pos].double(), matched.double())
        assert losses['loss_bbox'].item() == pytest.approx(l1.item() / 4, rel=1e-4)
        assert losses['loss_iou'].item() == pytest.approx(gaussian.item() / 4, rel=1e-4)

    @pytest.mark.parametrize('kind', ['QualityFocalLoss', 'VarifocalLoss'])
    def test_scores_learn_the_iou(self, make_head, random_boxes, iou_of_opencv, kind):
        boxes, labels = random_boxes(3, SHAPE), [0, 1, 2]
        _, pred = perfect(boxes, labels)
        pred[:3, 2] *= 0.8
        pred[:3, 4] += 0.02
        logits = torch.randn(8, 3)
        head = make_head(loss_cls=dict(type=f'mmdet.{kind}', use_sigmoid=True))
        losses, outs = self.losses(head, [logits], [pred], [gt_of(boxes, labels)], [META])
        quality = torch.zeros(8, 3)
        for index, (first, second) in enumerate(zip(pred[:3] * box_factors(SHAPE, pred), boxes, strict=True)):
            quality[index, labels[index]] = iou_of_opencv(first.tolist(), second.tolist())
        p = logits.sigmoid()
        entropy = -(quality * p.log() + (1 - quality) * (1 - p).log())
        factor = (quality - p) ** 2
        if kind == 'VarifocalLoss':
            factor = torch.where(quality > 0, quality, 0.75 * factor)
        assert losses['loss_cls'].item() == pytest.approx((factor * entropy).sum().item() / 3, rel=1e-3)
        losses['loss_cls'].backward()
        assert outs[0].grad.any() and outs[1].grad is None  # the boxes do not learn what their scores should be

    @pytest.mark.parametrize('kind', ['QualityFocalLoss', 'VarifocalLoss'])
    def test_scores_learn_the_iou_of_nothing(self, make_head, kind):
        gt = gt_of(torch.zeros(0, 5))
        head = make_head(loss_cls=dict(type=f'mmdet.{kind}', use_sigmoid=True))
        losses, outs = self.losses(head, [torch.randn(8, 3)], [torch.rand(8, 5)], [gt], [META])
        assert losses['loss_cls'] > 0
        sum(losses.values()).backward()
        assert all(out.grad.isfinite().all() for out in outs)

    def test_no_ground_truth(self, make_head):
        for empty in (torch.zeros(0, 5), torch.zeros(0)):
            gt = InstanceData(bboxes=empty, labels=torch.zeros(0, dtype=torch.long))
            losses, outs = self.losses(make_head(), [torch.randn(8, 3)], [torch.rand(8, 5)], [gt], [META])
            assert losses['loss_cls'] > 0 and losses['loss_bbox'] == 0 == losses['loss_iou']
            sum(losses.values()).backward()
            assert all(out.grad is not None and out.grad.isfinite().all() for out in outs)

    def test_more_boxes_than_queries(self, make_head, random_boxes):
        losses, _ = self.losses(
            make_head(), [torch.randn(8, 3)], [torch.rand(8, 5)], [gt_of(random_boxes(20, SHAPE))], [META]
        )
        assert all(value.isfinite() and value > 0 for value in losses.values())

    @pytest.mark.parametrize('sides', [(0.0, 0.0), (50.0, 0.0), (0.0, 1e-6), (1e4, 1e-3)], ids=str)
    @pytest.mark.parametrize('loss_type', ['kld', 'gwd'])
    def test_degenerate_boxes(self, make_head, sides, loss_type):
        head = make_head(loss_iou=dict(type='GDLoss', loss_type=loss_type, fun='log1p', tau=1.0))
        gt = gt_of(torch.tensor([[50.0, 40.0, *sides, 0.7]]))
        losses, outs = self.losses(head, [torch.randn(8, 3)], [torch.rand(8, 5)], [gt], [META])
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
        assert all(out.grad.isfinite().all() for out in outs)

    def test_thin_slanted_predictions(self, make_head):
        # In float32 the host's loss is not a number here.
        meta = dict(META, img_shape=(1024, 1024))
        pred = torch.tensor([[0.5, 0.5, 0.99, 1e-4, 0.25]]).repeat(8, 1)
        gt = gt_of(torch.tensor([[512.0, 512, 900, 3, 0.8]]))
        losses, outs = self.losses(make_head(), [torch.randn(8, 3)], [pred], [gt], [meta])
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values()) and outs[1].grad.isfinite().all()

    def test_half_precision_outputs(self, make_head, random_boxes):
        outs = torch.randn(1, 1, 8, 3).half(), torch.rand(1, 1, 8, 5).half()
        losses = make_head().loss_by_feat(*outs, None, None, [gt_of(random_boxes(3, SHAPE))], [META])
        assert all(value.isfinite() and value.dtype == torch.float32 for value in losses.values())

    def test_wrong_number_of_classes(self, random_boxes):
        with pytest.raises(ValueError, match=r'a\.png has the labels \[1, 3\], the head has num_classes=3'):
            prepare_gt(gt_of(random_boxes(2, SHAPE), [3, 1]), META, 3, 1.0)

    def test_horizontal_boxes(self):
        gt = InstanceData(bboxes=torch.rand(2, 4), labels=torch.zeros(2, dtype=torch.long))
        with pytest.raises(ValueError, match='boxes of 4 numbers.*ConvertBoxType'):
            prepare_gt(gt, META, 3, 1.0)

    @pytest.mark.skipif(torch.cuda.is_available(), reason='rotated IoU has a gradient with CUDA')
    def test_rotated_iou_loss_says_what_it_needs(self, make_head, random_boxes):
        head = make_head(loss_iou=dict(type='RotatedIoULoss'))
        with pytest.raises(RuntimeError, match='CUDA.*GDLoss'):
            self.losses(head, [torch.randn(8, 3)], [torch.rand(8, 5)], [gt_of(random_boxes(2, SHAPE))], [META])


class TestPredict:
    @pytest.mark.parametrize('version', ['le180', 'le90'])
    @pytest.mark.parametrize('scale', [(1.0, 1.0), (0.5, 0.8), (2.0, 0.7)], ids=str)
    def test_any_output_gives_regular_boxes(self, make_head, version, scale):
        head = make_head(angle_version=version, test_cfg=dict(max_per_img=1000))
        pred = torch.rand(300, 5)
        pred[:60, torch.arange(60) % 5] = torch.tensor([0.0, 1.0]).repeat(30)  # saturated
        found = head._predict_by_feat_single(torch.randn(300, 3), pred, dict(META, scale_factor=scale), rescale=True)
        boxes, start = found.bboxes, 0 if version == 'le180' else -math.pi / 2
        assert type(boxes) is torch.Tensor and boxes.shape == (900, 5) and boxes.isfinite().all()
        assert (boxes[:, 2] >= boxes[:, 3]).all() and (boxes[:, 3] > 0).all()
        assert ((boxes[:, 4] >= start) & (boxes[:, 4] < start + math.pi)).all()
        size = torch.tensor([SHAPE[1] / scale[0], SHAPE[0] / scale[1]])
        assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] <= size + 1e-3).all()

    def test_rescaling_by_different_factors(self, make_head, random_boxes, scaled_rectangles):
        # The network saw the picture at half its width and four fifths of its height.
        seen = random_boxes(30, SHAPE)
        logits, pred = perfect(seen, [0] * 30, queries=30)
        meta = dict(META, scale_factor=(0.5, 0.8))
        head = make_head(test_cfg=dict(max_per_img=30))
        found = head._predict_by_feat_single(logits, pred, meta, rescale=True).bboxes
        corners = [
            RotatedBoxes.rbox2corner(boxes).flatten(1) for boxes in (found, scaled_rectangles(seen, (1 / 0.5, 1 / 0.8)))
        ]
        # Each true rectangle is found, in some order of its corners.
        distance = torch.cdist(corners[1].view(-1, 1, 4, 2), corners[0].view(1, -1, 4, 2)).amin(-1).amax(-1)
        assert (distance.amin(1) < 0.05).all() and len(set(distance.argmin(1).tolist())) == 30

    @pytest.mark.parametrize('nms', [None, dict(type='nms_rotated', iou_threshold=0.1)], ids=['none', 'nms'])
    def test_nms_is_an_option(self, make_head, nms):
        boxes = torch.tensor([[x, 40.0, 24, 10, 0.3] for x in (20, 50, 80, 110)])
        twice = torch.cat([boxes, boxes + torch.tensor([0.5, 0.5, 0, 0, 0])])
        logits, pred = perfect(twice, [0, 1, 2, 0] * 2)
        logits[4:] -= 1
        test_cfg = dict(max_per_img=8) | (dict(nms=nms) if nms else {})
        found = make_head(test_cfg=test_cfg)._predict_by_feat_single(logits, pred, META, rescale=False)
        expected = 8 if nms is None else 4
        assert len(found) == expected and (found.scores.diff() <= 0).all()
        assert sorted(found.labels.tolist()) == sorted([0, 0, 1, 2] * (expected // 4))

    def test_long_slanted_boxes_keep_their_length(self, make_head):
        box = torch.tensor([[80.0, 48.0, 159.0, 8.0, math.atan(0.6)]])
        logits, pred = perfect(box, [0])
        found = make_head()._predict_by_feat_single(logits, pred, META, rescale=False)
        assert found.bboxes[0].tolist() == pytest.approx(box[0].tolist(), rel=1e-4)

    @pytest.mark.parametrize(('max_per_img', 'expected'), [(5, 5), (24, 24), (1000, 24)])
    def test_number_of_predictions(self, make_head, max_per_img, expected):
        head = make_head(test_cfg=dict(max_per_img=max_per_img))
        logits = torch.randn(8, 3)
        found = head._predict_by_feat_single(logits, torch.rand(8, 5), META, rescale=False)
        best = logits.sigmoid().flatten().sort(descending=True).values[:expected]
        assert len(found) == expected and torch.allclose(found.scores, best)
        assert ((found.labels >= 0) & (found.labels < 3)).all()

    def test_no_scale_factor(self, make_head):
        with pytest.raises(KeyError, match='scale_factor'):
            make_head().rescale_boxes(torch.rand(8, 5), dict(img_shape=SHAPE))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(angle_version='oc'), "'le180' or 'le90'"),
        (dict(angle_version='le45'), 'angle_version must be one of'),
        (dict(loss_cls=dict(type='mmdet.CrossEntropyLoss')), 'use_sigmoid=True'),
    ],
)
def test_wrong_arguments(make_head, changes, message):
    with pytest.raises(ValueError, match=message):
        make_head(**copy.deepcopy(changes))
