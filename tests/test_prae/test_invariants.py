"""What must hold for any detectors: order, invariance, independence, empty inputs. Numbers are those of the docs."""

import warnings
from dataclasses import replace

import numpy as np
import pytest

from mmplugins.prae import Calibration, Dataset, Detections, GroundTruth, fit, fit_config, fuse, fuse_config
from mmplugins.prae.boxes.average_precision import coco_scores
from mmplugins.prae.boxes.tables import subset_detections
from mmplugins.prae.calibration.fit import targets
from mmplugins.prae.calibration.reliability import ece
from mmplugins.prae.fusion.options import HEADS
from mmplugins.prae.tuning.bootstrap import ResampledAP
from mmplugins.prae.tuning.folds import parts_of
from mmplugins.prae.tuning.held_out import Held, calibrate_fused, hold_out

MERGING = ('wbf', 'nmw', 'noisy_or')


def fitted(scene, preset='robust', **options) -> Calibration:
    gt, _, tables, _ = scene
    return fit(dict(zip('ab', tables, strict=True)), gt, fit_config(preset, **options))


def same(a: Detections, b: Detections, atol: float = 0.0) -> None:
    """Equal tables."""
    assert a.image.tolist() == b.image.tolist()
    assert a.category.tolist() == b.category.tolist()
    np.testing.assert_allclose(a.score, b.score, atol=atol, rtol=0)
    np.testing.assert_allclose(a.box, b.box, atol=max(atol * 100, 0), rtol=0)


@pytest.mark.parametrize('per_category', [False, True])
def test_1_one_detector_keeps_order_and_ap(scene, per_category):
    gt, test, fit_tables, tables = scene
    calib = fit({'a': fit_tables[0]}, gt, fit_config(per_category=per_category))
    out = fuse(tables[:1], calib, fuse_config(head='nms', iou_thr=1.0, max_per_img=10**6))
    assert len(out) == len(tables[0])
    for category in range(3):
        mine = out.select(out.category == category)
        raw = tables[0].score[mine.source[:, 1]]
        order = np.argsort(-mine.score, kind='stable')
        assert (np.diff(raw[order]) < 0).all()
    before, after = coco_scores(tables[0], test), coco_scores(out, test)
    assert after == pytest.approx(before, abs=1e-9)


def test_1_official_may_reorder_a_little(scene):
    gt, test, fit_tables, tables = scene
    calib = fit({'a': fit_tables[0]}, gt, fit_config('official'))
    out = fuse(tables[:1], calib, fuse_config('official', head='nms', iou_thr=1.0, max_per_img=10**6))
    kept = tables[0].select(tables[0].score >= 0.04)
    assert abs(coco_scores(out, test)['AP50'] - coco_scores(kept, test)['AP50']) < 1


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize(
    'transform', [lambda s: s**3, lambda s: np.log(s / (1 - s)), lambda s: 100 * s - 7], ids=['cube', 'logit', 'linear']
)
def test_3_rising_transforms_change_nothing(scene, head, transform):
    gt, _, fit_tables, tables = scene
    cfg = fuse_config(head=head)
    before = fuse(tables, fitted(scene), cfg)
    other = [fit_tables[0], fit_tables[1].with_scores(transform(fit_tables[1].score))]
    calib = fit(dict(zip('ab', other, strict=True)), gt)
    after = fuse([tables[0], tables[1].with_scores(transform(tables[1].score))], calib, cfg)
    same(before, after, atol=5e-9)  # the last digits hold the order of equal probabilities


def test_3_plain_fusion_does_change(scene):
    _, _, _, tables = scene
    calib = Calibration.identity('ab', ['class 0', 'class 1', 'class 2'])
    cubed = [tables[0], tables[1].with_scores(tables[1].score ** 3)]
    a, b = fuse(tables, calib), fuse(cubed, calib)
    assert len(a) != len(b) or np.abs(a.box - b.box).max() > 0.1


@pytest.mark.parametrize('preset', ['robust', 'official'])
@pytest.mark.parametrize('head', HEADS)
def test_4_boxes_are_input_boxes_or_between_them(scene, head, preset):
    *_, tables = scene
    out = fuse(tables, fitted(scene, preset), fuse_config(preset, head=head))
    assert len(out) <= sum(map(len, tables))
    if head in MERGING:
        for image in range(60):
            mine = out.box[out.image == image]
            given = np.concatenate([t.box[t.image == image] for t in tables])
            assert (mine >= given.min(0) - 1e-9).all() and (mine <= given.max(0) + 1e-9).all()
    else:
        for (detector, row), box in zip(out.source, out.box, strict=True):
            assert (tables[detector].box[row] == box).all()


