"""The text bank: rows by name, any order, and checkpoints that need not have the same names."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.runner.checkpoint import load_state_dict

from mmplugins.metr.text.bank import TextBank
from mmplugins.metr.text.embeddings import NameEmbeddings, load_embeddings, save_embeddings

NAMES = ('cat', 'dog', 'bird', 'traffic_light')


@pytest.fixture
def bank(hash_embeddings):
    """Return a function that builds a bank with D=16."""

    def build(names=NAMES, seed=0, **kwargs) -> TextBank:
        torch.manual_seed(seed)
        return TextBank(**dict(dict(embeddings=hash_embeddings, names=names, embed_dims=16), **kwargs))

    return build


def test_formula(bank, hash_embeddings):
    model = bank()
    with torch.no_grad():
        model.scale.fill_(3.0)
    raw = torch.from_numpy(load_embeddings(hash_embeddings).lookup(NAMES))
    unit = raw / raw.norm(dim=1, keepdim=True)
    centered = unit - unit.mean(0)
    expected = model.norm(model.projection(3 * centered / centered.norm(dim=1, keepdim=True)))
    torch.testing.assert_close(model(), expected)
    assert expected.shape == (4, 16)


def test_what_names_have_in_common_is_left_out():
    """Of vectors that are alike, as a language model's number words are; a name that is given twice counts once."""
    digits = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')
    model = TextBank('minilm-l6-v2', (*digits, 'zero'), embed_dims=384)  # no projection
    prompts = F.normalize(model(), dim=1)[:10]
    alike = F.normalize(model.vectors[:10], dim=1)
    off_diagonal = ~torch.eye(10, dtype=torch.bool)
    assert (alike @ alike.T)[off_diagonal].mean() > 0.5
    torch.testing.assert_close((prompts @ prompts.T)[off_diagonal].mean(), torch.tensor(-1 / 9), atol=0.02, rtol=0)
    assert torch.equal(model.center, TextBank('minilm-l6-v2', digits, embed_dims=384).center)


def test_a_single_name_has_no_center(bank):
    raw = F.normalize(bank(['cat']).vectors, dim=1)
    for names in (['cat'], ['cat', 'cat']):
        model = bank(names)
        torch.testing.assert_close(model()[:1], model.norm(model.projection(raw)))


def test_a_checkpoint_from_before_there_was_a_center_computes_what_it_did(bank):
    model, old = bank(), bank()
    old.center.zero_()
    state = {key: value for key, value in old.state_dict().items() if key != 'center'}
    model.load_state_dict(state, strict=True)
    assert torch.equal(model(), old())
    assert 'center' not in state


def test_raw_vectors_by_option(bank, hash_embeddings):
    model = bank(normalize=False)
    raw = torch.from_numpy(load_embeddings(hash_embeddings).lookup(NAMES))
    torch.testing.assert_close(model(), model.norm(model.projection(raw)))
    assert not hasattr(model, 'scale')


def test_no_projection_when_the_sizes_agree(bank):
    model = bank(embed_dims=256)
    assert [name for name, _ in model.named_parameters()] == ['scale', 'norm.weight', 'norm.bias']


def test_order_of_names_permutes_rows(bank):
    torch.testing.assert_close(bank(NAMES[::-1])(), bank()().flip(0))


def test_spelling_does_not_matter(bank):
    assert torch.equal(bank(['CAT', 'Dog', 'bird', 'Traffic-Light'])(), bank()())


def test_set_names_looks_up_names_that_were_never_trained(bank):
    model = bank()
    model.set_names(['zebra', 'dog'])
    assert model().shape == (2, 16)
    torch.testing.assert_close(model()[1], bank()()[1])
    model.set_names(NAMES)
    assert torch.equal(model(), bank()())


def test_unknown_name_says_how_to_add_it(bank):
    model = bank()
    before = model()
    with pytest.raises(KeyError, match=r'python -m mmplugins\.metr embed-names.*axolotl'):
        model.set_names(['cat', 'axolotl'])
    assert torch.equal(model(), before)


def test_unknown_name_is_found_when_the_bank_is_built(bank):
    with pytest.raises(KeyError, match='embed-names'):
        bank(['cat', 'axolotl'])


@pytest.mark.parametrize('trainable', [False, True], ids=['frozen', 'trainable'])
def test_gradients(bank, trainable):
    model = bank(trainable=trainable)
    model().pow(3).sum().backward()
    got = {name for name, parameter in model.named_parameters() if parameter.grad.abs().sum() > 0}
    expected = {'scale', 'projection.weight', 'projection.bias', 'norm.weight', 'norm.bias'}
    assert got == expected | ({'vectors'} if trainable else set())


def test_trainable_bank_starts_from_the_file(bank):
    model = bank(trainable=True)
    assert isinstance(model.vectors, torch.nn.Parameter)
    assert torch.equal(model(), bank()())
    assert 'vectors' in model.state_dict()


def test_frozen_vectors_are_not_in_the_checkpoint(bank):
    model = bank()
    assert set(model.state_dict()) == {
        *('scale', 'center', 'fingerprint', 'projection.weight', 'projection.bias', 'norm.weight', 'norm.bias')
    }
    assert model.vectors.requires_grad is False


def test_checkpoint_of_other_names_loads(bank):
    """So finetuning on another label set, or on more names, starts from all weights (invariant 10)."""
    old, new = bank(), bank(['dog', 'zebra', 'cat', 'bus', 'horse'], seed=1)
    assert not torch.equal(old()[1], new()[0])
    new.load_state_dict(old.state_dict(), strict=True)
    torch.testing.assert_close(new()[0], old()[1])
    torch.testing.assert_close(new()[2], old()[0])


