"""The whole way with trained members: fit by ``mim test``, pack, ``mim test`` and ``DetInferencer``."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

CONFIG = 'configs/prae/prae_fcos-retinanet_bccd.py'


@pytest.fixture(scope='module')
def work(repo, run, tmp_path_factory) -> Path:
    """A folder with a config for the shipped members, the calibration, and the packed checkpoint."""
    folder = tmp_path_factory.mktemp('ensemble')
    members = {name: repo / f'tests/data/prae/{name}.pth' for name in ('fcos', 'retinanet')}
    for source in (CONFIG, CONFIG.replace('.py', '_fit.py')):
        # The configs name the work folders of the members' training; these have the shipped weights instead.
        text = [f"_base_ = '{repo / source}'", f'model = dict(detectors={_detectors(repo, members)},']
        text.append(f'    calibration={None if source.endswith("_fit.py") else str(folder / "calib.json")!r})')
        if source.endswith('_fit.py'):
            text.append(f'test_evaluator = dict(out_file={str(folder / "calib.json")!r})')
        (folder / Path(source).name).write_text('\n'.join(text) + '\n')
    return folder


def _detectors(repo: Path, members: dict) -> list[dict]:
    return [
        dict(name=name, config=str(repo / f'configs/prae/{name}_r18-w16_1xb8-12e_bccd.py'), checkpoint=str(path))
        for name, path in members.items()
    ]


def mim_test(run, config: Path, checkpoint: Path, work: Path, *args) -> str:
    command = ('mim', 'test', 'mmdet', config, '--checkpoint', checkpoint, '--work-dir', work / 'logs', *args)
    return run(sys.executable, '-W', 'ignore', '-m', *command, cwd=work).stdout


def ap(output: str) -> float:
    return float(re.findall(r'coco/bbox_mAP: ([\d.]+)', output)[-1])


@pytest.fixture(scope='module')
def fitted(work, run, repo) -> Path:
    """The same folder after fitting and packing."""
    output = mim_test(run, work / 'prae_fcos-retinanet_bccd_fit.py', repo / 'tests/data/prae/fcos.pth', work)
    assert 'prae/fcos_ece' in output
    done = run(
        sys.executable, '-m', 'mmplugins.prae', 'pack', work / 'prae_fcos-retinanet_bccd.py', '-o', work / 'packed.pth'
    )
    assert '2 detectors written' in done.stdout
    return work


@pytest.mark.slow
def test_curves_are_of_both_members(fitted):
    calib = json.loads((fitted / 'calib.json').read_text())
    assert [detector['name'] for detector in calib['detectors']] == ['fcos', 'retinanet']
    assert calib['fit']['num_images'] == 292


@pytest.mark.slow
def test_ensemble_is_better_than_its_members(fitted, run, repo):
    fused = ap(mim_test(run, fitted / 'prae_fcos-retinanet_bccd.py', fitted / 'packed.pth', fitted))
    single = [
        ap(
            mim_test(
                run,
                repo / f'configs/prae/{name}_r18-w16_1xb8-12e_bccd.py',
                repo / f'tests/data/prae/{name}.pth',
                fitted,
            )
        )
        for name in ('fcos', 'retinanet')
    ]
    assert fused > max(single), (fused, single)


@pytest.mark.slow
def test_inferencer_draws_fused_boxes(fitted, repo):
    from mmdet.apis import DetInferencer

    config, weights = str(fitted / 'prae_fcos-retinanet_bccd.py'), str(fitted / 'packed.pth')
    inferencer = DetInferencer(config, weights=weights, device='cpu', show_progress=False)
    image = sorted((repo / 'tests/data/bccd/val').glob('*.jpg'))[0]
    out = inferencer(str(image), out_dir=str(fitted / 'drawn'), return_vis=True, no_save_pred=True)
    scores = torch.tensor(out['predictions'][0]['scores'])
    assert len(scores) and (scores[:-1] >= scores[1:]).all()
    assert (fitted / 'drawn/vis' / image.name).is_file()
    assert out['visualization'][0].shape == (240, 320, 3)
    assert inferencer.model.dataset_meta['classes'] == ('red blood cell', 'white blood cell', 'platelets')


TTA = """
_base_ = '{config}'
custom_imports = dict(imports=['mmplugins.prae'], allow_failed_imports=False)
tta_model = dict(type='PRAETTAModel', fusion=dict(type='PRAEFusion'))
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(256, 192), keep_ratio=True)],
        [dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)],
        [dict(type='LoadAnnotations', with_bbox=True)],
        [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                                               'flip_direction'))]])]
"""


@pytest.mark.slow
def test_views_of_one_detector_are_fused_by_our_tool(run, repo, tmp_path):
    config, weights = repo / 'configs/prae/fcos_r18-w16_1xb8-12e_bccd.py', repo / 'tests/data/prae/fcos.pth'
    (tmp_path / 'tta.py').write_text(TTA.format(config=config))
    args = ('-W', 'ignore', repo / 'tools/test.py', tmp_path / 'tta.py', weights, '--work-dir', tmp_path)
    plain, views = (ap(run(sys.executable, *args, *more, cwd=tmp_path).stdout) for more in ((), ('--tta',)))
    assert views > plain > 0.3