@pytest.mark.parametrize('head', HEADS)
def test_5_order_of_detectors_images_and_rows_does_not_matter(scene, head):
    gt, _, fit_tables, tables = scene
    cfg = fuse_config(head=head, weights=(1.0, 2.0))
    before = fuse(tables, fitted(scene), cfg)
    same(before, fuse(tables, fitted(scene), cfg))

    swapped = fit(dict(zip('ba', fit_tables[::-1], strict=True)), gt)
    # Corners and scores are summed in another order only where scores are equal.
    other = fuse(tables[::-1], swapped, fuse_config(head=head, weights=(2.0, 1.0)))
    same(before, other, atol=1e-8)

    rng = np.random.default_rng(0)
    mixed = [t.select(rng.permutation(len(t))) for t in tables]
    same(before, fuse(mixed, fitted(scene), cfg))


@pytest.mark.parametrize('head', HEADS)
def test_5_an_image_alone_gives_what_it_gives_among_others(scene, head):
    *_, tables = scene
    calib = fitted(scene)
    whole = fuse(tables, calib, fuse_config(head=head))
    for image in (0, 17):
        alone = fuse([subset_detections(t, np.array([image]), 60) for t in tables], calib, fuse_config(head=head))
        part = whole.select(whole.image == image)
        np.testing.assert_array_equal(alone.score, part.score)
        np.testing.assert_array_equal(alone.box, part.box)


@pytest.mark.parametrize('head', HEADS)
def test_6_categories_are_independent(scene, head):
    *_, tables = scene
    calib = fitted(scene)
    cfg = fuse_config(head=head, max_per_img=1000)
    whole = fuse(tables, calib, cfg)
    rest = fuse([t.select(t.category != 1) for t in tables], calib, cfg)
    same(whole.select(whole.category != 1), rest)


@pytest.mark.parametrize('preset', ['robust', 'official'])
@pytest.mark.parametrize('head', HEADS)
def test_7_empty_inputs_give_valid_outputs(scene, head, preset):
    *_, tables = scene
    calib, cfg = fitted(scene, preset), fuse_config(preset, head=head)
    nothing = tables[0].select(np.zeros(0, dtype=int))
    assert len(fuse([nothing, nothing], calib, cfg)) == 0
    one = fuse([tables[0], nothing], calib, cfg)
    assert len(one) and np.isfinite(one.score).all() and np.isfinite(one.box).all()
    gap = fuse([tables[0].select(tables[0].image != 3), tables[1].select(tables[1].image != 4)], calib, cfg)
    assert {3, 4} <= set(gap.image.tolist())
    zero = fuse([t.with_scores(np.zeros(len(t))) for t in tables], calib, cfg)
    assert np.isfinite(zero.box).all()


def test_7_detector_without_a_box_is_fitted_with_a_warning(scene):
    gt, _, fit_tables, tables = scene
    nothing = fit_tables[0].select(np.zeros(0, dtype=int))
    with pytest.warns(UserWarning, match='scores stay as they are'):
        calib = fit({'a': fit_tables[0], 'b': nothing}, gt)
    assert len(fuse([tables[0], nothing], calib)) > 0


def test_8_detector_that_lacks_a_class_does_not_count_in_it(scene):
    gt, _, fit_tables, tables = scene
    without = fit_tables[1].select(fit_tables[1].category != 2)
    calib = fit({'a': fit_tables[0], 'b': without}, gt)
    assert calib.detectors[1].known == ('class 0', 'class 1')
    out = fuse([tables[0], tables[1].select(tables[1].category != 2)], calib)
    alone = fuse(tables[:1], calib.select('a'))
    pick = [t.select(t.category == 2) for t in (out, alone)]
    same(*pick)  # not halved


def test_8_bad_scores_and_labels_are_refused(scene):
    calib = fitted(scene)
    with pytest.raises(ValueError, match='NaN or infinite'):
        calib.refine(0, np.array([0.5, np.nan]), np.array([0, 0]))
    with pytest.raises(ValueError, match=r'labels of a must be in \[0, 3\)'):
        calib.refine(0, np.array([0.5]), np.array([3]))


