"""Time and memory of stage 1 against loops that do the same updates, and what a second edit costs.

``python tools/benchmarks/prompt_tuning_inversion.py`` writes ``benchmark.json`` of the plugin's ``results``
and prints a table. Peers, with equal steps and updates: a literal loop that evaluates both branches of guidance,
batched, in every update, as samplers do; our null-text inversion; and the loop of null-text inversion as it is
published, written down here from its description (kept branch once a step, both branches after the updates).

The models are the tiny one of the package, and a UNet with the widths, heads and prompts of Stable Diffusion 1.5 but
two of its four levels, with random weights, so that it runs on a CPU. A step has the 10 updates of the default; a line
below the table is about 5. Time is processor time of this process; the arms take turns and the median counts. Memory is
the high-water mark of a fresh process, started as a user would, that makes one update on latents of 64 x 64: as it is,
and without what libraries and weights take. ``--device cuda`` measures the allocator's instead.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import torch
from torch import Tensor

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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from evidence import ROOT, interleaved, markdown_table, origin, resident, write_json

BOUNDS = {'both branches': 0.75, 'null-text (ours)': 1.05, 'memory': 0.6}
PROMPT, SOURCE = 'a red three', 'a blue three'


def write_folder(folder: Path) -> None:
    """A random folder of Stable Diffusion's shape with two levels of the UNet and a small autoencoder of factor 8."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer(max_length=77)
    tokenizer.save_pretrained(folder / 'tokenizer')
    build_text_encoder(tokenizer, width=768, layers=1, heads=12).save_pretrained(folder / 'text_encoder')
    unet = dict(SKELETONS['sd1'], block_out_channels=(320, 640))
    unet.update(down_block_types=('CrossAttnDownBlock2D',) * 2, up_block_types=('CrossAttnUpBlock2D',) * 2)
    UNet2DConditionModel(**unet).save_pretrained(folder / 'unet')
    AutoencoderKL(**vae_config((8, 8, 8, 8))).save_pretrained(folder / 'vae')
    (folder / 'scheduler').mkdir()
    (folder / 'scheduler/scheduler_config.json').write_text(json.dumps(SCHEDULER))
    (folder / 'model_index.json').write_text(json.dumps(dict(_class_name='StableDiffusionPipeline')))


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
            optimizer = torch.optim.Adam([tuned], lr=1e-2 * (1 - step / (2 * steps)))
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


def bench_time(model: str, count: int, size: int, steps: int, inner: int, repeats: int, device: str) -> dict:
    """Seconds of each arm, and the ratio of ours to it."""
    images = torch.rand(count, 3, size, size, device=device) * 2 - 1
    prompts, sources = [PROMPT] * count, [SOURCE] * count
    kwargs = dict(num_steps=steps, inner_steps=inner)
    ours, null_text = build(model, device, **kwargs), build(model, device, NullTextInversionEditor, **kwargs)
    arms = {
        'ours': lambda: ours.invert(images, prompts),
        'both branches': lambda: literal(ours, images, null_text=False),
        'null-text (ours)': lambda: null_text.invert(images, prompts, sources),
        'null-text (published loop)': lambda: literal(null_text, images, null_text=True),
    }
    difference = {}
    for name, other, function in (
        ('both branches', 'ours', ours.invert(images, prompts)),
        ('null-text (published loop)', 'null-text (ours)', null_text.invert(images, prompts, sources)),
    ):
        # Also the warm-up. The same updates, so the same latents, up to the order of sums.
        difference[f'{other} - {name}'] = (arms[name]() - function.recon).abs().max().item()
    gc.collect()
    gc.disable()  # as timeit does: else a collection may fall into the same arm in each turn
    seconds = interleaved(arms, repeats, 'cuda' if device.startswith('cuda') else 'cpu')
    gc.enable()
    ratios = {name: round(seconds['ours'] / value, 3) for name, value in seconds.items() if name != 'ours'}
    return dict(
        images=count, latents=size // ours.parts.vae_factor, steps=steps, updates=inner, seconds=seconds, ratio=ratios,
        max_difference=difference,
    )  # fmt: skip


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
            start = time.process_time()
            inversion, _ = cache.invert(editor, images, [prompt])
            editor.edit(inversion, [prompt], eta)
            found[name] = dict(updates=len(counted), seconds=round(time.process_time() - start, 2))
    finally:
        torch.optim.Adam.step = step
    return found


