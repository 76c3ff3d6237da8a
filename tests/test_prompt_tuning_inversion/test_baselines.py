"""The methods that are compared with."""

import pytest
import torch

SOURCES = ['a red three', 'a blue two']
TARGETS = ['a green three', 'a red two']


def test_null_text_is_the_literal_loop(make_editor, images):
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    editor = make_editor('NullTextInversionEditor')
    parts, image = editor.parts.requires_grad_(False), images[:1]
    config = {key: value for key, value in parts.scheduler_config.items() if not key.startswith('_')}
    config.pop('skip_prk_steps')
    forward, backward = DDIMScheduler(**config), DDIMInverseScheduler(**config)
    forward.set_timesteps(5)
    backward.set_timesteps(5)

    def output(z, t, c):
        return parts.unet(z, t, encoder_hidden_states=c).sample

    cond, null = parts.encode_text(SOURCES[:1]), parts.encode_text([''])
    with torch.no_grad():
        path = [parts.encode_image(image)]
        for t in backward.timesteps:
            path.append(backward.step(output(path[-1], t, cond), t, path[-1]).prev_sample)
    z, nulls = path[-1], []
    for i, t in enumerate(forward.timesteps):
        null = null.clone().detach().requires_grad_(True)
        optimizer = torch.optim.Adam([null], lr=1e-2 * (1 - i / 100))
        for _ in range(2):
            free = output(z, t, null)
            loss = torch.nn.functional.mse_loss(
                forward.step(free + 3.0 * (output(z, t, cond) - free), t, z).prev_sample, path[4 - i]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            free = output(z, t, null)
            z = forward.step(free + 3.0 * (output(z, t, cond) - free), t, z).prev_sample
        nulls.append(null.detach())
    inversion = editor.invert(image, TARGETS[:1], SOURCES[:1])
    torch.testing.assert_close(inversion.noise, path[-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inversion.embeds, torch.stack(nulls), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(inversion.recon, z, rtol=1e-2, atol=1e-2 * z.abs().max().item())


def test_null_text_strength_zero_repeats_stage_one(make_editor, images):
    editor = make_editor('NullTextInversionEditor', prediction_type='v_prediction')
    inversion = editor.invert(images, TARGETS, SOURCES)
    assert torch.equal(editor.edit(inversion, TARGETS, 0.0), editor.reconstruct(inversion))
    assert (inversion.losses[:, 1] <= inversion.losses[:, 0]).float().mean() > 0.7


@pytest.mark.parametrize('kind', ['SDEditEditor', 'EditFriendlyEditor'])
def test_prompts_are_counted_and_a_string_serves_all(make_editor, images, kind):
    editor = make_editor(kind)
    with pytest.raises(ValueError, match='3 prompts for 2 images'):
        editor.invert(images, ['a'] * 3)
    with pytest.raises(ValueError, match='1 source prompts for 2 images'):
        editor.invert(images, TARGETS, SOURCES[:1])
    found, expected = (editor.invert(images, *given) for given in (['a', 'ab'], [['a'] * 2, ['ab'] * 2]))
    for name, value in expected.tensors().items():
        assert torch.equal(found.tensors()[name], value), name


def test_null_text_needs_the_prompt_of_the_image(make_editor, images):
    with pytest.raises(ValueError, match='NullTextInversionEditor needs a prompt that says what is in the image'):
        make_editor('NullTextInversionEditor').invert(images, TARGETS)
    with pytest.raises(ValueError, match='guidance 1 leaves the empty prompt without influence'):
        make_editor('NullTextInversionEditor', guidance=1)


def test_negative_prompt_is_null_text_without_updates(make_editor, images):
    """With the prompt of the image in both branches guidance has no weight."""
    editor = make_editor('NegativePromptEditor')
    inversion = editor.invert(images, TARGETS, SOURCES)
    source = editor.parts.encode_text(SOURCES)
    with torch.no_grad(), editor.parts.frozen():
        path = editor.ddim_inversion(editor.parts.encode_image(images), source)
        expected = editor.sample(path[-1], source[None], source[None], 1.0)
    torch.testing.assert_close(inversion.recon, expected, rtol=1e-4, atol=1e-4)
    assert int(inversion.updates.sum()) == 0
    target = editor.parts.encode_text(TARGETS)
    with torch.no_grad(), editor.parts.frozen():
        expected = editor.parts.decode(editor.sample(path[-1], target[None], source[None], 3.0))
    torch.testing.assert_close(editor.edit(inversion, TARGETS, 1.0), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match='NegativePromptEditor needs a prompt that says what is in the image'):
        editor.invert(images, TARGETS)


def test_sdedit_ends(make_editor, images):
    editor = make_editor('SDEditEditor')
    inversion = editor.invert(images, TARGETS)
    source = editor.parts.decode(editor.parts.encode_image(images))
    assert torch.equal(editor.edit(inversion, TARGETS, 0.0), source)
    assert torch.equal(editor.reconstruct(inversion), source)
    null, cond = (editor.parts.encode_text(texts)[None] for texts in (['', ''], TARGETS))
    start = editor.schedule.add_noise(inversion.source, inversion.noise, 5)
    with torch.no_grad(), editor.parts.frozen():
        expected = editor.parts.decode(editor.sample(start, cond, null, 3.0))
    assert torch.equal(editor.edit(inversion, TARGETS, 1.0), expected)


def test_sdedit_noise_is_that_of_the_seed(make_editor, images):
    a, b, c = (make_editor('SDEditEditor', seed=seed).invert(images, TARGETS).noise for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(a[0], a[1])  # each image of a batch has the noise that it has alone
