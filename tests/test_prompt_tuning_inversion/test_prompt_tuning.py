"""Stage 1 and stage 2, against a literal version of the algorithm and against diffusers' pipeline."""

import hashlib
import warnings

import pytest
import torch

SOURCES = ['a red three', 'a blue two']
TARGETS = ['a green three', 'a red two']
KINDS = ('epsilon', 'v_prediction')


def weights_hash(model) -> str:
    found = hashlib.sha256()
    for value in model.state_dict().values():
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def literal(editor, image, prompt):
    """Algorithm of figure 2 for one image, on diffusers' schedulers, both branches anew in each update."""
    from diffusers import DDIMInverseScheduler, DDIMScheduler

    parts, steps = editor.parts.requires_grad_(False), editor.num_steps
    config = {key: value for key, value in parts.scheduler_config.items() if not key.startswith('_')}
    config.pop('skip_prk_steps')
    forward, backward = DDIMScheduler(**config), DDIMInverseScheduler(**config)
    forward.set_timesteps(steps)
    backward.set_timesteps(steps)

    def output(z, t, c):
        return parts.unet(z, t, encoder_hidden_states=c).sample

    null, cond = parts.encode_text(['']), parts.encode_text([prompt])
    with torch.no_grad():
        path = [parts.encode_image(image)]
        for t in backward.timesteps:
            path.append(backward.step(output(path[-1], t, null), t, path[-1]).prev_sample)
    z, embeds = path[-1], []

    def step(z, t, c):
        guided = output(z, t, null) + editor.guidance * (output(z, t, c) - output(z, t, null))
        return forward.step(guided, t, z).prev_sample

    for i, t in enumerate(forward.timesteps):
        cond = cond.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([cond], lr=editor.lr * (1 - i / (2 * steps)))
        for _ in range(editor.inner_steps):
            loss = torch.nn.functional.mse_loss(step(z, t, cond), path[steps - 1 - i])
            if editor.early_stop is not None and loss < editor.early_stop * (1 + 2 * i):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        cond = cond.detach()
        with torch.no_grad():
            z = step(z, t, cond)
        embeds.append(cond)
    return path, torch.stack(embeds), z


