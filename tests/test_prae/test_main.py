"""The verbs, as a user runs them."""

import json

import numpy as np
import pytest

from mmplugins.prae.__main__ import main
from mmplugins.prae.verbs.arguments import parse_named


@pytest.fixture
def verb(capsys):
    """Run a verb; return exit status, stdout and stderr."""

    def run(*args) -> tuple[int, str, str]:
        status = main([str(arg) for arg in args])
        return status, *capsys.readouterr()

    return run


def dets(folder, part) -> list:
    return [x for name in 'ab' for x in ('--det', f'{name}={folder}/{name}_{part}.bbox.json')]


@pytest.fixture
def fitted(verb, files):
    status, out, err = verb('fit', '--ann', files / 'fit.json', *dets(files, 'fit'), '-o', files / 'calib.json')
    assert status == 0, err
    return files


def test_fit_prints_each_detector(verb, files):
    picture = files / 'curves.png'
    args = ('--ann', files / 'fit.json', *dets(files, 'fit'), '-o', files / 'c.json', '--plot', picture)
    status, out, err = verb('fit', *args)
    assert status == 0, err
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in out.splitlines() if line.startswith('|')]
    errors = ['ECE raw', 'refined', 'D-ECE raw', 'refined', 'LaECE raw', 'refined']
    assert rows[0] == ['detector', 'boxes', *errors, 'mAP', 'AP50']
    assert [row[0] for row in rows[2:]] == ['a', 'b', 'fused']
    for row in rows[2:]:
        assert float(row[3]) < float(row[2])  # ECE
        assert 0 < float(row[5]) < 1  # D-ECE; its cells hold few boxes here
    assert '60 fit images are few' in err
    assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('preset', ['robust', 'official'])
@pytest.mark.parametrize('head', ['wbf', 'nms', 'soft_nms', 'nmw', 'noisy_or'])
def test_apply_then_eval(verb, files, head, preset):
    calib, fused = files / 'calib.json', files / 'fused.bbox.json'
    status, _, err = verb('fit', '--ann', files / 'fit.json', *dets(files, 'fit'), '-o', calib, '--preset', preset)
    assert status == 0, err
    status, out, err = verb(
        'apply', calib, '--ann', files / 'test.json', *dets(files, 'test'), '--head', head, '-o', fused
    )
    assert status == 0, err
    assert 'optimistic' not in err
    members = [files / f'{name}_test.bbox.json' for name in 'ab']
    status, out, err = verb('eval', '--ann', files / 'test.json', *members, fused, '--voc', '--plot', files / 'pr.png')
    assert status == 0, err
    scores = [float(line.split('|')[3]) for line in out.splitlines()[-3:]]
    if (preset, head) == ('robust', 'wbf'):
        assert scores[2] > max(scores[:2])


def test_order_of_detectors_and_gzip_do_not_matter(verb, fitted):
    a, b = fitted / 'a_test.bbox.json', fitted / 'b_test.bbox.json'
    common = ('apply', fitted / 'calib.json', '--ann', fitted / 'test.json')
    assert verb(*common, '--det', f'a={a}', '--det', f'b={b}', '-o', fitted / 'one.json')[0] == 0
    assert verb(*common, '--det', f'b={b}', '--det', f'a={a}', '-o', fitted / 'two.json')[0] == 0
    one, two = (json.loads((fitted / f'{name}.json').read_text()) for name in ('one', 'two'))
    assert len(one) == len(two)
    np.testing.assert_allclose([d['score'] for d in one], [d['score'] for d in two], atol=1e-9)
    assert verb(*common, '--det', f'a={a}', '--det', f'b={b}', '-o', fitted / 'three.json')[0] == 0
    assert (fitted / 'one.json').read_bytes() == (fitted / 'three.json').read_bytes()


def test_fitting_on_test_images_is_noticed_by_apply_and_eval(verb, fitted):
    fused = fitted / 'fused.json'
    status, _, err = verb(
        'apply', fitted / 'calib.json', '--ann', fitted / 'fit.json', *dets(fitted, 'fit'), '-o', fused
    )
    assert status == 0
    assert 'fitted on 60 of 60 test images; scores are optimistic' in err
    _, _, err = verb('eval', '--ann', fitted / 'fit.json', fused)
    assert 'fitted on 60 of 60 test images; scores are optimistic' in err


