"""EnsembleDetector on two detectors with random weights."""

import numpy as np
import pytest
import torch
from mmcv import imread
from mmdet.evaluation import CocoMetric
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope

from mmplugins.prae import Calibration, Detections, PRAEFitMetric, fuse, fuse_config, load, save

MEMBERS = ('fcos', 'retinanet')


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


@pytest.fixture(scope='module')
def checkpoints(repo, tmp_path_factory):
    """Random weights of both members, saved as mmengine does."""
    init_default_scope('mmdet')
    folder = tmp_path_factory.mktemp('members')
    for name in MEMBERS:
        torch.manual_seed(1)
        cfg = Config.fromfile(repo / f'configs/prae/{name}_r18-w16_1xb8-12e_bccd.py')
        model = MODELS.build(cfg.model)
        model.init_weights()
        torch.nn.init.normal_(model.bbox_head.cls_logits.weight if hasattr(model.bbox_head, 'cls_logits')
                              else model.bbox_head.conv_cls.weight if hasattr(model.bbox_head, 'conv_cls')
                              else model.bbox_head.retina_cls.weight, std=0.3)  # fmt: skip
        torch.save(dict(state_dict=model.state_dict()), folder / f'{name}.pth')
    return folder


@pytest.fixture
def build(repo, checkpoints):
    """Build an ensemble of the members."""

    def build(names=MEMBERS, own_classes=None, share_inputs=True, **options):
        detectors = [
            dict(
                name=name,
                config=str(repo / f'configs/prae/{name}_r18-w16_1xb8-12e_bccd.py'),
                checkpoint=str(checkpoints / f'{name}.pth'),
                classes=own_classes and own_classes[name],
            )
            for name in names
        ]
        cfg = dict(type='EnsembleDetector', detectors=detectors, fusion=dict(type='PRAEFusion'))
        return MODELS.build({**cfg, 'share_inputs': share_inputs, **options}).eval()

    return build


def batch(repo, num=2) -> dict:
    """Images of the samples, as the data loader gives them."""
    generator = torch.Generator().manual_seed(0)
    files = sorted((repo / 'tests/data/bccd/val').glob('*.jpg'))[:num]
    samples = []
    for number, path in enumerate(files):
        meta = dict(img_id=number + 1, img_path=str(path), ori_shape=(240, 320), img_shape=(192, 256),
                    scale_factor=(0.8, 0.8), batch_input_shape=(192, 256))  # fmt: skip
        samples.append(DetDataSample(metainfo=meta))
    images = torch.randint(0, 255, (num, 3, 192, 256), generator=generator, dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=samples)


def test_it_fuses_what_its_members_say(build, repo):
    model = build()
    out = model.test_step(batch(repo))
    tables = []
    for member in model.members:
        pred = [sample.pred_instances for sample in member.test_step(batch(repo))]
        image = np.repeat(np.arange(2), [len(p) for p in pred])
        columns = [torch.cat([getattr(p, key) for p in pred]).numpy() for key in ('labels', 'scores', 'bboxes')]
        tables.append(Detections.make(image, columns[0], columns[1], columns[2]))
    expected = fuse(tables, Calibration.identity(MEMBERS, model.classes), fuse_config())
    assert len(expected) > 0
    for image, sample in enumerate(out):
        mine = expected.select(expected.image == image)
        np.testing.assert_allclose(sample.pred_instances.bboxes, mine.box, atol=1e-3)
        np.testing.assert_allclose(sample.pred_instances.scores, mine.score, atol=1e-6)
        assert sample.pred_instances.labels.tolist() == mine.category.tolist()
        assert sample.pred_instances.bboxes.dtype == torch.float32