@pytest.mark.parametrize('prediction_type', KINDS)
def test_inversion_is_that_of_the_literal_algorithm(make_editor, images, prediction_type):
    editor = make_editor(init='target', prediction_type=prediction_type)
    inversion = editor.invert(images[:1], TARGETS[:1])
    path, embeds, recon = literal(editor, images[:1], TARGETS[0])
    torch.testing.assert_close(inversion.source, path[0])
    torch.testing.assert_close(inversion.noise, path[-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inversion.embeds, embeds, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(inversion.recon, recon, rtol=1e-2, atol=1e-2 * recon.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize('prediction_type', KINDS)
def test_strength_one_is_the_pipeline(make_editor, make_pipeline, images, prediction_type):
    editor = make_editor(prediction_type=prediction_type)
    inversion = editor.invert(images, SOURCES)
    expected = make_pipeline(editor.parts)(
        TARGETS, num_inference_steps=5, guidance_scale=3.0, latents=inversion.noise, output_type='latent'
    ).images
    found = editor.edit_latents(inversion, TARGETS, 1.0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize('prediction_type', KINDS)
def test_strength_one_is_plain_guided_sampling_whatever_was_tuned(make_editor, images, prediction_type):
    from diffusers import DDIMScheduler

    editor = make_editor(init='target', prediction_type=prediction_type)
    inversion = editor.invert(images, SOURCES)
    with torch.no_grad():
        found = editor.edit_latents(inversion, TARGETS, 1.0)
    scheduler = DDIMScheduler.from_config(editor.parts.scheduler_config)
    scheduler.set_timesteps(5)
    z, both = inversion.noise, editor.parts.encode_text(['', '', *TARGETS])
    with torch.no_grad():
        for t in scheduler.timesteps:
            free, prompted = editor.parts.unet(torch.cat([z, z]), t, both).sample.chunk(2)
            z = scheduler.step(free + 3.0 * (prompted - free), t, z).prev_sample
    torch.testing.assert_close(found, z, rtol=1e-3, atol=1e-3 * z.abs().max().item())
    other = editor.invert(images, ['a magenta nine'] * 2)
    assert not torch.equal(other.embeds, inversion.embeds)
    with torch.no_grad():
        assert torch.equal(editor.edit_latents(other, TARGETS, 1.0), found)


@pytest.mark.parametrize('prediction_type', KINDS)
def test_strength_zero_repeats_stage_one_bit_by_bit(make_editor, images, prediction_type):
    editor = make_editor(prediction_type=prediction_type)
    inversion = editor.invert(images, SOURCES)
    with torch.no_grad(), editor.parts.frozen():
        assert torch.equal(editor.edit_latents(inversion, TARGETS, 0.0), inversion.recon)
    assert torch.equal(editor.edit(inversion, TARGETS, 0.0), editor.reconstruct(inversion))


def test_mixed_embedding_is_affine_in_eta(make_editor, images, monkeypatch):
    editor = make_editor()
    inversion = editor.invert(images, SOURCES)
    seen = {}

    def keep(latents, cond, null, guidance):
        seen[eta] = cond
        return latents

    monkeypatch.setattr(editor, 'sample', keep)
    for eta in (0.0, 0.25, 0.7, 1.0):
        editor.edit(inversion, TARGETS, eta)
    target = editor.parts.encode_text(TARGETS)
    assert torch.equal(seen[0.0], inversion.embeds)
    assert all(torch.equal(step, target) for step in seen[1.0])
    for eta in (0.25, 0.7):
        torch.testing.assert_close(seen[eta], (1 - eta) * seen[0.0] + eta * seen[1.0])


def test_trajectory_starts_with_the_image_and_has_all_levels(make_editor, images):
    editor = make_editor('PromptTuningInversion')
    null = editor.parts.encode_text(['', ''])
    source = editor.parts.encode_image(images)
    with torch.no_grad(), editor.parts.frozen():
        trajectory = editor.ddim_inversion(source, null)
    assert len(trajectory) == editor.num_steps + 1
    assert torch.equal(trajectory[0], source)
    inversion = editor.invert(images, SOURCES)
    assert torch.equal(inversion.noise, trajectory[-1])


def test_only_the_embedding_has_a_gradient(make_editor, images):
    editor = make_editor()
    editor.parts.unet.train()
    editor.parts.vae.decoder.requires_grad_(False)
    flags = [p.requires_grad for p in editor.parameters()]
    modes = [module.training for module in editor.modules()]
    before = weights_hash(editor)
    with torch.no_grad():
        inside = editor.invert(images, SOURCES)
    assert all(p.grad is None for p in editor.parameters())
    assert [p.requires_grad for p in editor.parameters()] == flags
    assert [module.training for module in editor.modules()] == modes
    assert weights_hash(editor) == before
    assert not any(value.requires_grad for value in inside.tensors().values())
    with torch.inference_mode():
        again = editor.invert(images, SOURCES)
    assert torch.equal(again.embeds, inside.embeds)
    assert (inside.losses[:, 1] < inside.losses[:, 0]).any()


def test_embeddings_of_the_steps_share_nothing(make_editor, images):
    inversion = make_editor().invert(images[:1], SOURCES[:1])
    assert inversion.embeds.shape == (5, 1, 8, 16)
    copies = inversion.embeds.clone()
    inversion.embeds[2].add_(1)
    assert [torch.equal(a, b) for a, b in zip(copies, inversion.embeds, strict=True)] == [True, True, False, True, True]


def test_a_step_starts_from_the_embedding_of_the_step_before(make_editor, images):
    editor = make_editor(init='target', inner_steps=1, lr_decay=False)
    inversion = editor.invert(images, SOURCES)
    start = editor.parts.encode_text(SOURCES)
    # The first update of Adam is the learning rate long, in every element with a gradient.
    for before, after in zip([start, *inversion.embeds], inversion.embeds, strict=False):
        assert (after - before).abs().max() <= 1e-2 * 1.001
    assert (inversion.embeds[0] - start).abs().max() > 0.9e-2  # index 0 is the first, noisiest step


@pytest.mark.parametrize('prediction_type', KINDS)
def test_without_updates_it_is_plain_guided_sampling(make_editor, images, prediction_type):
    editor = make_editor(init='target', inner_steps=0, prediction_type=prediction_type)
    inversion = editor.invert(images, SOURCES)
    start = editor.parts.encode_text(SOURCES)
    assert all(torch.equal(step, start) for step in inversion.embeds)
    assert inversion.updates.tolist() == [0, 0]
    baseline = make_editor('DDIMInversionEditor', init='target', prediction_type=prediction_type)
    plain = baseline.invert(images, SOURCES)
    assert torch.equal(plain.recon, inversion.recon)
    with torch.no_grad(), editor.parts.frozen(), baseline.parts.frozen():
        assert torch.equal(baseline.edit_latents(plain, SOURCES, 1.0), inversion.recon)


@pytest.mark.parametrize('guidance', [1.0, 3.0, 7.5])
def test_empty_start_without_updates_is_unconditional_reconstruction(make_editor, images, guidance):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        editor = make_editor(inner_steps=0, init='null', guidance=guidance)
    inversion = editor.invert(images, SOURCES)
    null = editor.parts.encode_text(['', ''])[None]
    with torch.no_grad():
        expected = editor.sample(inversion.noise, null, null, guidance=0.0)
    torch.testing.assert_close(inversion.recon, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.slow
@pytest.mark.parametrize('early_stop', [None, 0.02], ids=['all updates', 'early stop'])
def test_images_of_a_batch_do_not_influence_each_other(make_editor, images, early_stop):
    editor = make_editor(prediction_type='v_prediction', early_stop=early_stop)
    together = editor.invert(images, SOURCES)
    alone = [editor.invert(images[n : n + 1], SOURCES[n : n + 1]) for n in range(2)]
    for n, one in enumerate(alone):
        assert torch.equal(together.split()[n].updates, one.updates)
        torch.testing.assert_close(together.split()[n].embeds, one.embeds, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(together.recon[n : n + 1], one.recon, rtol=1e-4, atol=1e-4)
        edits = editor.edit(together, TARGETS, 0.5)[n : n + 1], editor.edit(one, TARGETS[n], 0.5)
        torch.testing.assert_close(*edits, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_same_again(make_editor, images):
    first, second = (make_editor().invert(images, SOURCES) for _ in range(2))
    assert all(torch.equal(value, second.tensors()[name]) for name, value in first.tensors().items())


def test_early_stop_is_looked_at_before_an_update(make_editor, images):
    editor = make_editor(early_stop=1e9)
    inversion = editor.invert(images, SOURCES)
    assert inversion.updates.tolist() == [0, 0]
    assert torch.equal(inversion.losses[:, 0], inversion.losses[:, 1])


def test_rest_of_the_prompt_stays_with_content_tokens(make_editor, images):
    editor = make_editor(init='target', tokens='content')
    inversion = editor.invert(images, SOURCES)
    start, mask = editor.parts.encode_text(SOURCES), editor.parts.content_mask(SOURCES)
    changed = (inversion.embeds[-1] - start).abs() > 0
    assert not changed[~mask.expand_as(changed)].any()
    assert changed[mask.expand_as(changed)].float().mean() > 0.9


@pytest.mark.slow
def test_teacher_forcing_starts_each_step_from_the_inverted_latents(make_editor, images):
    # With targets as inputs the first losses of the steps do not depend on how good the steps before were.
    kwargs = dict(inner_steps=0, teacher_forcing=True, prediction_type='v_prediction')
    forced = make_editor(**kwargs).invert(images, SOURCES)
    free = make_editor(**{**kwargs, 'teacher_forcing': False}).invert(images, SOURCES)
    assert torch.equal(forced.losses[0], free.losses[0])
    assert (forced.losses[1:, 0] < free.losses[1:, 0]).all()


@pytest.mark.parametrize(
    ('start', 'words'),
    [({}, ['', '']), (dict(init='target'), TARGETS), (dict(init='source'), SOURCES),
     (dict(init='text:a yellow one'), ['a yellow one'] * 2)],
    ids=['default', 'target', 'source', 'text'],
)  # fmt: skip
def test_starts(make_editor, images, start, words):
    editor = make_editor(inner_steps=0, **start)
    inversion = editor.invert(images, TARGETS, SOURCES)
    assert torch.equal(inversion.embeds[0], editor.parts.encode_text(words))


@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['bf16', 'fp16'])
def test_half_precision_weights_are_tuned_in_float32(make_editor, images, dtype):
    editor = make_editor(prediction_type='v_prediction', parts=dict(dtype=dtype), inner_steps=5)
    inversion = editor.invert(images, SOURCES)
    assert inversion.embeds.dtype == torch.float32
    full = make_editor(prediction_type='v_prediction', inner_steps=5).invert(images, SOURCES)
    assert (inversion.losses[:, 1] < inversion.losses[:, 0]).float().mean() > 0.7
    # The same loss within the precision of the weights.
    torch.testing.assert_close(inversion.losses[0, 0], full.losses[0, 0], rtol=0.1, atol=0)


@pytest.mark.slow
def test_low_memory_changes_nothing_but_memory(make_editor, images):
    plain, low = make_editor(), make_editor(parts=dict(low_mem=True))
    a, b = (editor.invert(images, SOURCES) for editor in (plain, low))
    assert torch.equal(a.embeds, b.embeds)
    assert torch.equal(plain.edit(a, TARGETS, 0.5), low.edit(b, TARGETS, 0.5))


def test_progress_counts_all_steps(make_editor, images):
    calls = []
    make_editor().invert(images, SOURCES, progress=lambda *call: calls.append(call[:3]))
    expected = [('invert', n, 5) for n in range(1, 6)] + [('tune', n, 5) for n in range(1, 6)]
    assert calls == expected


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(guidance=0), 'guidance 0 leaves the prompt without influence'),
        (dict(guidance=-1), 'guidance must be a number and not negative'),
        (dict(eta=1.5), 'eta must be from 0'),
        (dict(eta=[]), 'at least one eta'),
        (dict(init='prompt'), "init must be 'null', 'target'"),
        (dict(tokens='some'), 'tokens must be one of'),
        (dict(inner_steps=-1), 'inner_steps must be'),
        (dict(lr=0.0), 'lr must be a number above 0'),
        (dict(num_steps=0), 'number of steps'),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '',
)
def test_wrong_settings(make_editor, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_editor(**kwargs)


def test_guidance_one_is_allowed_with_a_warning(make_editor, images):
    with pytest.warns(UserWarning, match='guidance 1.0 does not guide'):
        editor = make_editor(guidance=1.0)
    inversion = editor.invert(images, SOURCES)
    assert inversion.updates.tolist() == [10, 10]


def test_wrong_use(make_editor, images):
    editor = make_editor()
    with pytest.raises(ValueError, match='3 prompts for 2 images'):
        editor.invert(images, ['a'] * 3)
    inversion = editor.invert(images, 'a red one')
    with pytest.raises(ValueError, match='1 prompts for 2 images'):
        editor.edit(inversion, ['a'])
    with pytest.raises(ValueError, match='3 source prompts for 2 images'):
        editor.edit(inversion, 'a', source_prompts=['a'] * 3)
    with pytest.raises(ValueError, match='eta must be from 0'):
        editor.edit(inversion, 'a', 2)
    with pytest.raises(ValueError, match=r'made with other settings \(guidance\)'):
        make_editor(guidance=4.0).edit(inversion, 'a')
    with pytest.raises(ValueError, match='needs a prompt that says what is in the image'):
        make_editor(init='source').invert(images, TARGETS, [SOURCES[0], None])
    with pytest.raises(ValueError, match="mode must be 'predict'"):
        editor(images, [], mode='loss')
    images[0, 0, 0, 0] = float('nan')
    with pytest.raises(FloatingPointError, match='not finite'):
        editor.invert(images, SOURCES)
