"""The head: its losses against plain formulas, its predictions against the definition (invariants 2, 5, 9)."""

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from scipy.optimize import linear_sum_assignment
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

from mmplugins.metr.cem import Categories
from mmplugins.metr.head import METRHead

L, B, K, Q, V, D = 2, 2, 3, 4, 5, 8
METAS = [
    dict(img_shape=(48, 64), ori_shape=(96, 256), scale_factor=(0.25, 0.5)),
    dict(img_shape=(40, 40), ori_shape=(40, 40), scale_factor=(1.0, 1.0)),
]


@pytest.fixture
def make_head():
    def make(**kwargs) -> METRHead:
        torch.manual_seed(0)
        cfg = dict(
            type='METRHead',
            embed_dims=D,
            num_pred_layer=L + 1,
            as_two_stage=True,
            loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        )
        head = MODELS.build(dict(cfg, **kwargs))
        head.init_weights()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return head

    return make


@pytest.fixture
def categories():
    """Image 0 keeps rows 0, 2, 4; image 1 is of a data set of two names, so its last slot (row 4) is a filler."""
    generator = torch.Generator().manual_seed(1)
    return Categories(
        vectors=torch.randn(B, V, D, generator=generator),
        logits=[torch.randn(B, V, generator=generator) for _ in range(2)],
        allowed=torch.tensor([[1, 1, 1, 1, 1], [0, 1, 0, 1, 0]]).bool(),
        keep=torch.tensor([[0, 2, 4], [1, 3, 4]]),
        valid=torch.tensor([[1, 1, 1], [1, 1, 0]]).bool(),
    )


@pytest.fixture
def gt():
    """Image 0: two boxes of row 0, one of row 4, one of row 1 (not kept). Image 1: six of row 3, one of row 4."""

    def boxes(generator, count, size):
        corners = torch.rand(count, 2, generator=generator) * 20
        return torch.cat([corners, corners + 4 + size * torch.rand(count, 2, generator=generator)], dim=1)

    generator = torch.Generator().manual_seed(2)
    return [
        InstanceData(bboxes=boxes(generator, 4, 20), labels=torch.tensor([0, 4, 0, 1])),
        InstanceData(bboxes=boxes(generator, 7, 15), labels=torch.tensor([3, 3, 3, 4, 3, 3, 3])),
    ]


@pytest.fixture
def outputs():
    """Logits ``(L, B, K Q, 1)``, boxes ``(L, B, K Q, 4)`` and those of six proposals."""
    generator = torch.Generator().manual_seed(3)

    def boxes(*shape):
        return torch.cat(
            [0.2 + 0.5 * torch.rand(*shape, 2, generator=generator), 0.1 + 0.2 * torch.rand(*shape, 2)], -1
        )

    return (
        torch.randn(L, B, K * Q, 1, generator=generator),
        boxes(L, B, K * Q),
        torch.randn(B, 6, V, generator=generator),
        boxes(B, 6),
    )


# -- plain formulas -------------------------------------------------------------------------------------------------


def focal(logits, targets):
    return sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2, reduction='none')


def match(logit, box, gt_box, size):
    """Pairs of queries (one logit each) and boxes: 2 focal + 5 L1 - 2 GIoU."""
    p = logit.sigmoid()
    positive = 0.25 * (1 - p) ** 2 * -(p + 1e-12).log()
    negative = 0.75 * p**2 * -(1 - p + 1e-12).log()
    cost = 2 * (positive - negative) if p.dim() == 2 else 2 * (positive - negative)[:, None]
    cost = cost + 5 * torch.cdist(box, box_convert(gt_box / size, 'xyxy', 'cxcywh'), p=1)
    cost = cost - 2 * generalized_box_iou(box_convert(box, 'cxcywh', 'xyxy') * size, gt_box)
    return linear_sum_assignment(cost)


def box_losses(box, gt_box, size):
    l1 = (box - box_convert(gt_box / size, 'xyxy', 'cxcywh')).abs().sum()
    giou = generalized_box_iou(box_convert(box, 'cxcywh', 'xyxy') * size, gt_box).diag()
    return l1, (1 - giou).sum()


def image_size(image):
    height, width = METAS[image]['img_shape']
    return torch.tensor([width, height, width, height], dtype=torch.float)


