"""What is measured: reconstruction and edits of held-out digits, by method and setting."""

from __future__ import annotations

import warnings

import torch
from mmengine.registry import DATASETS, MODELS
from torch import Tensor

from mmplugins.prompt_tuning_inversion.editor import InversionEditor
from mmplugins.prompt_tuning_inversion.evaluation.nearness import psnr
from mmplugins.prompt_tuning_inversion.inversion import Inversion
from mmplugins.prompt_tuning_inversion.tinted_digits.dataset import COLORS, DIGITS, prompt_of
from mmplugins.prompt_tuning_inversion.tinted_digits.judge import DigitJudge, color_of, shape_of, to_pixels

STEPS, UPDATES = 20, 10
GUIDANCES = (1.0, 3.0, 5.0, 7.5)
EDIT_GUIDANCE = 5.0
ETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
STRENGTHS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
INITS = ('target', 'source', 'null')
UNTUNED = (
    'the same without tuning: from the prompt of the edit, which is guided sampling of it whatever eta, and from the '
    'empty prompt at the best eta'
)


def make_tasks(group: int, count: int) -> list[dict]:
    """Held-out digits with the prompt of another color: digits in turn, each color to each other one.

    Groups share no drawing.
    """
    dataset = DATASETS.build(dict(type='TintedDigits', split='test'))
    names, tasks = list(COLORS), []
    for number in range(group * count, (group + 1) * count):
        old = number % 6
        item = dataset[number * 6 + old]
        digit = dataset.get_data_info(number * 6 + old)['digit']
        new = (old + 1 + number // 6 % 5) % 6
        tasks.append(
            dict(image=item['inputs'], digit=digit, source=item['prompt'], prompt=prompt_of(names[new], digit))
        )
    assert all(DIGITS[task['digit']] in task['source'] for task in tasks)
    return tasks


def build(kind: str, **kwargs) -> InversionEditor:
    """An editor, by default on the tiny model; updates are not stopped early, so that arms are of equal work."""
    parts = dict(type='DiffusionParts', pretrained='tiny')
    kwargs = dict(dict(parts=parts, num_steps=STEPS, guidance=EDIT_GUIDANCE), **kwargs)
    if kind in ('PromptTuningInversion', 'NullTextInversionEditor'):
        kwargs = dict(dict(inner_steps=UPDATES, early_stop=None), **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of guidance 1, which is one of the arms
        return MODELS.build(dict(type=kind, **kwargs))


def invert(editor: InversionEditor, tasks: list[dict]) -> Inversion:
    """Invert all images together."""
    images = torch.stack([task['image'] for task in tasks])
    return editor.invert(images, [task['prompt'] for task in tasks], [task['source'] for task in tasks])


def reconstruction(editor: InversionEditor, inversion: Inversion) -> list[float]:
    """PSNR in dB of each reconstruction to the autoencoder's picture."""
    pairs = zip(editor.reconstruct(inversion), editor.parts.decode(inversion.source), strict=True)
    return [psnr(*pair) for pair in pairs]


def unconditional(tasks: list[dict], **kwargs) -> list[float]:
    """PSNR of inverting and sampling without prompt and guidance."""
    editor = build('DDIMInversionEditor', init='null', **kwargs)
    return reconstruction(editor, invert(editor, tasks))  # two equal branches: guidance has no weight


def judge_edits(
    editor: InversionEditor, inversion: Inversion, tasks: list[dict], etas: tuple, judge: DigitJudge
) -> dict:
    """For each strength, of each image: new color shown, digit kept, both; PSNR of the shape."""
    reference = [gray(picture) for picture in editor.parts.decode(inversion.source)]
    found = {}
    for eta in etas:
        edits = editor.edit(inversion, [task['prompt'] for task in tasks], eta)
        pixels = [to_pixels(edit) for edit in edits]
        digits = judge([shape_of(picture) for picture in pixels])
        colors = [color_of(picture) == task['prompt'].split()[1] for picture, task in zip(pixels, tasks, strict=True)]
        kept = [bool(digit == task['digit']) for digit, task in zip(digits, tasks, strict=True)]
        shapes = [psnr(gray(edit), shape) for edit, shape in zip(edits, reference, strict=True)]
        found[str(eta)] = dict(color=colors, digit=kept, shape=shapes)
    return found


def gray(picture: Tensor) -> Tensor:
    """The drawing without its color, ``(1, H, W)`` in [-1, 1], its brightest pixel white: hues differ in brightness."""
    shape = (picture.amax(0, keepdim=True) + 1) / 2
    return shape / shape.amax().clamp(min=0.1) * 2 - 1


def arms() -> dict[str, dict]:
    """Name of each arm: kind, settings and, where it edits, its strengths."""
    found: dict[str, dict] = {}
    for guidance in GUIDANCES:
        for init in ('target', 'source'):
            found[f'DDIM {init} w{guidance:g}'] = dict(kind='DDIMInversionEditor', guidance=guidance, init=init)
        for init in INITS if guidance > 1 else ('target',):
            found[f'PTI {init} w{guidance:g}'] = dict(kind='PromptTuningInversion', guidance=guidance, init=init)
        if guidance > 1:
            found[f'null-text w{guidance:g}'] = dict(kind='NullTextInversionEditor', guidance=guidance)
    for updates in (1, 3):
        name = f'PTI target w{EDIT_GUIDANCE:g} N{updates}'
        found[name] = dict(
            kind='PromptTuningInversion', guidance=EDIT_GUIDANCE, init='target', inner_steps=updates
        )  # fmt: skip
    suffix = f'w{EDIT_GUIDANCE:g}'
    found[f'DDIM null {suffix}'] = dict(kind='DDIMInversionEditor', guidance=EDIT_GUIDANCE, init='null')
    found[f'negative-prompt {suffix}'] = dict(kind='NegativePromptEditor', guidance=EDIT_GUIDANCE)
    for name in (f'{method} {init} {suffix}' for method in ('PTI', 'DDIM') for init in INITS):
        found[name]['etas'] = ETAS
    found[f'DDIM target {suffix}']['etas'] = (1.0,)  # whatever eta: it mixes the prompt of the edit with itself
    for name in (f'null-text {suffix}', f'negative-prompt {suffix}'):
        found[name]['etas'] = ETAS
    found[f'SDEdit {suffix}'] = dict(kind='SDEditEditor', guidance=EDIT_GUIDANCE, etas=STRENGTHS)
    # Its authors guide the prompt of the image by 3.5 and that of the edit by 15; the model of digits is guided by 5.
    found[f'edit-friendly {suffix}'] = dict(
        kind='EditFriendlyEditor', guidance=1.0, edit_guidance=EDIT_GUIDANCE, etas=STRENGTHS
    )
    return found


def run_arm(config: dict, tasks: list[dict], judge: DigitJudge) -> dict:
    """Measure one arm on one group."""
    config = dict(config)
    etas = config.pop('etas', ())
    editor = build(**config)
    inversion = invert(editor, tasks)
    result = dict(psnr=reconstruction(editor, inversion), updates=int(inversion.updates.sum()))
    if etas:
        result['edits'] = judge_edits(editor, inversion, tasks, etas, judge)
    return result
