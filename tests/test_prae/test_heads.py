"""Every head against another implementation: ensemble-boxes, mmcv, or a loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms_rotated, soft_nms

from mmplugins.prae import Calibration, Detections, fuse, fuse_config
from mmplugins.prae.fusion.masks import as_bitmap, as_run_lengths

SIZE = np.array([400.0, 300.0, 400.0, 300.0])


@pytest.fixture(scope='module')
def boxes(ground_truth, detector) -> tuple[tuple[str, ...], list[Detections]]:
    """Class names and the boxes of three detectors on 40 images, inside the images."""
    gt = ground_truth(num_images=40)
    tables = [detector(gt, seed, noise=noise) for seed, noise in ((1, 5.0), (2, 8.0), (3, 12.0))]
    return gt.dataset.classes, [Detections.make(t.image, t.category, t.score, np.clip(t.box, 0, SIZE)) for t in tables]


def by_image(tables, image):
    """Boxes in [0, 1], scores and labels of one image, a list for each detector."""
    rows = [np.flatnonzero(table.image == image) for table in tables]
    pairs = list(zip(tables, rows, strict=True))
    return (
        [t.box[r] / SIZE for t, r in pairs],
        [t.score[r] for t, r in pairs],
        [t.category[r] for t, r in pairs],
    )


def compare(out, image, box, score, label, atol):
    """Sort both by score and compare; scores are random, so the order is unique."""
    mine = out.select(out.image == image)
    order = np.argsort(-score, kind='stable')
    np.testing.assert_allclose(mine.score, score[order], atol=atol)
    np.testing.assert_allclose(mine.box / SIZE, box[order], atol=atol)
    assert mine.category.tolist() == label[order].astype(int).tolist()


@pytest.mark.parametrize('weights', [None, (1.0, 2.0, 3.0)], ids=['equal', 'weighted'])
@pytest.mark.parametrize(('count', 'conf_type'), [('boxes', 'avg'), ('models', 'box_and_model_avg')])
def test_wbf_is_that_of_ensemble_boxes(boxes, count, conf_type, weights):
    ensemble_boxes = pytest.importorskip('ensemble_boxes')
    classes, tables = boxes
    if weights:  # theirs exceed 1 where a detector has two boxes of one object, ours do not, see below
        alone = fuse_config(head='nms', iou_thr=0.1, max_per_img=1000)
        tables = [fuse([table], Calibration.identity('a', classes), alone) for table in tables]
    cfg = fuse_config(count=count, weights=weights, max_per_img=1000)
    out = fuse(tables, Calibration.identity('abc', classes), cfg)
    for image in range(40):
        expected = ensemble_boxes.weighted_boxes_fusion(
            *by_image(tables, image), iou_thr=0.55, conf_type=conf_type, weights=weights
        )
        compare(out, image, *expected, atol=1e-6)  # theirs adds in float32


def test_boxes_are_left_out_by_their_score_whatever_the_weight_of_the_detector(boxes):
    ensemble_boxes = pytest.importorskip('ensemble_boxes')
    classes, tables = boxes
    alone = fuse_config(head='nms', iou_thr=0.1, max_per_img=1000)
    tables = [fuse([table], Calibration.identity('a', classes), alone) for table in tables]
    options = dict(weights=(1.0, 0.1, 0.1), max_per_img=1000)
    out = fuse(tables, Calibration.identity('abc', classes), fuse_config(skip_below=0.3, **options))
    for image in range(40):
        expected = ensemble_boxes.weighted_boxes_fusion(
            *by_image(tables, image), iou_thr=0.55, skip_box_thr=0.3, weights=options['weights']
        )
        compare(out, image, *expected, atol=1e-6)


@pytest.mark.parametrize('iou_thr', [0.3, 0.55])
def test_nmw_is_that_of_ensemble_boxes(boxes, iou_thr):
    ensemble_boxes = pytest.importorskip('ensemble_boxes')
    classes, tables = boxes
    out = fuse(tables, Calibration.identity('abc', classes), fuse_config(head='nmw', iou_thr=iou_thr, max_per_img=1000))
    for image in range(40):
        compare(out, image, *ensemble_boxes.non_maximum_weighted(*by_image(tables, image), iou_thr=iou_thr), atol=1e-6)


@pytest.mark.parametrize('iou_thr', [0.3, 0.5, 0.7])
def test_nms_is_that_of_mmcv(boxes, iou_thr):
    classes, tables = boxes
    out = fuse(tables, Calibration.identity('abc', classes), fuse_config(head='nms', iou_thr=iou_thr, max_per_img=1000))
    for image in range(40):
        box, score, label = (np.concatenate(part) for part in by_image(tables, image))
        tensors = (torch.from_numpy(x) for x in ((box * SIZE).astype(np.float32), score.astype(np.float32), label))
        _, keep = batched_nms(*tensors, dict(type='nms', iou_threshold=iou_thr))
        compare(out, image, box[keep], score[keep], label[keep], atol=1e-6)


@pytest.mark.parametrize('sigma', [0.1, 0.5, None])
def test_soft_nms_is_that_of_mmcv(boxes, sigma):
    classes, tables = boxes
    cfg = fuse_config(head='soft_nms', sigma=sigma, iou_thr=0.3, max_per_img=1000)
    out = fuse(tables, Calibration.identity('abc', classes), cfg)
    method = dict(method='linear') if sigma is None else dict(method='gaussian', sigma=sigma)
    for image in range(40):
        box, score, label = (np.concatenate(part) for part in by_image(tables, image))
        parts = []
        for category in np.unique(label):
            rows = np.flatnonzero(label == category)
            tensors = (torch.from_numpy(x[rows].astype(np.float32)) for x in (box * SIZE, score))
            dets, keep = soft_nms(*tensors, iou_threshold=0.3, min_score=1e-3, **method)
            parts.append((box[rows[keep.numpy()]], dets[:, 4].numpy(), label[rows[keep.numpy()]]))
        expected = [np.concatenate(column) for column in zip(*parts, strict=True)]
        mine = out.select(out.image == image)
        assert len(mine) == len(expected[1])
        np.testing.assert_allclose(np.sort(mine.score), np.sort(expected[1]), atol=2e-6)


def test_noisy_or_is_a_loop(boxes):
    classes, tables = boxes
    out = fuse(tables, Calibration.identity('abc', classes), fuse_config(head='noisy_or', iou_thr=0.5))
    nms = fuse(tables, Calibration.identity('abc', classes), fuse_config(head='nms', iou_thr=0.5))
    assert len(out) == len(nms)
    rows = [(d, r) for d, r in nms.source if tables[d].image[r] == 0]
    found = []
    for place, (d, r) in enumerate(rows):
        best = {d: tables[d].score[r]}
        for e, table in enumerate(tables):
            for q in np.flatnonzero((table.image == 0) & (table.category == tables[d].category[r])):
                kept = [k for k, (a, b) in enumerate(rows) if overlap(tables[a].box[b], table.box[q]) > 0.5
                        and tables[a].category[b] == table.category[q]]  # fmt: skip
                if (e, q) not in rows and kept and kept[0] == place:  # the best kept box suppresses it
                    best[e] = max(best.get(e, 0.0), table.score[q])
        found.append(1 - np.prod([1 - score for score in best.values()]))
    np.testing.assert_allclose(out.score[out.image == 0], sorted(found, reverse=True), atol=1e-9)


def overlap(a, b) -> float:
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inter = np.prod(np.maximum(size, 0))
    return inter / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - inter)


def test_min_models_leaves_out_what_one_detector_alone_says(boxes):
    classes, tables = boxes
    for head in ('wbf', 'nmw', 'noisy_or'):
        alone = fuse(tables[:1], Calibration.identity('a', classes), fuse_config(head=head, min_models=2))
        assert len(alone) == 0
        two = fuse(tables, Calibration.identity('abc', classes), fuse_config(head=head, min_models=2))
        one = fuse(tables, Calibration.identity('abc', classes), fuse_config(head=head))
        assert 0 < len(two) < len(one)


def test_rotated_nms_is_upright_nms_at_angle_zero(boxes):
    classes, tables = boxes
    upright = fuse(tables, Calibration.identity('abc', classes), fuse_config(head='nms', iou_thr=0.5))
    centers = [
        np.concatenate([(t.box[:, :2] + t.box[:, 2:]) / 2, t.box[:, 2:] - t.box[:, :2], 0 * t.box[:, :1]], axis=1)
        for t in tables
    ]
    rotated = [Detections.make(t.image, t.category, t.score, c) for t, c in zip(tables, centers, strict=True)]
    out = fuse(rotated, Calibration.identity('abc', classes), fuse_config(head='nms', iou_thr=0.5))
    assert (out.source == upright.source).all()
    for head in ('wbf', 'nmw', 'noisy_or'):
        cfg = fuse_config(head=head, max_per_img=1000)
        a, b = (fuse(part, Calibration.identity('abc', classes), cfg) for part in (tables, rotated))
        np.testing.assert_allclose(b.score, a.score, atol=1e-6)  # overlaps of rotated boxes are in float32
        np.testing.assert_allclose(b.box[:, :2], (a.box[:, :2] + a.box[:, 2:]) / 2, atol=1e-3)
        np.testing.assert_allclose(b.box[:, 2:4], a.box[:, 2:] - a.box[:, :2], atol=1e-3)
        np.testing.assert_allclose(b.box[:, 4], 0)


@pytest.mark.parametrize('head', ['wbf', 'nmw', 'noisy_or'])
def test_the_same_rectangle_under_four_names_is_fused_to_itself(head):
    names = [[50, 40, 30, 10, 0.2], [50, 40, 10, 30, 0.2 + np.pi / 2], [50, 40, 30, 10, 0.2 - np.pi],
             [50, 40, 10, 30, 0.2 - np.pi / 2]]  # fmt: skip
    tables = [Detections.make([0], [0], [0.9 - 0.1 * k], [name]) for k, name in enumerate(names)]
    out = fuse(tables, Calibration.identity('abcd', ['x']), fuse_config(head=head))
    np.testing.assert_allclose(out.box, names[:1], atol=1e-5)


@pytest.mark.parametrize('head', ['wbf', 'nmw', 'noisy_or', 'nms', 'soft_nms'])
def test_weights_keep_scores_below_the_best_of_their_boxes(boxes, head):
    classes, tables = boxes
    for weights in ((9.0, 1.0, 1.0), (1.0, 5.0, 0.1)):
        out = fuse([*tables], Calibration.identity('abc', classes), fuse_config(head=head, weights=weights))
        assert out.score.max() <= (1 if head == 'noisy_or' else max(table.score.max() for table in tables))


def test_corners_can_have_weights_of_their_own():
    tables = [Detections.make([0], [0], [0.5], [[0, 0, 10, 10]]), Detections.make([0], [0], [0.5], [[1, 0, 11, 10]])]
    calib = Calibration.identity('ab', ['x'])
    for head in ('wbf', 'noisy_or'):
        plain = fuse(tables, calib, fuse_config(head=head))
        out = fuse(tables, calib, fuse_config(head=head, corner_weights=(3.0, 1.0)))
        assert out.box[0].tolist() == pytest.approx([0.25, 0, 10.25, 10])
        assert out.score.tolist() == plain.score.tolist()


def test_rotated_nms_is_that_of_mmcv(boxes):
    classes, tables = boxes
    rng = np.random.default_rng(0)
    rotated = []
    for t in tables:
        center, size = (t.box[:, :2] + t.box[:, 2:]) / 2, t.box[:, 2:] - t.box[:, :2]
        box = np.concatenate([center, size, rng.uniform(-0.4, 0.4, (len(t), 1))], axis=1)
        rotated.append(Detections.make(t.image, t.category, t.score, box))
    out = fuse(rotated, Calibration.identity('abc', classes), fuse_config(head='nms', iou_thr=0.4, max_per_img=1000))
    for image in range(40):
        for category in range(3):
            parts = [t.select((t.image == image) & (t.category == category)) for t in rotated]
            box, score = np.concatenate([p.box for p in parts]), np.concatenate([p.score for p in parts])
            _, keep = nms_rotated(*(torch.from_numpy(x.astype(np.float32)) for x in (box, score)), 0.4)
            mine = out.select((out.image == image) & (out.category == category))
            expected = box[np.sort(keep.numpy()) if keep is not None else []]
            assert sorted(map(tuple, mine.box)) == sorted(map(tuple, expected))


def test_masks_go_with_the_boxes_that_stay(boxes):
    classes, tables = boxes
    mask = np.array([dict(counts=str(row)) for row in range(len(tables[0]))], dtype=object)
    with_masks = [Detections(*(getattr(tables[0], k) for k in ('image', 'category', 'score', 'box')), mask), tables[1]]
    out = fuse(with_masks, Calibration.identity('ab', classes), fuse_config(head='nms'))
    assert {None} < {None if m is None else m['counts'] for m in out.mask}
    for (detector, row), kept in zip(out.source, out.mask, strict=True):
        assert kept == (dict(counts=str(row)) if detector == 0 else None)


@pytest.mark.parametrize('coded', [False, True], ids=['bitmaps', 'run lengths'])
def test_masks_of_merged_boxes_vote_by_the_weight_of_their_boxes(coded):
    bitmaps = np.zeros((3, 4, 6), dtype=bool)
    for row, width in zip(bitmaps, (2, 3, 6), strict=True):
        row[:, :width] = True
    masks = [as_run_lengths(m) if coded else m for m in bitmaps]
    tables = []
    for score, mask in zip((0.5, 0.3, 0.4, 0.9), [*masks, None], strict=True):
        column = np.empty(1, dtype=object)
        column[0] = mask
        table = Detections.make([0], [0], [score], [[0, 0, 10, 10]])
        tables.append(replace(table, mask=None if mask is None else column))
    out = fuse(tables, Calibration.identity('abcd', ['x']), fuse_config(head='wbf'))
    share = sum(score * m for score, m in zip((0.5, 0.3, 0.4), bitmaps, strict=True)) / 1.2
    np.testing.assert_array_equal(as_bitmap(out.mask[0]), share >= 0.5)
    lonely = fuse(tables[3:] + tables[:1], Calibration.identity('da', ['x']), fuse_config(head='nms'))
    assert lonely.mask.tolist() == [None]  # the best box has no mask, and is the one that stays


@pytest.mark.parametrize('iou_thr', [0.3, 0.5, 1.0])
def test_nms_is_the_same_without_torchvision(boxes, iou_thr, monkeypatch):
    classes, tables = boxes
    twice = [*tables, tables[0]]  # equal scores, equal boxes
    cfg = fuse_config(head='nms', iou_thr=iou_thr)
    fast = fuse(twice, Calibration.identity('abcd', classes), cfg)
    monkeypatch.setattr('mmplugins.prae.fusion.fuse.has_torchvision', lambda: False)
    slow = fuse(twice, Calibration.identity('abcd', classes), cfg)
    assert fast.source.tolist() == slow.source.tolist()
    np.testing.assert_array_equal(fast.score, slow.score)