def test_eval_of_rotated_boxes_says_what_to_do(verb, files):
    data = json.loads((files / 'fit.json').read_text())
    for annotation in data['annotations']:
        annotation['bbox'].append(0.1)
    (files / 'rotated.json').write_text(json.dumps(data))
    boxes = [{**box, 'bbox': [*box['bbox'], 0.1]} for box in json.loads((files / 'a_fit.bbox.json').read_text())]
    (files / 'rotated_results.json').write_text(json.dumps(boxes))
    (files / 'nothing.json').write_text('[]')
    for name in ('rotated_results', 'nothing'):
        status, _, err = verb('eval', '--ann', files / 'rotated.json', files / f'{name}.json')
        assert status == 1
        assert 'COCO’s evaluation has no rotated boxes' in err


def test_eval_takes_names_of_classes(verb, files):
    data = json.loads((files / 'a_fit.bbox.json').read_text())
    with_ids = verb('eval', '--ann', files / 'fit.json', files / 'a_fit.bbox.json')[1].splitlines()[-1]
    for box in data:
        box['category_id'] = {3: 0, 1: 1, 2: 2}[box['category_id']]  # a detector with another order of classes
    (files / 'turned.json').write_text(json.dumps(data))
    args = ('--ann', files / 'fit.json', files / 'turned.json', '--classes', 'class 2,class 0,class 1')
    status, out, err = verb('eval', *args)
    assert status == 0, err
    assert out.splitlines()[-1].split('|')[2:] == with_ids.split('|')[2:]


