"""Time and memory of stage 1 against loops that do the same updates, and what a second edit costs.

Peers, with equal steps and updates: a literal loop that evaluates both branches of guidance, batched, in every update,
as samplers do; our null-text inversion; and the loop of null-text inversion as it is published, written down here from
its description (kept branch once a step, both branches after the updates).

The models are the tiny one of the package, and a UNet with the widths, heads and prompts of Stable Diffusion 1.5 but
two of its four levels, with random weights, so that it runs on a CPU. A step has the 10 updates of the default, or 5.
Memory is that of one update on latents of 64 x 64, with the weights.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from experiments.frame import measure
from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio
from mmplugins.prompt_tuning_inversion import InversionCache, NullTextInversionEditor, PromptTuningInversion
from mmplugins.prompt_tuning_inversion.diffusion.folder import SKELETONS
from mmplugins.prompt_tuning_inversion.editor import InversionEditor
from mmplugins.prompt_tuning_inversion.tinted_digits.parts import (
    SCHEDULER,
    build_text_encoder,
    build_tokenizer,
    vae_config,
)
from mmplugins.prompt_tuning_inversion.tuning import image_errors

PROMPT, SOURCE = 'a red three', 'a blue three'
OURS, BOTH, NULL, PUBLISHED = 'ours', 'both branches', 'null-text (ours)', 'null-text (published loop)'


def write_folder(folder: Path) -> None:
    """A random folder of Stable Diffusion's shape with two levels of the UNet and a small autoencoder of factor 8."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer(max_length=77)
    text_encoder = build_text_encoder(tokenizer, width=768, layers=1, heads=12)
    unet = dict(SKELETONS['sd1'], block_out_channels=(320, 640))
    unet.update(down_block_types=('CrossAttnDownBlock2D',) * 2, up_block_types=('CrossAttnUpBlock2D',) * 2)
    vae, scheduler = AutoencoderKL(**vae_config((8, 8, 8, 8))), DDIMScheduler.from_config(SCHEDULER)
    StableDiffusionPipeline(
        vae, text_encoder, tokenizer, UNet2DConditionModel(**unet), scheduler, None, None, requires_safety_checker=False
    ).save_pretrained(folder)


def build(model: str, device: str, kind: type = PromptTuningInversion, **kwargs) -> InversionEditor:
    """An editor that makes all its updates."""
    parts = dict(type='DiffusionParts', pretrained=model, low_mem=kwargs.pop('low_mem', False))
    return kind(parts, early_stop=None, **kwargs).to(device)


def literal(editor: InversionEditor, images: Tensor, null_text: bool) -> Tensor:
    """A loop without our savings: null-text inversion as published, or prompt tuning with both branches every time."""
    parts, schedule, steps = editor.parts, editor.schedule, editor.num_steps

    def guided(latents: Tensor, timestep: Tensor, free: Tensor, prompted: Tensor) -> Tensor:
        free, prompted = parts.predict(latents.repeat(2, 1, 1, 1), timestep, torch.cat([free, prompted])).chunk(2)
        return free + editor.guidance * (prompted - free)

    with parts.frozen(), torch.no_grad():
        null, cond = (parts.encode_text([text] * len(images)) for text in ('', SOURCE if null_text else PROMPT))
        path = editor.ddim_inversion(parts.encode_image(images), cond if null_text else null)
        latents = path[-1]
        for step, level in enumerate(range(steps, 0, -1)):
            timestep, target = schedule.timesteps[level - 1].to(latents.device), path[level - 1]
            tuned = (null if null_text else cond).clone().requires_grad_(True)
            optimizer = torch.optim.Adam([tuned], lr=1e-2 * editor.decay(step))
            kept = parts.predict(latents, timestep, cond) if null_text else None
            for _ in range(editor.inner_steps):
                with torch.enable_grad():
                    if null_text:
                        free = parts.predict(latents, timestep, tuned)
                        noise = free + editor.guidance * (kept - free)
                    else:
                        noise = guided(latents, timestep, null, tuned)
                    loss = image_errors(schedule.move(latents, noise, level, level - 1), target).sum()
                (tuned.grad,) = torch.autograd.grad(loss, tuned)
                optimizer.step()
            tuned = tuned.detach()
            null, cond = (tuned, cond) if null_text else (null, tuned)
            latents = schedule.move(latents, guided(latents, timestep, null, cond), level, level - 1)
    return latents