def test_labels_go_by_class_name(build, repo):
    names = ('platelets', 'red blood cell', 'white blood cell', 'lymphocyte')
    plain, other = (model.test_step(batch(repo)) for model in (build(), build(classes=names)))
    old = ('red blood cell', 'white blood cell', 'platelets')
    for a, b in zip(plain, other, strict=True):
        assert [old[k] for k in a.pred_instances.labels] == [names[k] for k in b.pred_instances.labels]
        torch.testing.assert_close(a.pred_instances.bboxes, b.pred_instances.bboxes)


def test_classes_that_are_not_wanted_are_dropped(build, repo):
    for sample in build(classes=('platelets',)).test_step(batch(repo)):
        assert set(sample.pred_instances.labels.tolist()) <= {0}
    with pytest.raises(ValueError, match='none of which is in'):
        build(classes=('dog',))


@pytest.mark.parametrize('calibrated', [False, True])
def test_a_member_does_not_lower_scores_of_a_class_that_it_does_not_know(build, repo, tmp_path, calibrated):
    own = dict(fcos=('a', 'white blood cell', 'platelets'), retinanet=('red blood cell', 'b', 'c'))
    classes = ('red blood cell', 'white blood cell', 'platelets')
    # As written on images where both had boxes of all classes.
    save(Calibration.identity(MEMBERS, classes), tmp_path / 'calib.json')
    options = dict(own_classes=own, classes=classes, fusion=dict(max_per_img=10_000),
                   calibration=str(tmp_path / 'calib.json') if calibrated else None)  # fmt: skip
    seen = dict.fromkeys(MEMBERS, 0)
    alone = {name: build(names=(name,), **options).test_step(batch(repo)) for name in MEMBERS}
    for image, both in enumerate(build(**options).test_step(batch(repo))):
        for label, name in enumerate(('retinanet', 'fcos', 'fcos')):
            mine, theirs = (s.pred_instances[s.pred_instances.labels == label] for s in (alone[name][image], both))
            seen[name] += len(mine)
            torch.testing.assert_close(theirs.scores, mine.scores)
            torch.testing.assert_close(theirs.bboxes, mine.bboxes)
    assert all(seen.values())


def test_own_pipelines_read_the_file_again(build, repo):
    own = build(share_inputs=False, fusion=None)
    data = batch(repo)  # images of noise: not looked at
    found = own.test_step(data)
    # The members agree on a size; that the ensemble's own config has another must not matter.
    for name in MEMBERS:
        cfg = Config.fromfile(repo / f'configs/prae/{name}_r18-w16_1xb8-12e_bccd.py')
        pipeline = Compose(cfg.test_dataloader.dataset.pipeline[:2] + cfg.test_dataloader.dataset.pipeline[3:])
        read = [pipeline(dict(img_path=s.img_path, img_id=s.img_id)) for s in data['data_samples']]
        member = own.members[MEMBERS.index(name)]
        for sample, expected in zip(found, member.test_step(pseudo_collate(read)), strict=True):
            mine = sample.pred_instances[sample.pred_instances.detector == MEMBERS.index(name)]
            torch.testing.assert_close(mine.bboxes, expected.pred_instances.bboxes)
    data['data_samples'][0].set_metainfo(dict(img_path=None))
    with pytest.raises(ValueError, match='share_inputs'):
        own.test_step(data)


def test_packed_weights_are_used_and_members_files_not_needed(build, repo, tmp_path):
    packed = build()
    packed.load_members()
    torch.save(packed.state_dict(), tmp_path / 'ensemble.pth')
    fresh = build()
    fresh.checkpoints = [None, None]
    with pytest.raises(ValueError, match='fcos has no weights'):
        fresh.test_step(batch(repo))
    fresh.load_state_dict(torch.load(tmp_path / 'ensemble.pth'))
    a, b = fresh.test_step(batch(repo)), packed.test_step(batch(repo))
    torch.testing.assert_close(a[0].pred_instances.scores, b[0].pred_instances.scores)


def test_sequential_members_stay_on_the_cpu(build):
    model = build(sequential_gpu=True)
    model.to('meta')  # any other device
    assert model._anchor.device.type == 'meta'
    assert {p.device.type for p in model.members.parameters()} == {'cpu'}