def learned(model) -> torch.Tensor:
    """Change the vectors, as training does; return them."""
    with torch.no_grad():
        model.vectors.add_(torch.randn_like(model.vectors))
    return model.vectors.detach().clone()


def test_a_trainable_bank_keeps_what_it_learned_when_names_change(bank):
    model = bank(['cat', 'dog', 'dog', 'bus'], trainable=True)
    start = bank(['horse']).vectors[0]
    before = learned(model)
    model.set_names(['Dog', 'horse'])
    assert torch.equal(model.vectors, torch.stack([before[1], start]))
    after = learned(model)
    model.set_names(['cat', 'dog', 'dog', 'bus', 'horse'])
    assert torch.equal(model.vectors, torch.stack([before[0], after[0], before[2], before[3], after[1]]))


@pytest.mark.parametrize('load', [torch.nn.Module.load_state_dict, load_state_dict], ids=['torch', 'mmengine'])
def test_a_trainable_bank_finds_its_names_in_a_checkpoint_of_others(bank, load):
    old, new = bank(['cat', 'dog', 'bus'], trainable=True), bank(['bus', 'zebra', 'cat'], trainable=True)
    before, zebra = learned(old), new.vectors[1].detach().clone()
    load(new, old.state_dict(), strict=True)
    assert torch.equal(new.vectors, torch.stack([before[2], zebra, before[0]]))
    new.set_names(['dog'])
    assert torch.equal(new.vectors[0], before[1])


def test_names_that_the_encoder_cannot_tell_apart_are_refused(bank, tmp_path, hash_embeddings):
    """As of a tokenizer without the letters; half precision may round the equal vectors apart."""
    source = load_embeddings(hash_embeddings)
    same = (source.embeddings[:1] * (1 + 1e-4)).astype(source.embeddings.dtype)
    names, values = (*source.names, '猫'), np.concatenate([source.embeddings, same])
    save_embeddings(tmp_path / 'more.npz', NameEmbeddings(names, values, 'hash', '{name}'))
    model = bank(['dog', '猫'], embeddings=str(tmp_path / 'more.npz'))  # alone it is as good as any
    with pytest.raises(ValueError, match="cannot tell 'cat' from '猫'.*multilingual"):
        model.set_names(['dog', 'cat', '猫'])
    assert len(model.vectors) == 2
    model.set_names(['cat', 'dog', 'cat'])  # kept separate: one name, one vector


@pytest.mark.parametrize('change', [dict(backend='clip'), dict(template='a {name}')], ids=['backend', 'template'])
def test_checkpoint_of_other_embeddings_is_refused(bank, tmp_path, change):
    names = tuple(name.replace('_', ' ') for name in NAMES)
    values = np.random.default_rng(0).normal(size=(4, 256)).astype(np.float32)
    save_embeddings(
        tmp_path / 'other.npz', NameEmbeddings(names, values, **dict(dict(backend='hash', template='{name}'), **change))
    )
    other = bank(embeddings=str(tmp_path / 'other.npz'))
    with pytest.raises(RuntimeError, match='another language model or template'):
        other.load_state_dict(bank().state_dict())
    with pytest.raises(RuntimeError, match='another language model or template'):
        bank().load_state_dict(other.state_dict())


def test_same_backend_and_template_in_another_file_is_accepted(bank, tmp_path, hash_embeddings):
    """A file with names added is another file, and must load the checkpoint."""
    source = load_embeddings(hash_embeddings)
    more = NameEmbeddings(
        (*source.names, 'axolotl'), np.concatenate([source.embeddings, source.embeddings[:1] + 1]), 'hash', '{name}'
    )
    save_embeddings(tmp_path / 'more.npz', more)
    model, old = bank(embeddings=str(tmp_path / 'more.npz'), seed=1), bank()
    assert not torch.equal(model(), old())
    model.load_state_dict(old.state_dict())
    assert torch.equal(model(), old())


def test_missing_file(bank):
    with pytest.raises(FileNotFoundError, match='no-such-file'):
        bank(embeddings='no-such-file.npz')


def test_packaged_sentence_encoder_is_the_documented_default():
    bank = TextBank('minilm-l6-v2', ['person'], embed_dims=8)
    assert bank.vectors.shape == (1, 384)


def test_it_follows_the_device_and_type_of_the_module(bank):
    model = bank().to(torch.float64)
    assert model().dtype == torch.float64


def test_it_is_built_from_a_config(hash_embeddings):
    assert isinstance(MODELS.build(dict(type='TextBank', embeddings=hash_embeddings, names=['cat'])), TextBank)


def test_names_start_as_different_as_their_embeddings(bank):
    """A bias as large as the projected vectors would make all prompts alike."""
    model = bank(('person', 'dog', 'traffic light', 'banana'), embeddings='minilm-l6-v2', embed_dims=512)
    model.init_weights()
    vectors = F.normalize(model.vectors, dim=1)
    vectors = F.normalize(vectors - vectors.mean(0), dim=1)
    prompts = F.normalize(model(), dim=1)
    # A random projection to 512 channels keeps a cosine to about 1 / sqrt(512).
    torch.testing.assert_close(prompts @ prompts.T, vectors @ vectors.T, atol=0.15, rtol=0)