def layer_losses(logits, boxes, gt, categories, avg_factor):
    cls = l1 = giou = 0
    for image in range(B):
        for slot in range(K):
            if not categories.valid[image, slot]:
                continue
            part = slice(slot * Q, (slot + 1) * Q)
            logit, box = logits[image, part, 0], boxes[image, part]
            gt_box = gt[image].bboxes[gt[image].labels == categories.keep[image, slot]]
            rows, columns = match(logit, box, gt_box, image_size(image))
            target = torch.zeros(Q)
            target[rows] = 1
            cls = cls + focal(logit, target).sum()
            one, other = box_losses(box[rows], gt_box[columns], image_size(image))
            l1, giou = l1 + one, giou + other
    return 2 * cls / avg_factor, 5 * l1 / avg_factor, 2 * giou / avg_factor


def proposal_losses(scores, boxes, gt, categories, avg_factor):
    cls = l1 = giou = 0
    for image in range(B):
        allowed = categories.allowed[image]
        known = gt[image][allowed[gt[image].labels]]
        rows, columns = match(scores[image][:, known.labels], boxes[image], known.bboxes, image_size(image))
        target = torch.zeros(len(boxes[image]), V)
        target[rows, known.labels[columns]] = 1
        cls = cls + focal(scores[image], target)[:, allowed].sum()
        one, other = box_losses(boxes[image][rows], known.bboxes[columns], image_size(image))
        l1, giou = l1 + one, giou + other
    return 2 * cls / avg_factor, 5 * l1 / avg_factor, 2 * giou / avg_factor


def test_losses_are_the_formulas(make_head, outputs, categories, gt):
    losses = make_head().loss_by_feat(*outputs, gt, METAS, None, categories)
    logits, boxes, enc_scores, enc_boxes = outputs
    avg_factor = 4 + 7  # all boxes, also those of names that are not kept
    expected = {}
    for prefix, values in {
        'd0.': layer_losses(logits[0], boxes[0], gt, categories, avg_factor),
        '': layer_losses(logits[1], boxes[1], gt, categories, avg_factor),
        'enc_': proposal_losses(enc_scores, enc_boxes, gt, categories, avg_factor),
    }.items():
        names = (f'{prefix}loss_cls', f'{prefix}loss_bbox', f'{prefix}loss_iou')
        expected.update(zip(names, values, strict=True))
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f'{n}: {text}')


def test_avg_factor_divides(make_head, outputs, categories, gt):
    head = make_head()
    once = head.loss_by_feat(*outputs, gt, METAS, None, categories, avg_factor=1.0)
    half = head.loss_by_feat(*outputs, gt, METAS, None, categories, avg_factor=2.0)
    for name in once:
        torch.testing.assert_close(half[name], once[name] / 2)


def test_avg_factor_is_the_mean_over_ranks(make_head, outputs, categories, gt, monkeypatch):
    monkeypatch.setattr('mmplugins.metr.losses.reduce_mean', lambda number: number * 3)
    head = make_head()
    losses = head.loss_by_feat(*outputs, gt, METAS, None, categories)
    expected = head.loss_by_feat(*outputs, gt, METAS, None, categories, avg_factor=33.0)
    assert losses == expected


@pytest.mark.parametrize('order', [[2, 1, 0], [1, 2, 0]], ids=str)
def test_loss_does_not_depend_on_the_order_of_groups_or_of_queries_in_them(make_head, outputs, categories, gt, order):
    """Invariant 2."""
    head = make_head()
    before = head.loss_by_feat(*outputs, gt, METAS, None, categories)
    within = torch.randperm(Q, generator=torch.Generator().manual_seed(4))

    def permuted(x):
        return x.view(L, B, K, Q, -1)[:, :, order][:, :, :, within].flatten(2, 3)

    other = Categories(
        categories.vectors, categories.logits, categories.allowed, categories.keep[:, order], categories.valid[:, order]
    )
    after = head.loss_by_feat(permuted(outputs[0]), permuted(outputs[1]), *outputs[2:], gt, METAS, None, other)
    for name in before:
        torch.testing.assert_close(after[name], before[name])