def test_sequential_members_refuse_a_launcher_on_gpus(build, monkeypatch):
    monkeypatch.setattr('mmplugins.prae.ensemble.get_backend', lambda: 'nccl')
    with pytest.raises(ValueError, match='sequential_gpu keeps weights on the CPU.*sequential_gpu=False'):
        build(sequential_gpu=True)
    assert len(build().members) == 2


def test_members_without_a_pipeline_cannot_read_images(repo):
    cfg = Config.fromfile(repo / 'configs/prae/fcos_r18-w16_1xb8-12e_bccd.py').to_dict()
    cfg['test_dataloader']['dataset'].pop('pipeline')
    ensemble = dict(type='EnsembleDetector', detectors=[dict(name='a', config=cfg)])
    with pytest.raises(ValueError, match='a has no test pipeline.*share_inputs=True'):
        MODELS.build(ensemble)
    MODELS.build({**ensemble, 'share_inputs': True})


def test_a_data_preprocessor_beside_the_model_is_the_members(repo):
    cfg = Config.fromfile(repo / 'configs/prae/fcos_r18-w16_1xb8-12e_bccd.py').to_dict()
    cfg['data_preprocessor'] = {**cfg['model'].pop('data_preprocessor'), 'mean': [1.0, 2.0, 3.0]}
    ensemble = MODELS.build(dict(type='EnsembleDetector', detectors=[dict(name='a', config=cfg)]))
    assert ensemble.members[0].data_preprocessor.mean.flatten().tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize('kind', ['ConcatDataset', 'NotRegistered'])
def test_members_whose_test_data_have_no_classes_need_them(repo, kind):
    cfg = Config.fromfile(repo / 'configs/prae/fcos_r18-w16_1xb8-12e_bccd.py').to_dict()
    dataset = cfg['test_dataloader']['dataset']
    cfg['test_dataloader']['dataset'] = dict(type=kind, datasets=[dataset])
    member = dict(name='a', config=cfg)
    with pytest.raises(ValueError, match='no test data with classes: give `classes`'):
        MODELS.build(dict(type='EnsembleDetector', detectors=[member], share_inputs=True))
    member['classes'] = dataset['metainfo']['classes']
    MODELS.build(dict(type='EnsembleDetector', detectors=[member], share_inputs=True))


def test_high_score_threshold_is_warned_about(repo):
    cfg = Config.fromfile(repo / 'configs/prae/fcos_r18-w16_1xb8-12e_bccd.py')
    cfg.model.test_cfg.score_thr = 0.05
    with pytest.warns(UserWarning, match='lower its score_thr'):
        MODELS.build(dict(type='EnsembleDetector', detectors=[dict(name='a', config=cfg.to_dict())]))


def test_calibration_of_other_detectors_is_refused(build, repo, tmp_path):
    save(Calibration.identity(['x', 'y'], ['platelets']), tmp_path / 'calib.json')
    with pytest.raises(ValueError, match="the calibration has no detector \\['fcos', 'retinanet'\\]"):
        build(calibration=str(tmp_path / 'calib.json')).test_step(batch(repo))


def test_same_names_are_refused(build):
    with pytest.raises(ValueError, match='several detectors are called'):
        build(names=('fcos', 'fcos'))


@pytest.mark.parametrize('mode', ['loss', 'predict'])
def test_training_and_predict_say_what_to_do(build, repo, mode):
    with pytest.raises(NotImplementedError, match='train its members|test_step'):
        build()(torch.zeros(1, 3, 64, 64), batch(repo)['data_samples'], mode=mode)


def test_features_of_all_members(build):
    assert len(build().extract_feat(torch.zeros(1, 3, 64, 64))) == 2
    assert len(build()(torch.zeros(1, 3, 64, 64), mode='tensor')) == 2