@pytest.mark.parametrize('by', [None, 'folder', 'sequence'])
def test_split(verb, files, by):
    data = json.loads((files / 'fit.json').read_text())
    for image in data['images']:
        image['video_id'] = image['id'] // 4
        image['file_name'] = f'{image["id"] // 4}/{image["file_name"]}'
    (files / 'all.json').write_text(json.dumps(data))
    group = ('--group-by', by) if by else ()
    status, _, err = verb('split', '--ann', files / 'all.json', '--fit-fraction', 0.25, *group, '-o', files / 'part')
    assert status == 0, err
    parts = [json.loads((files / f'part_{name}.json').read_text()) for name in ('fit', 'test')]
    ids = [{image['id'] for image in part['images']} for part in parts]
    assert ids[0] | ids[1] == set(range(1, 61)) and not ids[0] & ids[1]
    assert abs(len(ids[0]) - 15) <= (4 if by else 0)
    assert sum(len(part['annotations']) for part in parts) == len(data['annotations'])
    if by:
        assert not {i // 4 for i in ids[0]} & {i // 4 for i in ids[1]}


def test_compare(verb, files):
    args = ('--ann', files / 'fit.json', *dets(files, 'fit'), '--set', 'pair=a,b', '--set', 'one=a', '--resamples', 20)
    status, out, err = verb('compare', *args, '-o', files / 'out.json')
    assert status == 0, err
    assert out.startswith('| method | pair | one |')
    assert 'mAP: PRAE − WBF' in out and 'mAP: PRAE tuned − WBF tuned' in out
    found = json.loads((files / 'out.json').read_text())['results']['pair']
    mean, low, high = found['PRAE']['difference']['mAP']
    assert low <= mean <= high
    assert found['PRAE']['mAP'] == pytest.approx(found['WBF']['mAP'] + mean, abs=2e-3)
    assert set(found) == {'a', 'b', 'NMS', 'Soft-NMS', 'WBF', 'WBF tuned', 'PRAE', 'PRAE tuned'}


def test_tune_says_its_settings_and_apply_uses_them(verb, files):
    status, out, err = verb(
        'tune', '--ann', files / 'fit.json', *dets(files, 'fit'), '-o', files / 'tuned.json', '--resamples', 20
    )
    assert status == 0, err
    assert '| WBF tuned |' in out and '| mAP: PRAE tuned − WBF tuned |' in out
    line = next(line for line in out.splitlines() if line.startswith('settings: '))
    assert 'head ' in line and 'iou_thr ' in line
    args = ('--ann', files / 'test.json', *dets(files, 'test'), '-o', files / 'fused.json')
    assert verb('apply', files / 'tuned.json', *args)[0] == 0
    about, calib = (json.loads((files / name).read_text()) for name in ('fused.json.about.json', 'tuned.json'))
    assert about['fusion'] == calib['fusion']
    assert verb('apply', files / 'tuned.json', *args, '--iou-thr', 0.66)[0] == 0
    assert json.loads((files / 'fused.json.about.json').read_text())['fusion']['iou_thr'] == 0.66


def test_compare_of_a_folder(verb, files):
    folder = files / 'folder'
    folder.mkdir()
    (files / 'fit.json').rename(folder / 'gt.json')
    for name in 'ab':
        (files / f'{name}_fit.bbox.json').rename(folder / f'{name}.bbox.json')
    status, out, err = verb('compare', '--folder', folder, '--resamples', 0)
    assert status == 0, err
    assert out.startswith('| method | all |')


CASES = {
    'unknown detector': (lambda f: ('apply', f / 'calib.json', '--ann', f / 'test.json', '--det', f'z={f}/a_test.json'),
                         "the calibration has no detector ['z']"),
    'same names': (lambda f: ('apply', f / 'calib.json', '--ann', f / 'test.json', *dets(f, 'test'), *dets(f, 'test')),
                   "several detectors are called ['a', 'b']"),
    'other images': (lambda f: ('apply', f / 'calib.json', '--ann', f / 'two.json', *dets(f, 'test')), 'unknown'),
    'no calibration': (lambda f: ('apply', f / 'none.json', '--ann', f / 'test.json', *dets(f, 'test')), 'none.json'),
    'not a calibration': (lambda f: ('apply', f / 'fit.json', '--ann', f / 'test.json', *dets(f, 'test')),
                          'is not a calibration file'),
    'kind of file': (lambda f: ('apply', f / 'calib.json', '--ann', f / 'test.json', '--det', f'a={f}/calib.txt'),
                     'detections are .json'),
    'weights': (lambda f: ('apply', f / 'calib.json', '--ann', f / 'test.json', *dets(f, 'test'), '--weights', '1'),
                '1 weights for 2 detectors'),
    'no boxes to fit on': (lambda f: ('fit', '--ann', f / 'empty.json', *dets(f, 'fit')), 'no annotated box'),
    'one name': (lambda f: ('fit', '--ann', f / 'fit.json', '--det', 'a'), 'expected NAME=FILE'),
    'theta': (lambda f: ('fit', '--ann', f / 'fit.json', *dets(f, 'fit'), '--theta', '-1'), 'theta is -1.0'),
    'fraction': (lambda f: ('split', '--ann', f / 'fit.json', '--fit-fraction', '2'), 'between 0 and 1'),
    'rotated results': (lambda f: ('fit', '--ann', f / 'fit.json', '--det', f'a={f}/rotated_results.json'),
                        'boxes of 5 numbers, annotations of 4'),
    'sequence': (lambda f: ('split', '--ann', f / 'fit.json', '--group-by', 'sequence'), 'has no video_id'),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_bad_input_is_one_line_and_writes_nothing(verb, fitted, case):
    data = json.loads((fitted / 'fit.json').read_text())
    (fitted / 'two.json').write_text(json.dumps({**data, 'images': data['images'][:2], 'annotations': []}))
    (fitted / 'empty.json').write_text(json.dumps({**data, 'annotations': []}))
    rotated = [{**box, 'bbox': [*box['bbox'], 0.1]} for box in json.loads((fitted / 'a_fit.bbox.json').read_text())]
    (fitted / 'rotated_results.json').write_text(json.dumps(rotated))
    (fitted / 'calib.txt').touch()
    before = sorted(fitted.iterdir())
    arguments, message = CASES[case]
    status, _, err = verb(*arguments(fitted), '-o', fitted / 'new.json')
    assert status == 1
    assert message in err
    assert 'Traceback' not in err
    assert sorted(fitted.iterdir()) == before


@pytest.mark.parametrize('name', ['fit', 'tune', 'apply', 'eval', 'split', 'compare', 'pack'])
def test_help(name, capsys):
    with pytest.raises(SystemExit) as done:
        main([name, '--help'])
    assert done.value.code == 0
    assert 'usage: python -m mmplugins.prae' in capsys.readouterr().out


def test_detectors_with_disjoint_classes(verb, files):
    for part in ('fit', 'test'):
        for name, own in (('a', {1}), ('b', {2, 3})):
            path = files / f'{name}_{part}.bbox.json'
            path.write_text(json.dumps([d for d in json.loads(path.read_text()) if d['category_id'] in own]))
    assert verb('fit', '--ann', files / 'fit.json', *dets(files, 'fit'), '-o', files / 'c.json')[0] == 0
    args = ('--ann', files / 'test.json', *dets(files, 'test'), '-o', files / 'fused.json')
    assert verb('apply', files / 'c.json', *args)[0] == 0
    known = [d['known'] for d in json.loads((files / 'c.json').read_text())['detectors']]
    assert known == [['class 0'], ['class 1', 'class 2']]
    scores = [d['score'] for d in json.loads((files / 'fused.json').read_text())]
    assert max(scores) > 0.4  # not halved


@pytest.mark.parametrize(
    ('pairs', 'message'), [(['a'], 'expected NAME=FILE'), (['=x'], 'expected'), (['a=1', 'a=2'], 'several detectors')]
)
def test_names_of_detectors(pairs, message):
    with pytest.raises(ValueError, match=message):
        parse_named(pairs)
