"""Prompt-to-prompt: maps by hand from queries and keys, words against tables, and what must not change."""

import pytest
import torch

from mmplugins.prompt_tuning_inversion import DiffusionParts
from mmplugins.prompt_tuning_inversion.attention_control import AttentionControl, move_of, spans_of

SOURCES = ['a red three', 'a blue two']
TARGETS = ['a green three', 'a blue five']
CROSS = 'mid_block.attentions.0.transformer_blocks.0.attn2'
SELF = 'mid_block.attentions.0.transformer_blocks.0.attn1'


@pytest.fixture(scope='module')
def parts(folder) -> DiffusionParts:
    return DiffusionParts(str(folder)).requires_grad_(False)


def watch(module, found: dict) -> list:
    """Keep what goes into the layers of an attention and comes out of them."""

    def keep(name):
        return lambda _, args, output: found.update({name: output, f'{name} input': args[0]})

    layers = dict(q=module.to_q, k=module.to_k, v=module.to_v, out=module.to_out[0])
    return [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]


def heads(states: torch.Tensor, count: int) -> torch.Tensor:
    return states.unflatten(-1, (count, -1)).transpose(1, 2)  # (B, H, N, D)


def maps_by_hand(found: dict, count: int) -> torch.Tensor:
    query, key = heads(found['q'], count), heads(found['k'], count)
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize('place', [CROSS, SELF], ids=['cross', 'self'])
def test_the_edit_has_the_maps_of_the_image(parts, place):
    torch.manual_seed(0)
    image, edit = torch.randn(2, 2, 4, 8, 8)
    module, timestep = parts.unet.get_submodule(place), torch.tensor(7)
    control = AttentionControl(weights={'five': 3.0})
    maps = control.maps(parts, SOURCES, TARGETS)
    own, other = {}, {}
    with maps.keeping():
        hooks = watch(module, own)
        parts.predict(image, timestep, parts.encode_text(SOURCES))
    [hook.remove() for hook in hooks]
    with maps.giving(cross=True, self_attention=True):
        hooks = watch(module, other)
        parts.predict(edit, timestep, parts.encode_text(TARGETS))
    [hook.remove() for hook in hooks]
    expected = maps_by_hand(own, module.heads)
    assert not torch.allclose(expected, maps_by_hand(other, module.heads), atol=1e-3)
    if place == CROSS:
        expected[1, ..., 3] *= 3  # begin, a, blue, five
    result = (expected @ heads(other['v'], module.heads)).transpose(1, 2).flatten(2)
    torch.testing.assert_close(other['out input'], result)


def test_keeping_changes_nothing_and_all_is_put_back(parts):
    latents, timestep, embeds = torch.randn(2, 4, 8, 8), torch.tensor(7), parts.encode_text(SOURCES)
    expected, before = parts.predict(latents, timestep, embeds), parts.unet.attn_processors
    maps = AttentionControl().maps(parts, SOURCES, TARGETS)
    with maps.keeping():
        torch.testing.assert_close(parts.predict(latents, timestep, embeds), expected)
    with pytest.raises(KeyError), maps.giving(cross=True, self_attention=True):
        raise KeyError
    assert parts.unet.attn_processors == before
    with maps.giving(cross=False, self_attention=False):
        torch.testing.assert_close(parts.predict(latents, timestep, embeds), expected)


def words(*lengths: int) -> list:
    """Words a, b, ... of so many tokens each."""
    ends = [1 + sum(lengths[: n + 1]) for n in range(len(lengths))]
    return [(chr(97 + n), (end - length, end)) for n, (end, length) in enumerate(zip(ends, lengths, strict=True))]