def test_fit_metric_fits_every_member(build, repo, tmp_path):
    unfused = build(fusion=None)
    ann = repo / 'tests/data/bccd/annotations/all_val.json'
    metric = PRAEFitMetric(str(ann), str(tmp_path / 'calib.json'), names=MEMBERS)
    metric.dataset_meta = unfused.dataset_meta
    for _ in range(1):
        samples = [sample.to_dict() for sample in unfused.test_step(batch(repo, 4))]
        metric.process({}, samples)
    found = metric.evaluate(4)
    assert {f'prae/{name}_{key}' for name in MEMBERS for key in ('mAP', 'ece', 'ece_refined')} == set(found)
    calib = load(tmp_path / 'calib.json')
    assert calib.names == MEMBERS
    assert len(calib.fit_images) == 4
    fused = build(calibration=str(tmp_path / 'calib.json')).test_step(batch(repo))
    assert all(torch.isfinite(sample.pred_instances.scores).all() for sample in fused)


def test_fit_metric_learns_what_the_members_know(build, repo, tmp_path):
    own = dict(fcos=('red blood cell', 'a', 'platelets'), retinanet=('b', 'white blood cell', 'platelets'))
    classes = ('red blood cell', 'white blood cell', 'platelets')
    unfused = build(own_classes=own, classes=classes, fusion=None)
    ann = repo / 'tests/data/bccd/annotations/all_val.json'
    metric = PRAEFitMetric(str(ann), str(tmp_path / 'calib.json'), names=MEMBERS)
    metric.dataset_meta = unfused.dataset_meta
    metric.process({}, [sample.to_dict() for sample in unfused.test_step(batch(repo, 4))])
    metric.evaluate(4)
    known = [set(detector.known) for detector in load(tmp_path / 'calib.json').detectors]
    assert known == [{'red blood cell', 'platelets'}, {'white blood cell', 'platelets'}]


def test_a_wrong_checkpoint_is_an_error(build, repo, checkpoints, tmp_path):
    model = build()
    model.checkpoints[0] = str(checkpoints / 'retinanet.pth')
    with pytest.raises(ValueError, match='retinanet.pth is not a checkpoint of fcos'):
        model.test_step(batch(repo))
    state = build(names=('fcos',)).state_dict()
    with pytest.raises(ValueError, match='the checkpoint is of another ensemble: .* weights are missing'):
        build().load_state_dict(state, strict=False)


def test_mmdets_init_detector_and_inference_detector(repo, checkpoints, tmp_path):
    from mmdet.apis import inference_detector, init_detector

    cfg = Config.fromfile(repo / 'configs/prae/prae_fcos-retinanet_bccd.py')
    for member in cfg.model.detectors:
        member.checkpoint = str(checkpoints / f'{member.name}.pth')
    cfg.model.calibration = None
    ensemble = MODELS.build(cfg.model)
    ensemble.load_members()
    meta = dict(dataset_meta=ensemble.dataset_meta)
    torch.save(dict(meta=meta, state_dict=ensemble.state_dict()), tmp_path / 'packed.pth')
    model = init_detector(cfg, str(tmp_path / 'packed.pth'), device='cpu')
    image = sorted((repo / 'tests/data/bccd/val').glob('*.jpg'))[0]
    from_file = inference_detector(model, str(image)).pred_instances
    from_array = inference_detector(model, imread(str(image))).pred_instances
    assert len(from_file)
    torch.testing.assert_close(from_array.bboxes, from_file.bboxes)


def test_coco_metric_takes_fused_boxes(build, repo):
    metric = CocoMetric(ann_file=str(repo / 'tests/data/bccd/annotations/all_val.json'), format_only=False)
    model = build()
    metric.dataset_meta = model.dataset_meta
    metric.process({}, [sample.to_dict() for sample in model.test_step(batch(repo))])
    assert 'bbox_mAP' in metric.compute_metrics(metric.results)