def test_losses_without_boxes(make_head, outputs, categories, gt):
    outputs = [x.requires_grad_() for x in outputs]
    empty = [boxes[:0] for boxes in gt]
    losses = make_head().loss_by_feat(*outputs, empty, METAS, None, categories)
    for name, value in losses.items():
        assert value.isfinite(), name
        assert (value > 0) == name.endswith('loss_cls'), (name, value)
    # Sum of focal losses of all queries that count, divided by 1.
    counted = outputs[0][1][categories.valid.repeat_interleave(Q, 1)]
    torch.testing.assert_close(losses['loss_cls'], 2 * focal(counted, torch.zeros_like(counted)).sum())
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in outputs)


def test_unused_groups_and_unannotated_names_get_no_gradient(make_head, outputs, categories, gt):
    logits, boxes, enc_scores, enc_boxes = [x.requires_grad_() for x in outputs]
    sum(make_head().loss_by_feat(logits, boxes, enc_scores, enc_boxes, gt, METAS, None, categories).values()).backward()
    used = categories.valid.repeat_interleave(Q, 1)
    assert (logits.grad[:, used] != 0).all()
    assert (logits.grad[:, ~used] == 0).all()
    assert (boxes.grad[:, ~used] == 0).all()
    allowed = categories.allowed[:, None].expand_as(enc_scores)
    assert torch.equal(enc_scores.grad != 0, allowed)


def test_nan_logits_give_a_clear_error(make_head, outputs, categories, gt):
    outputs[0][:] = float('nan')
    with pytest.raises(ValueError, match='have diverged'):
        make_head().loss_by_feat(*outputs, gt, METAS, None, categories)


def test_more_boxes_of_a_name_than_queries_are_counted(make_head, outputs, categories, gt, monkeypatch):
    """Image 1 has six boxes of row 3 and four queries for it: said at the 1st and the 10th time."""
    said = []
    monkeypatch.setattr('mmengine.logging.MMLogger.warning', lambda self, text: said.append(text))
    head = make_head()
    for _ in range(12):
        head.loss_by_feat(*outputs, gt, METAS, None, categories)
    assert head.num_crowded == 12
    assert [text.split(' have')[0] for text in said] == ['1 images so far', '10 images so far']
    assert 'num_queries=4, this one 6' in said[0]


# -- denoising ------------------------------------------------------------------------------------------------------


@pytest.fixture
def dn_meta():
    """One group of two slots: positives, then negatives; image 1 has one box and padding."""
    return dict(
        num_denoising_queries=4,
        num_denoising_groups=1,
        gt_inds=torch.tensor([[1, 3, 0, 0], [5, -1, 0, -1]]),
        class_vectors=torch.randn(B, 4, D, generator=torch.Generator().manual_seed(5)),
    )


def test_denoising_losses_are_the_formulas(make_head, outputs, categories, gt, dn_meta):
    generator = torch.Generator().manual_seed(6)
    dn_logits = torch.randn(L, B, 4, 1, generator=generator)
    dn_boxes = 0.3 + 0.2 * torch.rand(L, B, 4, 4, generator=generator)
    logits, boxes = torch.cat([dn_logits, outputs[0]], 2), torch.cat([dn_boxes, outputs[1]], 2)
    head = make_head()
    losses = head.loss_by_feat(
        logits, boxes, *outputs[2:], gt, METAS, dict(dn_meta, num_denoising_groups=3), categories
    )

    counted = dn_logits[1, :, :, 0][dn_meta['gt_inds'] >= 0]
    cls = 2 * focal(counted, torch.tensor([1.0, 1, 0, 0, 1, 0])).sum()
    first = box_losses(dn_boxes[1, 0, :2], gt[0].bboxes[[0, 2]], image_size(0))
    second = box_losses(dn_boxes[1, 1, :1], gt[1].bboxes[[4]], image_size(1))
    avg_factor = 11 * 3
    torch.testing.assert_close(losses['dn_loss_cls'], cls / avg_factor)
    torch.testing.assert_close(losses['dn_loss_bbox'], 5 * (first[0] + second[0]) / avg_factor)
    torch.testing.assert_close(losses['dn_loss_iou'], 2 * (first[1] + second[1]) / avg_factor)
    assert {name for name in losses if 'dn_' in name} == {
        f'{prefix}dn_loss_{part}' for prefix in ('', 'd0.') for part in ('cls', 'bbox', 'iou')
    }
    plain = head.loss_by_feat(*outputs, gt, METAS, None, categories)
    for name, value in plain.items():
        torch.testing.assert_close(losses[name], value)