def test_8_unknown_class_falls_back_to_the_common_curve(scene):
    calib = fitted(scene, per_category=True)
    with pytest.warns(UserWarning, match='without a curve of their own.*zebra'):
        wider = calib.for_classes(['zebra', 'class 1'])
    scores = np.linspace(0.1, 0.9, 5)
    np.testing.assert_array_equal(wider.refine(0, scores, np.zeros(5, dtype=int)), calib.detectors[0].curve(scores))
    np.testing.assert_array_equal(
        wider.refine(0, scores, np.ones(5, dtype=int)), calib.refine(0, scores, np.ones(5, dtype=int))
    )


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('transform', [lambda s: 3 * s, lambda s: np.log(s / (1 - s))], ids=['above 1', 'logits'])
def test_8_any_real_scores_do(scene, head, transform):
    gt, _, fit_tables, tables = scene
    calib = fit({'a': fit_tables[0].with_scores(transform(fit_tables[0].score)), 'b': fit_tables[1]}, gt)
    out = fuse([tables[0].with_scores(transform(tables[0].score)), tables[1]], calib, fuse_config(head=head))
    assert (out.score >= 0).all() and (out.score <= 1).all()


@pytest.mark.parametrize('num', range(1, 9))
def test_12_one_to_eight_detectors(ground_truth, detector, num):
    gt = ground_truth(num_images=20)
    tables = {f'd{n}': detector(gt, n, power=1 + n / 3) for n in range(num)}
    out = fuse(list(tables.values()), fit(tables, gt))
    assert coco_scores(out, gt)['AP50'] > 40


@pytest.mark.parametrize('num_classes', [80, 1203])
def test_12_many_classes(ground_truth, detector, num_classes):
    gt = ground_truth(num_images=300, num_classes=num_classes)
    tables = {name: detector(gt, seed) for seed, name in enumerate('ab')}
    calib = fit(tables, gt, fit_config(per_category=True, category_min=10))
    out = fuse(list(tables.values()), calib)
    assert out.category.max() < num_classes and len(out)


def test_13_a_detector_twice_changes_no_box_of_nms(scene):
    gt, _, fit_tables, tables = scene
    once = fuse(tables[:1], fit({'a': fit_tables[0]}, gt), fuse_config(head='nms'))
    twice = fuse([tables[0]] * 2, fit({'a': fit_tables[0], 'b': fit_tables[0]}, gt), fuse_config(head='nms'))
    np.testing.assert_array_equal(once.box, twice.box)
    assert once.category.tolist() == twice.category.tolist()


def test_13_a_detector_twice_keeps_ap_when_models_are_counted(scene):
    gt, test, fit_tables, tables = scene
    cfg = fuse_config(count='models')
    once = coco_scores(fuse(tables[:1], fit({'a': fit_tables[0]}, gt), cfg), test)
    twice = coco_scores(fuse([tables[0]] * 2, fit({'a': fit_tables[0], 'b': fit_tables[0]}, gt), cfg), test)
    assert twice['mAP'] == pytest.approx(once['mAP'], abs=0.1)
    assert twice['AP50'] == pytest.approx(once['AP50'], abs=0.1)