def measure_memory(model: str, device: str, low_mem: bool) -> dict:
    """Peak bytes of one update on latents of 64 x 64; what is there before it beside."""
    editor = build(model, device, num_steps=1, inner_steps=1, low_mem=low_mem)
    images = torch.rand(1, 3, 512, 512, device=device) * 2 - 1
    cuda = device.startswith('cuda')
    sum(parameter.sum() for parameter in editor.parameters())  # weights are mapped, and in memory once they are read
    before = torch.cuda.memory_allocated() if cuda else resident('VmRSS')
    editor.invert(images, [PROMPT])
    return dict(before=before, peak=torch.cuda.max_memory_allocated() if cuda else resident('VmHWM'))


def bench_memory(model: str, device: str) -> dict:
    """Both in fresh processes."""
    found = {}
    for name in ('default', 'low-mem'):
        command = [sys.executable, '-W', 'ignore', __file__, '--device', device, '--memory', name, model]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    found['ratio'] = round(found['low-mem']['peak'] / found['default']['peak'], 3)
    above = [found[name]['peak'] - found[name]['before'] for name in ('low-mem', 'default')]
    found['ratio_above_weights'] = round(above[0] / above[1], 3)
    return found


def verdict(ratio: float, bound: float | None) -> str:
    """Return the bound, and whether a ratio misses it."""
    if bound is None:
        return '–'
    return f'≤ {bound}' if ratio <= bound else f'≤ {bound}, **missed**'


def table_of(data: dict) -> str:
    """The table for the README."""
    rows = []
    for model, value in data['time'].items():
        seconds = value['seconds']
        for name, ratio in value['ratio'].items():
            peer = f'{name}: {seconds[name]:.2f} s'
            rows.append(
                (f'stage 1, {model}', f'{seconds["ours"]:.2f} s', peer, ratio, verdict(ratio, BOUNDS.get(name)))
            )
    memory = data['memory']
    low, plain = (f'{memory[name]["peak"] / 2**20:.0f} MiB' for name in ('low-mem', 'default'))
    ratio = memory['ratio']
    rows.append(
        ('peak memory of the process, --low-mem', low, f'default: {plain}', ratio, verdict(ratio, BOUNDS['memory']))
    )
    low, plain = (
        f'{(memory[name]["peak"] - memory[name]["before"]) / 2**20:.0f} MiB' for name in ('low-mem', 'default')
    )
    ratio = memory['ratio_above_weights']
    rows.append(
        ('the same without libraries and weights', low, f'default: {plain}', ratio, verdict(ratio, BOUNDS['memory']))
    )
    second = data['second']
    first = second['first edit']
    for name in ('other eta', 'other prompt'):
        value = second[name]
        peer = f'first edit: {first["seconds"]:.2f} s, {first["updates"]} updates'
        ours = f'{value["seconds"]:.2f} s, {value["updates"]} updates'
        rows.append(
            (f'cached inversion, {name}', ours, peer, round(value['seconds'] / first['seconds'], 3), '0 updates')
        )
    few = data['few_updates']
    return (
        f'{markdown_table(("what", "ours", "peer", "ratio", "bound"), rows)}\n\n'
        f'The fewer the updates of a step, the less there is to save: with {few["updates"]} instead of the default 10, '
        f'one image of the tiny model takes {few["ratio"]["both branches"]} of the time of the loop with both branches.'
    )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--repeats', type=int, default=3, help='one image of the tiny model: five times as many')
    parser.add_argument('--out', type=Path, default=ROOT / 'projects/prompt_tuning_inversion/results/benchmark.json')
    parser.add_argument('--memory', nargs=2, metavar=('MODE', 'MODEL'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings('ignore', message='.*steps do not divide')
    if args.memory:
        print(json.dumps(measure_memory(args.memory[1], args.device, args.memory[0] == 'low-mem')))
        return
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, 'sd'))
        write_folder(Path(model))
        data = dict(
            memory=bench_memory(model, args.device),
            second=bench_second(str(Path(folder, 'cache')), args.device),
            time={
                'SD-1.5-shaped': bench_time(model, 1, 128, 1, 10, args.repeats, args.device),
                'tiny model, 16 images': bench_time('tiny', 16, 32, 3, 10, args.repeats, args.device),
                'tiny model, 1 image': bench_time('tiny', 1, 32, 5, 10, 5 * args.repeats, args.device),
            },
            few_updates=bench_time('tiny', 1, 32, 5, 5, 5 * args.repeats, args.device),
        )
        data['table'] = table_of(data)
        threads = os.environ.get('OMP_NUM_THREADS', 'default')
        data.update(bounds=BOUNDS, threads=threads, **origin(time.time() - start, 'diffusers', 'transformers'))
        write_json(args.out, data)
        print(data['table'])
        print(f'written to {args.out}; {data["seconds"]} s')


if __name__ == '__main__':
    main()
