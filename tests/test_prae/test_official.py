"""The preset ``official`` against a literal scalar loop over what the authors' code does."""

import math

import numpy as np
import pytest

from mmplugins.prae import Detections, fit, fit_config, fuse, fuse_config


def iou(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0.0) * max(height, 0.0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def scalar_levels(table, gt) -> list[float]:
    """Upper confidence bound of each of the 24 levels."""
    edges = [0.04 * (k + 1) for k in range(25)]
    values = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        n, hits = 1, 0
        for row in range(len(table)):
            if not low <= table.score[row] <= high:  # closed at both ends
                continue
            n += 1
            same = (gt.image == table.image[row]) & (gt.category == table.category[row])
            hits += any(iou(table.box[row], box) > 0.5 for box in gt.box[same])
        values.append(hits / n + 0.5 * math.sqrt(2 * math.log(len(table)) / n))
    return values


def scalar_refine(score, values) -> float | None:
    if score < 0.04:
        return None
    level = int(min(score // 0.04, 24)) - 1
    return score * values[level] / (0.04 * (level + 2) - 0.02)


def scalar_fusion(tables, values, image, size) -> list[tuple]:
    """``(score, category, box)`` of an image, by falling score."""
    found = []
    for table, curve in zip(tables, values, strict=True):
        boxes = []
        for row in np.flatnonzero(table.image == image):
            score = scalar_refine(table.score[row], curve)
            if score is not None:
                x1, y1, x2, y2 = table.box[row] / np.tile(size, 2)
                boxes.append((score, int(table.category[row]), np.array([x1, y1, min(x2, 1.0), min(y2, 1.0)])))
        found.append(boxes)
    fired = sum(bool(boxes) for boxes in found)  # silent detectors are left out with their weight
    fused = []
    for category in sorted({label for boxes in found for _, label, _ in boxes}):
        clusters: list[list[tuple]] = []
        means: list[np.ndarray] = []
        boxes = [(s, b) for boxes in found for s, label, b in boxes if label == category and s >= 1e-4]
        for score, box in sorted(boxes, key=lambda pair: -pair[0]):
            overlaps = [iou(mean, box) for mean in means]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if overlaps and overlaps[best] > 0.7:
                clusters[best].append((score, box))
                total = sum(s for s, _ in clusters[best])
                means[best] = sum(s * b for s, b in clusters[best]) / total
            else:
                clusters.append([(score, box)])
                means.append(box)
        for members, mean in zip(clusters, means, strict=True):
            score = sum(s for s, _ in members) / len(members) * min(fired, len(members)) / fired
            fused.append((score, category, mean * np.tile(size, 2)))
    return sorted(fused, key=lambda entry: -entry[0])


@pytest.fixture(scope='module')
def case(ground_truth, detector):
    """100 images, boxes over the border, images where a detector or both are silent, scores on level edges."""
    gt = ground_truth(num_images=100, seed=11, ignore=0.2)
    tables = []
    for seed in (12, 13):
        table = detector(gt, seed, noise=10.0)
        table.box[:, 2:] += 3.0
        table.score[::17] = np.round(table.score[::17] / 0.04) * 0.04
        silent = (table.image % 10 == seed % 10) | (table.image == 99)
        tables.append(table.select(~silent))
    return gt, tables


def test_levels(case):
    gt, tables = case
    calib = fit({'a': tables[0], 'b': tables[1]}, gt, fit_config('official'))
    for detector, table in zip(calib.detectors, tables, strict=True):
        np.testing.assert_allclose(detector.curve.levels.sp, scalar_levels(table, gt), atol=1e-12)


def test_refined_scores(case):
    gt, tables = case
    calib = fit({'a': tables[0], 'b': tables[1]}, gt, fit_config('official'))
    values = scalar_levels(tables[0], gt)
    scores = np.concatenate([tables[0].score, np.arange(0, 26) * 0.04 / 1.04, [0.04, 0.12, 0.24, 0.6, 1.0, 0.0]])
    expected = [scalar_refine(float(score), values) for score in scores]
    refined = calib.refine(0, scores, np.zeros(len(scores), dtype=int))
    np.testing.assert_allclose(refined, [np.nan if e is None else e for e in expected], atol=1e-12)


def test_fused_boxes_of_100_images(case):
    gt, tables = case
    calib = fit({'a': tables[0], 'b': tables[1]}, gt, fit_config('official'))
    values = [scalar_levels(table, gt) for table in tables]
    out = fuse(tables, calib, fuse_config('official', max_per_img=1000), gt.dataset.sizes)
    for image in range(100):
        expected = scalar_fusion(tables, values, image, gt.dataset.sizes[image])
        mine = out.select(out.image == image)
        np.testing.assert_allclose(mine.score, [score for score, *_ in expected], atol=1e-6)
        if len(mine):
            assert mine.category.tolist() == [category for _, category, _ in expected]
            np.testing.assert_allclose(mine.box, [box for *_, box in expected], atol=1e-6)


def test_edge_scores_count_in_both_levels(ground_truth):
    gt = ground_truth()
    edge = 0.04 * 3
    table = Detections.make([0], [0], [edge], [[0, 0, 5, 5]])
    calib = fit({'a': table}, gt, fit_config('official'))
    assert calib.detectors[0].curve.levels.n[:4].tolist() == [1, 2, 2, 1]


@pytest.mark.parametrize('score', [1.2, -3.0])
def test_scores_out_of_range_are_refused_with_advice(ground_truth, score):
    gt = ground_truth()
    table = Detections.make([0, 1], [0, 0], [0.5, score], [[0, 0, 5, 5]] * 2)
    with pytest.raises(ValueError, match='sigmoid'):
        fit({'a': table}, gt, fit_config('official'))
    calib = fit({'a': table}, gt, fit_config('official', score_transform='minmax'))
    assert np.isfinite(calib.refine(0, np.array([max(score, 0.5)]), np.array([0]))).all()