def bench_second(folder: str, device: str) -> dict:
    """Updates and seconds of a first edit, and of edits of the cached inversion."""
    editor = build('tiny', device, num_steps=10, inner_steps=5, init='null')
    images, counted, step = torch.rand(1, 3, 32, 32, device=device) * 2 - 1, [], torch.optim.Adam.step
    cache, found = InversionCache(folder), {}

    def count(self, *args):
        counted.append(1)
        return step(self, *args)

    torch.optim.Adam.step = count
    try:
        for name, prompt, eta in (
            ('first edit', PROMPT, 0.5),
            ('other eta', PROMPT, 0.9),
            ('other prompt', 'a cyan nine', 0.5),
        ):
            counted.clear()

            def edit(prompt: str = prompt, eta: float = eta) -> None:
                inversion, _ = cache.invert(editor, images, [prompt])
                editor.edit(inversion, [prompt], eta)

            seconds = round(measure.seconds_of(edit, device), 2)
            found[name] = dict(updates=len(counted), seconds=seconds)
    finally:
        torch.optim.Adam.step = step
    return found


def stage_1(name: str, model: str, count: int, size: int, steps: int, updates: int, options: Options) -> Case:
    """All loops with the same updates.

    Raises:
        AssertionError: The latents of two loops that make the same updates differ.
    """
    images = torch.rand(count, 3, size, size, device=options.device) * 2 - 1
    prompts, sources = [PROMPT] * count, [SOURCE] * count
    settings = dict(num_steps=steps, inner_steps=updates)
    ours = build(model, options.device, init='target', **settings)
    null_text = build(model, options.device, NullTextInversionEditor, **settings)
    arms = {
        OURS: lambda: ours.invert(images, prompts),
        BOTH: lambda: literal(ours, images, null_text=False),
        NULL: lambda: null_text.invert(images, prompts, sources),
        PUBLISHED: lambda: literal(null_text, images, null_text=True),
    }
    for mine, theirs in ((OURS, BOTH), (NULL, PUBLISHED)):
        torch.testing.assert_close(arms[mine]().recon, arms[theirs](), rtol=0, atol=1e-3)
    return Case(name, arms, BOTH, repeats=3 if count > 1 or size > 32 else 15)


def one_update(model: str, size: int, device: str, low_mem: bool) -> Callable[[], object]:
    """Return an inversion of one update, for `measure.peak_bytes`."""
    editor = build(model, device, num_steps=1, inner_steps=1, low_mem=low_mem)
    images = torch.rand(1, 3, size, size, device=device) * 2 - 1
    return lambda: editor.invert(images, [PROMPT])


def cases(options: Options) -> Iterator[Case]:
    """Stage 1 on three models, memory, and edits of a cached inversion."""
    warnings.filterwarnings('ignore', message='.*steps do not divide')
    with tempfile.TemporaryDirectory() as folder:
        if not options.quick:
            model = str(Path(folder, 'sd'))
            write_folder(Path(model))
            yield stage_1('stage 1, SD-1.5-shaped', model, 1, 128, 1, 10, options)
            yield stage_1('stage 1, tiny model, 16 images', 'tiny', 16, 32, 3, 10, options)
            yield stage_1('stage 1, tiny model, 1 image', 'tiny', 1, 32, 5, 10, options)
            peaks = {
                name: (one_update, (model, 512, options.device, low), ('tiny', 32, options.device, low))
                for name, low in (('low-mem', True), ('default', False))
            }
            yield Case('one update, 512 pixels', {}, 'default', peaks=peaks)
        yield stage_1('stage 1, tiny model, 1 image, 5 updates', 'tiny', 1, 32, 2 if options.quick else 5, 5, options)
        found = bench_second(str(Path(folder, 'cache')), options.device)
        yield Case('edits of a cached inversion', {}, 'first edit', given=found)


def bounds(measured: Measured) -> list[Bound]:
    """Ours over the loop with both branches, and what is counted."""
    found = []
    once = 'what needs no gradient is evaluated once a step, not in every update'
    kept = 'activations are computed again, block by block'
    for case, arms in measured.items():
        if case.startswith('stage 1') and '5 updates' not in case:
            for other, limit in ((BOTH, 0.75), (NULL, 1.05)):
                for what, key, reason in (('time', 'seconds', once), ('products', 'flops', f'counted: {once}')):
                    value = ratio(measured, case, OURS, other, key)
                    found.append(Bound(f'{case}: {what} over {other}', value, limit, reason))
        elif case.startswith('one update'):
            value = ratio(measured, case, 'low-mem', 'default', 'peak')
            found.append(Bound('peak memory, --low-mem over default', value, 0.6, kept))
        elif case.startswith('edits'):
            again = max(arms[name]['updates'] for name in ('other eta', 'other prompt'))
            found.append(Bound('updates of an edit of a cached inversion', again, 0, 'counted'))
    return found


BENCHMARK = Benchmark(cases=cases, bounds=bounds, packages=('diffusers', 'transformers'))
