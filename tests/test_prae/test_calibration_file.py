"""The calibration file: round trip, other versions, damage, leaks."""

import json
import subprocess
import sys

import numpy as np
import pytest

from mmplugins.prae import fit, fit_config, load, save
from mmplugins.prae.calibration.file import overlap


@pytest.fixture(params=['robust', 'official', 'per category'])
def calib(request, scene):
    gt, _, tables, _ = scene
    cfg = fit_config(per_category=True) if request.param == 'per category' else fit_config(request.param)
    return fit(dict(zip(['a', 'ü b'], tables, strict=True)), gt, cfg)


def test_round_trip(calib, scene, tmp_path):
    save(calib, tmp_path / 'calib.json')
    again = load(tmp_path / 'calib.json')
    for field in ('names', 'classes', 'cfg', 'fusion'):
        assert getattr(again, field) == getattr(calib, field)
    assert again.fit_images == calib.fit_images
    for index, table in enumerate(scene[3]):
        expected = calib.refine(index, table.score, table.category)
        np.testing.assert_array_equal(again.refine(index, table.score, table.category), expected)
    save(again, tmp_path / 'again.json')
    assert (tmp_path / 'again.json').read_bytes() == (tmp_path / 'calib.json').read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ['again.json', 'calib.json']


def test_file_is_small(ground_truth, detector, tmp_path):
    gt = ground_truth(num_images=5000)
    save(fit({name: detector(gt, 1) for name in 'abcdef'}, gt), tmp_path / 'calib.json')
    assert (tmp_path / 'calib.json').stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda text: '', 'is empty'),
        (lambda text: text[: len(text) // 2], 'cut off or not JSON'),
        (lambda text: '[1, 2]', 'is not a calibration file'),
        (lambda text: text.replace('"version": 2', '"version": 1'), 'fit again with'),
        (lambda text: text.replace('"thresholds"', '"limits_"'), 'is broken: KeyError'),
        (lambda text: text.replace('"kind": "table"', '"kind": "spline"'), 'unknown kind of curve'),
        (lambda text: text.replace('"theta"', '"thetas"'), 'unknown options'),
        (lambda text: text.replace('"name": "b"', '"name": "a"'), 'several detectors are called'),
    ],
    ids=['empty', 'cut off', 'other JSON', 'old version', 'field missing', 'kind', 'options', 'same names'],
)
def test_damaged_file(scene, tmp_path, damage, message):
    path = tmp_path / 'calib.json'
    save(fit(dict(zip('ab', scene[2], strict=True)), scene[0]), path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(ValueError, match=message):
        load(path)


def test_changed_list_of_images_is_noticed(scene, tmp_path):
    path = tmp_path / 'calib.json'
    save(fit(dict(zip('ab', scene[2], strict=True)), scene[0]), path)
    data = json.loads(path.read_text())
    data['fit']['images'].pop()
    path.write_text(json.dumps(data))
    with pytest.warns(UserWarning, match='was changed after fitting'):
        load(path)


def test_overlap_goes_by_file_name(scene):
    gt, test = scene[0], scene[1]
    calib = fit({'a': scene[2][0]}, gt)
    assert overlap(calib, gt.dataset) == 60
    assert overlap(calib, test.dataset) == 60  # the same paths


def test_loads_without_torch(scene, tmp_path):
    save(fit({'a': scene[2][0]}, scene[0]), tmp_path / 'calib.json')
    # The package itself imports mmdet; the file's own modules need numpy only.
    code = (
        'import sys, types, importlib.util, mmplugins\n'
        'sys.modules["torch"] = None\n'
        'package = types.ModuleType("mmplugins.prae"); package.__path__ = [mmplugins.__path__[0] + "/prae"]\n'
        'sys.modules["mmplugins.prae"] = package\n'
        'from mmplugins.prae.calibration.file import load\n'
        f'print(load({str(tmp_path / "calib.json")!r}).names)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "('a',)", done.stderr