def with_junk(table: Detections, num_images: int, count: int, seed: int) -> Detections:
    """The table with ``count`` boxes more in each image, of scores below all others."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(num_images), count)
    corner = rng.uniform(0, [300, 200], (len(image), 2)) + [500, 0]  # where they join no other box
    box = np.concatenate([corner, corner + rng.uniform(20, 90, (len(image), 2))], axis=1)
    score = rng.uniform(0, table.score.min(), len(image))
    columns = (table.image, image), (table.category, rng.integers(0, 3, len(image))), (table.score, score)
    return Detections.make(*map(np.concatenate, columns), np.concatenate([table.box, box]))


@pytest.mark.parametrize('count', [100, 300])
def test_14_weak_boxes_change_nothing(ground_truth, detector, count):
    gt, test = (ground_truth(num_images=240, seed=seed) for seed in (1, 2))
    parts = [[detector(g, seed, noise=8.0 + seed, power=seed) for seed in (1, 3)] for g in (gt, test)]
    before = ResampledAP(fuse(parts[1], fit(dict(zip('ab', parts[0], strict=True)), gt)), test).mean_ap()
    parts = [[with_junk(t, 240, count, seed) for seed, t in enumerate(part)] for part in parts]
    calib = fit(dict(zip('ab', parts[0], strict=True)), gt)
    assert ResampledAP(fuse(parts[1], calib), test).mean_ap() == pytest.approx(before, abs=0.2)
    alone = parts[1][0].with_scores(calib.refine(0, parts[1][0].score, parts[1][0].category))
    raw, refined = (ResampledAP(table, test).mean_ap() for table in (parts[1][0], alone))
    assert refined == pytest.approx(raw, abs=1e-9)


@pytest.mark.parametrize('theta', [0.1, 0.5])
def test_14_the_bandit_term_keeps_the_order(scene, theta):
    _, test, _, tables = scene
    calib = fitted(scene, theta=theta)
    refined = tables[1].with_scores(calib.refine(1, tables[1].score, tables[1].category))
    assert coco_scores(refined, test) == pytest.approx(coco_scores(tables[1], test), abs=1e-9)


def test_15_the_curve_after_fusion_keeps_the_order_and_calibrates(scene):
    gt, test, fit_tables, tables = scene
    named = dict(zip('ab', fit_tables, strict=True))
    plain = fit(named, gt)
    calib, held = calibrate_fused(plain, hold_out(named, gt, plain.cfg), gt)
    before, after = fuse(tables, plain), fuse(tables, calib)
    np.testing.assert_array_equal(after.box, before.box)
    assert coco_scores(after, test) == pytest.approx(coco_scores(before, test), abs=1e-9)
    value, counts = targets(after, test, plain.cfg)
    assert ece(after.score[counts], value[counts]) < ece(before.score[counts], value[counts])
    raw, refined = held.errors(gt)['ECE']
    assert refined < raw
    other = fuse_config(iou_thr=0.6)  # of another fusion the curve says nothing
    with pytest.warns(UserWarning, match='scores are not calibrated'):
        uncalibrated = fuse(tables, calib, other)
    np.testing.assert_array_equal(uncalibrated.score, fuse(tables, plain, other).score)
    with pytest.warns(UserWarning, match=r"all of \['a', 'b'\], so it is left out: scores are not calibrated"):
        assert calib.select('b').after is None


def test_15_the_curve_after_fusion_stays_where_the_options_are_its_own(scene):
    gt, _, fit_tables, tables = scene
    named = dict(zip('ab', fit_tables, strict=True))
    calib, _ = calibrate_fused(fit(named, gt), hold_out(named, gt, fit_config()), gt)
    weights = list(calib.fusion.corner_weights)  # configs of mmengine have lists
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        same_options = fuse(tables, calib, fuse_config(corner_weights=weights, max_per_img=1000))
        turned = fuse(tables[::-1], calib.select('ba'))
    np.testing.assert_array_equal(same_options.score, fuse(tables, calib).score)
    np.testing.assert_allclose(np.sort(turned.score), np.sort(same_options.score))


def test_15_held_out_scores_are_of_curves_of_other_images(scene):
    gt, _, tables, _ = scene
    held = hold_out({'a': tables[0]}, gt, fit_config())['a']
    images = parts_of(60, 5)[2]
    rest = ~np.isin(tables[0].image, images)
    curve = fit({'a': tables[0].select(rest)}, gt.select(~np.isin(gt.image, images))).detectors[0].curve
    np.testing.assert_array_equal(held.score[~rest], curve(tables[0].score[~rest]))


def test_a_crowd_does_not_say_how_exactly_a_box_is_placed():
    flags = np.zeros(6, dtype=bool)
    box = np.array([[20.0, 20, 60, 60]] * 6)
    data = Dataset(tuple(range(6)), ('',) * 6, np.full((6, 2), 100.0), ('x',), (1,))
    gt = GroundTruth(data, np.arange(6), np.zeros(6, dtype=int), box, flags, flags)
    around = replace(gt, box=box + [-20, -20, 20, 20], ignore=~flags, crowd=~flags)
    parts = [[getattr(part, name) for part in (gt, around)] for name in ('image', 'category', 'box', 'ignore', 'crowd')]
    with_crowds = GroundTruth(data, *map(np.concatenate, parts))
    table = Detections.make(np.arange(6), np.zeros(6), np.linspace(0.5, 0.9, 6), box + [10, 0, 0, 0])  # IoU 3/4
    for truth in (gt, with_crowds):
        assert fit({'a': table}, truth).detectors[0].misplaced == pytest.approx(1 / 16)
        errors = Held(table, np.full(6, 0.75), np.ones(6), ~flags).errors(truth)
        assert errors['LaECE'][1] == pytest.approx(0)


def test_robust_is_better_than_wbf_when_scales_differ(scene):
    _, test, _, tables = scene
    plain = coco_scores(fuse(tables, Calibration.identity('ab', test.dataset.classes)), test)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ours = coco_scores(fuse(tables, fitted(scene)), test)
    assert ours['mAP'] > plain['mAP']


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(weights=(1.0,)), '1 weights for 2 detectors'),
        (dict(weights=(1.0, 0.0)), 'positive'),
        (dict(head='median'), 'head'),
        (dict(iou_thr=0.0), 'iou_thr'),
        (dict(head='nms', min_models=2), 'merges'),
    ],
)
def test_options_that_are_not_allowed(scene, options, message):
    with pytest.raises(ValueError, match=message):
        fuse(scene[3], fitted(scene), fuse_config(**options))


def test_duplicate_names_are_refused():
    with pytest.raises(ValueError, match="several detectors are called \\['a'\\]"):
        Calibration.identity(['a', 'b', 'a'], ['x'])