@pytest.mark.parametrize(
    ('source', 'target', 'columns'),
    [
        # Columns: of which tokens of the image the map of a token of the edit is made. 0 begins, ends follow the words.
        (words(1, 1), words(1, 1), [{0: 1}, {1: 1}, {2: 1}, {3: 1}, {4: 1}, {5: 1}]),
        (words(1, 1), [*words(1), ('x', (2, 3))], [{0: 1}, {1: 1}, {2: 1}, {3: 1}, {4: 1}, {5: 1}]),
        (words(1, 1), [('a', (1, 2)), ('x', (2, 4))], [{0: 1}, {1: 1}, {2: 0.5}, {2: 0.5}, {3: 1}, {4: 1}]),
        (words(1, 2), [('a', (1, 2)), ('x', (2, 3))], [{0: 1}, {1: 1}, {2: 1, 3: 1}, {4: 1}, {5: 1}, {}]),
        (words(1, 1), [('a', (1, 2)), ('x', (2, 3)), ('b', (3, 4))], [{0: 1}, {1: 1}, {}, {2: 1}, {3: 1}, {4: 1}]),
        (words(1, 1), [('b', (1, 2))], [{0: 1}, {2: 1}, {3: 1}, {4: 1}, {5: 1}, {}]),
        # A word that only one of the prompts, or none, has room for.
        (words(5, 2), [('b', (1, 3)), ('a', (3, 8))], [{0: 1}, {}, {}, {1: 1}, {2: 1}, {3: 1}]),
        ([('b', (1, 3)), ('a', (3, 8))], words(5, 2), [{0: 1}, {}, {}, {}, {}, {}]),
        (words(6, 2), words(1, 2), [{0: 1}, dict.fromkeys(range(1, 6), 1), {}, {}, {}, {}]),
        ([], words(1), [{0: 1}, {}, {1: 1}, {2: 1}, {3: 1}, {4: 1}]),
    ],
    ids=['same', 'replaced', 'by a longer word', 'by a shorter word', 'new word', 'word left out',
         'end cut', 'place cut', 'both cut', 'empty prompt'],
)  # fmt: skip
def test_words_and_their_tokens_are_matched(source, target, columns):
    expected = torch.zeros(6, 6)
    for place, column in enumerate(columns):
        for token, share in column.items():
            expected[token, place] = share
    assert torch.equal(move_of(source, target, 6), expected)


def test_spans_are_those_of_the_tokenizer(parts):
    spans = spans_of(parts, 'a zebra three')
    tokens = parts.tokenizer('a zebra three').input_ids
    assert [span for _, span in spans] == [(1, 2), (2, len(tokens) - 2), (len(tokens) - 2, len(tokens) - 1)]


@pytest.mark.parametrize(
    ('kind', 'start'),
    [('PromptTuningInversion', dict(init='source')), ('NullTextInversionEditor', {}), ('NegativePromptEditor', {}),
     ('DDIMInversionEditor', dict(init='source'))],
    ids=['pti', 'null-text', 'negative-prompt', 'ddim'],
)  # fmt: skip
def test_on_top_of_inversions(make_editor, images, kind, start):
    control = dict(cross=1.0, self_attention=1.0)
    editor, plain = make_editor(kind, attention=control, **start), make_editor(kind, **start)
    inversion = editor.invert(images, TARGETS, SOURCES)
    kept = editor.edit(inversion, SOURCES, 0.0, SOURCES)
    torch.testing.assert_close(kept, editor.reconstruct(inversion), rtol=0, atol=1e-3)
    found, free = editor.edit(inversion, TARGETS, 1.0, SOURCES), plain.edit(inversion, TARGETS, 1.0)
    assert (found - free).abs().max() > 1e-3  # a random model: only that it has an influence
    off = make_editor(kind, attention=dict(cross=0.0, self_attention=0.0), **start)
    torch.testing.assert_close(off.edit(inversion, TARGETS, 1.0, SOURCES), free, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ('control', 'message'),
    [
        (dict(cross=1.5), 'must be from 0 to 1'),
        (dict(weights=dict(five=-1.0)), 'must not be negative'),
        (dict(weights=dict(six=2.0)), "no prompt of the edits has the word 'six'"),
    ],
    ids=['share', 'factor', 'word'],
)
def test_wrong_settings(parts, control, message):
    with pytest.raises(ValueError, match=message):
        AttentionControl(**control).maps(parts, SOURCES, TARGETS)


def test_it_needs_the_prompt_of_the_image(make_editor, images):
    with pytest.raises(ValueError, match="invert from the prompt of the image, init='source'"):
        make_editor(attention={})
    editor = make_editor('NegativePromptEditor', attention={})
    with pytest.raises(ValueError, match='needs the prompts of the images'):
        editor.edit(editor.invert(images, TARGETS, SOURCES), TARGETS)