def test_padding_of_denoising_gets_no_gradient(make_head, outputs, categories, gt, dn_meta):
    logits = torch.randn(L, B, 4 + K * Q, 1, requires_grad=True)
    boxes = (0.3 + 0.2 * torch.rand(L, B, 4 + K * Q, 4)).requires_grad_()
    sum(make_head().loss_by_feat(logits, boxes, *outputs[2:], gt, METAS, dn_meta, categories).values()).backward()
    counts = (dn_meta['gt_inds'] >= 0).expand(L, -1, -1)
    assert torch.equal(logits.grad[:, :, :4, 0] != 0, counts)
    moved = (boxes.grad[:, :, :4] != 0).any(-1)
    assert torch.equal(moved, (dn_meta['gt_inds'] > 0).expand(L, -1, -1))


# -- forward --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hidden():
    generator = torch.Generator().manual_seed(7)
    states = torch.randn(L, B, K * Q, D, generator=generator)
    return states, [0.1 + 0.8 * torch.rand(B, K * Q, 4, generator=generator) for _ in range(L + 1)]


@pytest.mark.parametrize('share', [True, False])
def test_forward_by_hand(make_head, hidden, categories, share):
    """Each query is scored against the vector of its own category; boxes start from the layer's input reference."""
    head = make_head(share_layers=share)
    states, references = hidden
    logits, boxes = head(states, references, categories)
    assert logits.shape == (L, B, K * Q, 1)
    for layer in range(L):
        classifier, box_branch = head.cls_branches[layer], head.reg_branches[layer]
        for image in range(B):
            for query in range(K * Q):
                h = states[layer, image, query]
                z = categories.vectors[image, categories.keep[image, query // Q]]
                expected = (classifier.features(h) * z).sum() / D**0.5 + classifier.bias
                torch.testing.assert_close(logits[layer, image, query, 0], expected)
        expected = (box_branch(states[layer]) + torch.logit(references[layer])).sigmoid()
        torch.testing.assert_close(boxes[layer], expected)


def test_denoising_queries_use_their_own_vectors(make_head, hidden, categories, dn_meta):
    head = make_head()
    states, references = hidden
    dn_states = torch.randn(L, B, 4, D)
    with_dn = head(
        torch.cat([dn_states, states], 2),
        [torch.cat([torch.full((B, 4, 4), 0.5), reference], 1) for reference in references],
        categories,
        dn_meta,
    )
    plain = head(states, references, categories)
    for mine, theirs in zip(with_dn, plain, strict=True):
        torch.testing.assert_close(mine[:, :, 4:], theirs)
    expected = head.cls_branches[0](dn_states, dn_meta['class_vectors'])
    torch.testing.assert_close(with_dn[0][:, :, :4, 0], expected)


def test_shared_and_separate_layers(make_head):
    shared, separate = make_head(share_layers=True), make_head(share_layers=False)
    for branches in (shared.cls_branches, shared.reg_branches):
        assert branches[0] is branches[1] is not branches[2]
    for branches in (separate.cls_branches, separate.reg_branches):
        assert len({id(branch) for branch in branches}) == L + 1
    assert not torch.equal(separate.cls_branches[0].features[0].weight, separate.cls_branches[1].features[0].weight)
    classifier = 2 * (D * D + D) + 1
    box = 2 * (D * D + D) + 4 * D + 4
    count = sum(p.numel() for p in separate.parameters()) - sum(p.numel() for p in shared.parameters())
    assert count == (L - 1) * (classifier + box)


def test_proposals_have_a_linear_classifier(make_head):
    assert [type(layer).__name__ for layer in make_head().cls_branches[-1].features] == ['Linear']


def test_start_probability(make_head):
    head = make_head(prior_prob=0.03)
    head.init_weights()
    assert [round(branch.bias.sigmoid().item(), 6) for branch in head.cls_branches] == [0.03] * (L + 1)


@pytest.mark.parametrize('share', [True, False])
def test_state_round_trip(make_head, hidden, categories, share):
    head, other = make_head(share_layers=share), make_head(share_layers=share)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(head.state_dict())
    for mine, theirs in zip(head(*hidden, categories), other(*hidden, categories), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize('num_classes', [0, 80])
def test_number_of_classes_must_be_one(num_classes):
    with pytest.raises(ValueError, match=f'num_classes must be 1, not {num_classes}.*vocabulary'):
        METRHead(embed_dims=D, num_classes=num_classes)


def test_assigners_can_be_configured(make_head):
    costs = [dict(type='FocalLossCost', weight=1.0)]
    head = make_head(train_cfg=dict(assigner=dict(type='GroupHungarianAssigner', match_costs=costs)))
    assert len(head.assigner.match_costs) == 1
    assert len(head.proposal_assigner.match_costs) == 3


# -- predict --------------------------------------------------------------------------------------------------------


def predict(head, hidden, categories, rescale=True):
    samples = [DetDataSample(metainfo=meta) for meta in METAS]
    return head.predict(*hidden, categories, samples, rescale)


def test_predictions_are_the_best_queries_of_the_last_layer(make_head, hidden, categories):
    head = make_head(test_cfg=dict(max_per_img=5))
    logits, boxes = head(*hidden, categories)
    for image, result in enumerate(predict(head, hidden, categories, rescale=False)):
        entries = [
            (logits[-1, image, query, 0].sigmoid().item(), int(categories.keep[image, query // Q]), query)
            for query in range(K * Q)
            if categories.valid[image, query // Q]
        ]
        best = sorted(entries, reverse=True)[:5]
        assert result.scores.tolist() == pytest.approx([score for score, _, _ in best])
        assert result.labels.tolist() == [label for _, label, _ in best]
        corners = box_convert(boxes[-1, image, [query for _, _, query in best]], 'cxcywh', 'xyxy') * image_size(image)
        expected = torch.minimum(corners.clamp(min=0), image_size(image))
        torch.testing.assert_close(result.bboxes, expected)


@pytest.mark.parametrize('max_per_img', [1, K * Q, 300])
def test_number_of_predictions(make_head, hidden, categories, max_per_img):
    results = predict(make_head(test_cfg=dict(max_per_img=max_per_img)), hidden, categories)
    # Image 1 has one unused group.
    assert [len(result) for result in results] == [min(max_per_img, K * Q), min(max_per_img, 2 * Q)]


def test_filler_categories_are_never_predicted(make_head, hidden, categories):
    result = predict(make_head(), hidden, categories)[1]
    assert set(result.labels.tolist()) == {1, 3}
    assert result.scores.min() >= 0


@pytest.mark.parametrize('fusion', [False, True])
def test_scores_are_sorted_probabilities(make_head, hidden, categories, fusion):
    head = make_head(test_cfg=dict(max_per_img=300, score_fusion=fusion))
    for result in predict(head, hidden, categories):
        assert ((result.scores >= 0) & (result.scores <= 1)).all()
        assert (result.scores.diff() <= 0).all()


def test_score_fusion_multiplies_by_the_probability_of_the_category(make_head, hidden, categories):
    plain = predict(make_head(test_cfg=dict(max_per_img=300)), hidden, categories)
    fused = predict(make_head(test_cfg=dict(max_per_img=300, score_fusion=True)), hidden, categories)
    for image in range(B):
        presence = categories.logits[-1][image].sigmoid()
        expected = (plain[image].scores * presence[plain[image].labels]).sort(descending=True).values
        torch.testing.assert_close(fused[image].scores, expected)


@pytest.mark.parametrize('rescale', [True, False])
def test_boxes_are_inside_the_image(make_head, hidden, categories, rescale):
    states, references = hidden
    references = [torch.rand_like(reference) for reference in references]  # many reach over the border
    for meta, result in zip(METAS, predict(make_head(), (states, references), categories, rescale), strict=True):
        height, width = meta['ori_shape' if rescale else 'img_shape']
        x1, y1, x2, y2 = result.bboxes.unbind(-1)
        assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
        assert (x2 >= x1).all() and (y2 >= y1).all()


def test_rescaling_divides_by_the_scale_factor(make_head, hidden, categories):
    head = make_head()
    small, large = (predict(head, hidden, categories, rescale)[0].bboxes for rescale in (False, True))
    torch.testing.assert_close(large, small * torch.tensor([4.0, 2.0, 4.0, 2.0]))
