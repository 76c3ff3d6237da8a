from pathlib import Path

import numpy as np
import pytest

from mmplugins.metr.text import embeddings
from mmplugins.metr.text.embeddings import NameEmbeddings, load_embeddings, packaged_names, save_embeddings

NAMES = ('cat', 'traffic light')


@pytest.fixture
def file(tmp_path):
    """A good file of two names with four channels."""
    values = np.arange(1, 9, dtype=np.float16).reshape(2, 4)
    save_embeddings(tmp_path / 'good.npz', NameEmbeddings(NAMES, values, backend='hash', template='{name}'))
    return tmp_path / 'good.npz'


def rewrite(file, **changes):
    """Write the file again with changed entries; None leaves an entry out."""
    with np.load(file) as old:
        content = {**old, **changes}
    np.savez(file, **{key: value for key, value in content.items() if value is not None})


def test_round_trip(file):
    loaded = load_embeddings(file)
    assert loaded.names == NAMES
    assert (loaded.backend, loaded.template, loaded.dim) == ('hash', '{name}', 4)
    assert loaded.embeddings.dtype == np.float16


def test_a_file_may_have_any_name(file, monkeypatch):
    """``embed-names --out names`` writes ``names``; a name of the plugin's own comes first."""
    monkeypatch.chdir(file.parent)
    file.rename('names')
    assert load_embeddings('names').names == NAMES
    Path('names').rename('minilm-l6-v2')
    assert load_embeddings('minilm-l6-v2').dim == 384
    assert load_embeddings('./minilm-l6-v2').dim == 4


def test_lookup_in_any_spelling_order_and_repetition(file):
    found = load_embeddings(file).lookup(['Traffic_Light', 'CAT', 'cat'])
    assert found.dtype == np.float32
    assert found.tolist() == [[5, 6, 7, 8], [1, 2, 3, 4], [1, 2, 3, 4]]


def test_missing_names_are_all_in_one_error_with_the_command(file):
    with pytest.raises(KeyError) as error:
        load_embeddings(file).lookup(['zebra', 'cat', 'Red_Panda', 'zebra'])
    text = error.value.args[0]
    assert "2 names: ['zebra', 'red panda']" in text
    assert 'python -m mmplugins.metr embed-names --backend hash --template "{name}" --names "zebra" "red panda"' in text


def test_nothing_half_written(file, monkeypatch):
    """A writer that dies leaves the old file and no temporary one."""
    before = file.read_bytes()
    monkeypatch.setattr(embeddings.np, 'savez_compressed', lambda handle, **_: handle.write(b'x') and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_embeddings(file, NameEmbeddings(('a',), np.ones((1, 4), np.float32), 'hash', '{name}'))
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ['good.npz']


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='minilm-l6-v2'):
        load_embeddings('no-such-model')
    with pytest.raises(FileNotFoundError, match='none.npz'):
        load_embeddings(tmp_path / 'none.npz')


@pytest.mark.parametrize('length', [0, 1, 300], ids=['empty', 'one byte', 'cut off'])
def test_truncated(file, length):
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match='not a file of name embeddings'):
        load_embeddings(file)


def test_damaged_inside(file):
    """A flipped bit in the stored values, past what the zip format checks."""
    with np.load(file) as old:
        values = old['embeddings'].copy()
    values[0, 0] += 1
    rewrite(file, embeddings=values)
    with pytest.raises(ValueError, match='checksum'):
        load_embeddings(file)


@pytest.mark.parametrize('key', embeddings.KEYS)
def test_missing_key(file, key):
    rewrite(file, **{key: None})
    with pytest.raises(ValueError, match=rf"keys \['{key}'\] are missing"):
        load_embeddings(file)


def test_pickled_data_is_refused_unread(file):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ('the pickle was executed',))

    rewrite(file, names=np.array([Trap(), Trap()], dtype=object))
    with pytest.raises(ValueError, match='allow_pickle'):
        load_embeddings(file)


def test_bare_array_file(tmp_path):
    np.save(tmp_path / 'array.npy', np.ones((2, 4)))
    with pytest.raises(ValueError, match='not a file of name embeddings'):
        load_embeddings(tmp_path / 'array.npy')


@pytest.mark.parametrize(
    ('names', 'values', 'text'),
    [
        (('a', 'b'), np.array([[1, 2], [np.nan, 1]], np.float32), r"not finite: \['b'\]"),
        (('a', 'b'), np.array([[np.inf, 2], [1, 1]], np.float16), r"not finite: \['a'\]"),
        (('a', 'b'), np.array([[1, 2], [0, 0]], np.float32), r"zero.*\['b'\]"),
        (('a',), np.ones((2, 4), np.float32), '1 names'),
        (('a', 'b'), np.ones(2, np.float32), 'shape'),
        ((), np.ones((0, 4), np.float32), 'shape'),
        (('a', 'A'), np.ones((2, 4), np.float32), 'twice'),
        (('a', 'b'), np.ones((2, 4)), 'float64'),
    ],
)
def test_bad_content(names, values, text):
    with pytest.raises(ValueError, match=text):
        NameEmbeddings(names, values, 'hash', '{name}')


def test_packaged_file_is_real_language():
    """The file that comes with the plugin: sizes, unit length, and meaning rather than letters."""
    assert packaged_names() == ['minilm-l6-v2']
    file = load_embeddings('minilm-l6-v2')
    assert (file.backend, file.template, file.dim) == ('minilm', '{name}', 384)
    names = ['sofa', 'couch', 'car', 'White_Blood_Cell', 'platelets', 'zero', 'nine', 'Human hand', 'tvmonitor']
    vectors = file.lookup(names)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(len(names)), abs=2e-3)
    assert vectors[0] @ vectors[1] > 0.7 > vectors[0] @ vectors[2]
    assert (embeddings.PACKAGED / 'minilm-l6-v2.npz').stat().st_size < 1.5e6
