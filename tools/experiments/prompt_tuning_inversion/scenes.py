"""The same question where an edit can do too much: two digits in front of a photo, and the prompt recolors one.

A seed is a tiny model, trained here by the two configs of scenes. Drawings and photos of the edited scenes are held
out; of these, scenes are taken whose perfect edit the judge reads rightly. Every method is swept over its strength.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import Runner
from torch import Tensor

from experiments import ROOT
from experiments.frame.claims import Claim, Found, Row, Values, minus
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.prompt_tuning_inversion import arms
from experiments.prompt_tuning_inversion.arms import STRENGTHS, UNTUNED
from experiments.prompt_tuning_inversion.figure import PSNR
from experiments.prompt_tuning_inversion.trade_off import CHOOSE, DIFFERENCE, TradeOff, by_image
from mmplugins.prompt_tuning_inversion.editor import InversionEditor
from mmplugins.prompt_tuning_inversion.evaluation.nearness import psnr
from mmplugins.prompt_tuning_inversion.tinted_digits.dataset import COLORS
from mmplugins.prompt_tuning_inversion.tinted_digits.scene_judge import SceneJudge

TASK, MODEL, PERFECT = 'scenes', 'model', 'perfect edit'
GROUPS, IMAGES = 3, 12
LEAST = 0.1  # of two methods that never succeed, none is the better one
ETAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
CONFIGS = ROOT / 'configs/prompt_tuning_inversion'
VAE, DENOISER = 'tiny-vae_1xb32-800i_tinted-scenes', 'tiny-sd_1xb64-1800i_tinted-scenes'
# What shows in a second that the trainings run.
QUICK = {'train_cfg.max_iters': 1, 'train_dataloader.batch_size': 2, 'train_dataloader.dataset.rounds': 1}
OURS, NULL, SDEDIT = 'PTI target', 'PTI null', 'SDEdit'
NEIGHBORS = ('null-text', 'negative-prompt', 'edit-friendly')
EDITORS = {
    'DDIM target': dict(kind='DDIMInversionEditor', init='target', etas=(1.0,)),  # whatever eta, see arms.py
    'DDIM null': dict(kind='DDIMInversionEditor', init='null', etas=ETAS),
    OURS: dict(kind='PromptTuningInversion', init='target', etas=ETAS),
    NULL: dict(kind='PromptTuningInversion', init='null', etas=ETAS),
    'null-text': dict(kind='NullTextInversionEditor', etas=ETAS),
    'negative-prompt': dict(kind='NegativePromptEditor', etas=ETAS),
    'edit-friendly': dict(arms.arms()[f'edit-friendly w{arms.EDIT_GUIDANCE:g}']),
    SDEDIT: dict(kind='SDEditEditor', etas=STRENGTHS),
}
LABELS = dict(success='new color shown, all else read as before', background='PSNR of all but the digit, dB')


def folder_of(seed: int, context: Context) -> Path:
    """Where a model and its trainings are; kept outside of the job's folder, so that a training goes on."""
    return context.work / 'scene_models' / str(seed)


def parts_of(seed: int, context: Context) -> dict:
    """Config of a trained model."""
    return dict(type='DiffusionParts', pretrained=str(folder_of(seed, context) / 'tiny'))


def train(name: str, seed: int, context: Context, **options) -> torch.nn.Module:
    """Train by a config, from the newest checkpoint if there is one."""
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.merge_from_dict({**options, **(QUICK if context.quick else {}), 'randomness.seed': seed})
    cfg.update(work_dir=str(folder_of(seed, context) / name), resume=True, experiment_name=f'{name}_{seed}')
    return Runner.from_cfg(cfg).train()


def train_model(seed: int, context: Context) -> dict:
    """Train autoencoder and denoiser, write the folder; returns how well the autoencoder draws held-out scenes."""
    train(VAE, seed, context)
    last = (folder_of(seed, context) / VAE / 'last_checkpoint').read_text(encoding='utf-8')
    denoiser = train(DENOISER, seed, context, **{'model.autoencoder.init_cfg.checkpoint': last})
    parts = parts_of(seed, context)
    denoiser.save_folder(Path(parts['pretrained']))
    coder, tasks = MODELS.build(parts), groups_of_tasks(IMAGES)[0]
    images = torch.stack([task['image'] for task in tasks])
    return dict(psnr=[psnr(*pair) for pair in zip(coder.decode(coder.encode_image(images)), images, strict=True)])


@functools.cache
def judge() -> SceneJudge:
    """Fitting it takes seconds."""
    return SceneJudge()


@functools.cache
def groups_of_tasks(count: int) -> list[list[dict]]:
    """Groups of ``count`` held-out scenes with the prompt of another color of the left digit, the right one, in turns.

    The color is one that the scene does not have. No two scenes share a drawing or a photo.
    """
    photos = dict(data_root=str(ROOT / 'tests/data/clothing10'), data_prefix=dict(img_path='val'))
    dataset = DATASETS.build(dict(type='TintedScenes', split='test', pipeline=[], **photos))
    tasks = []
    for scene in map(dataset.scene, range(len(dataset))):
        place = len(tasks) % 2
        free = [color for color in COLORS if color not in scene.colors]
        wanted = scene.recolored(place, free[len(tasks) // 2 % len(free)])
        if judge()(wanted.picture(), scene.picture(), wanted, place)['success']:
            tasks.append(
                dict(image=scene.picture(), source=scene.prompt, prompt=wanted.prompt, wanted=wanted, place=place)
            )
        if len(tasks) == GROUPS * count:
            break
    return [tasks[start : start + count] for start in range(0, GROUPS * count, count)]


def judged(edits: Tensor, before: Tensor, tasks: list[dict]) -> dict[str, list]:
    """What the judge finds, by key a value of each image."""
    found = [judge()(*pair, task['wanted'], task['place']) for *pair, task in zip(edits, before, tasks, strict=True)]
    return {key: [one[key] for one in found] for key in found[0]}


def build(arm: str, parts: dict, context: Context) -> InversionEditor:
    """The editor of an arm."""
    config = {key: value for key, value in EDITORS[arm].items() if key != 'etas'}
    return arms.build(parts=parts, **config, **(dict(num_steps=2) if context.quick else {}))


def measure(arm: str, tasks: list[dict], parts: dict, context: Context) -> dict:
    """Reconstruct and edit a group of scenes."""
    editor = build(arm, parts, context)
    inversion = arms.invert(editor, tasks)
    before, prompts = editor.parts.decode(inversion.source), [task['prompt'] for task in tasks]
    edits = {str(eta): judged(editor.edit(inversion, prompts, eta), before, tasks) for eta in EDITORS[arm]['etas']}
    return dict(psnr=arms.reconstruction(editor, inversion), edits=edits)


def perfect(tasks: list[dict], parts: dict) -> dict:
    """The most that a method can reach: the perfect edit as the autoencoder shows it."""
    coder = MODELS.build(parts)
    before, after = (
        coder.decode(coder.encode_image(torch.stack(images)))
        for images in ([task['image'] for task in tasks], [task['wanted'].picture() for task in tasks])
    )
    return dict(edits={'1.0': judged(after, before, tasks)})


def run(arm: str, seed: int, context: Context) -> dict:
    """Train the model, or let a method edit all groups with it."""
    if arm == MODEL:
        return train_model(seed, context)
    parts = parts_of(seed, context)
    groups = groups_of_tasks(2 if context.quick else IMAGES)
    if arm == PERFECT:
        return dict(groups=[perfect(tasks, parts) for tasks in groups])
    return dict(groups=[measure(arm, tasks, parts, context) for tasks in groups])


TASKS = {
    TASK: Task(
        run,
        (MODEL, PERFECT, *EDITORS),
        minutes={MODEL: 28, PERFECT: 0.3, **dict.fromkeys(EDITORS, 1.5)},
        after=dict.fromkeys((PERFECT, *EDITORS), MODEL),
    )
}


def groups_of(found: Found, arm: str) -> dict[int, dict]:
    """Results of an arm, group by group of each model; none if it was not run."""
    seeds = found.results.get(TASK, {}).get(arm, {})
    return {GROUPS * seed + place: one for seed, found in seeds.items() for place, one in enumerate(found['groups'])}


def trade_off(found: Found) -> TradeOff:
    """The edits of scenes."""
    return TradeOff(lambda arm: groups_of(found, arm), LABELS)


def claims(found: Found) -> list[Claim]:
    """What follows; everything is paired over images."""
    edits, start = trade_off(found), 'DDIM target'
    weaker, stronger = ETAS[0], ETAS[-1]

    def images(arm: str) -> Values:
        return by_image({number: group['psnr'] for number, group in groups_of(found, arm).items()})

    def alone(arm: str, eta: float, skip: int = 0, **side: float) -> Comparison:
        values = edits.values(arm, eta, 'success', skip)
        return Comparison(f'{arm}, eta {eta:g}', LABELS['success'], values, unit='images', limits=(0.0, 1.0), **side)

    def change(key: str, label: str, **side: float) -> Comparison:
        values = minus(edits.values(OURS, stronger, key), edits.values(OURS, weaker, key))
        limits = None if key == edits.fidelity else DIFFERENCE
        name = f'{OURS}, eta {stronger:g} minus {weaker:g}'
        return Comparison(name, label, values, unit='images', limits=limits, **side)

    def more(eta: float, other: float) -> Comparison:
        values = minus(*(edits.values(OURS, one, 'success', CHOOSE) for one in (eta, other)))
        name = f'{OURS}, eta {eta:g} minus {other:g}'
        return Comparison(name, LABELS['success'], values, above=0.0, unit='images', limits=DIFFERENCE)

    def rival(ours: str, theirs: str) -> list[Comparison]:
        other = edits.best_edit(theirs)
        eta = edits.best_eta(ours, other)
        return [alone(ours, eta, CHOOSE, above=LEAST), *edits.better((ours, eta), other)]

    rule = (
        f'success in more than {LEAST:.0%} of the images and as often (5 of 100 fewer at most), with a background that '
        'is nearer'
    )
    abstract = 'abstract: trade-off between editability and fidelity'
    models = found.results.get(TASK, {}).get(MODEL, {})
    drawn = dict(enumerate(value for model in models.values() for value in model['psnr']))
    return [
        Claim(
            'Scenes: the model can show the edit, and guided sampling of its prompt does more than the edit',
            'ours: the condition of the experiment',
            'the perfect edit, through the autoencoder, succeeds in more than 8 of 10 images, guided sampling from the '
            'inverted noise (eta 1) in less than half',
            [alone(PERFECT, 1.0, above=0.8), alone(start, 1.0, below=0.5)],
            [Row('autoencoder', 'PSNR of scenes, dB', drawn), *edits.rows(PERFECT, (1.0,)), *edits.rows(start, (1.0,))],
        ),
        Claim(
            'Scenes: prompt tuning inversion reconstructs better than guided sampling without tuning',
            'abstract',
            'from the prompt of the edit',
            [Comparison(f'{OURS} minus {start}', PSNR, minus(images(OURS), images(start)), above=0.0, unit='images')],
            [Row(arm, PSNR, images(arm)) for arm in EDITORS if EDITORS[arm]['etas'] != STRENGTHS],
        ),
        Claim(
            'Scenes: eta trades fidelity for editability',
            'abstract, figure 2',
            f'from {weaker:g} to {stronger:g} the new color is shown more often, and the background is farther',
            [change('color', 'new color shown', above=0.0), change('background', LABELS['background'], below=0.0)],
            edits.rows(OURS, ETAS),
        ),
        Claim(
            'Scenes: some eta edits better than guided sampling of the prompt from the inverted noise (eta 1)',
            abstract,
            'more successes',
            [more(edits.best_edit(OURS)[1], 1.0)],
            edits.rows(NULL, ETAS),
        ),
        Claim(
            'Scenes: tuning edits better than the same start without it',
            abstract,
            f'against {UNTUNED}: {rule}',
            [each for init in ('target', 'null') for each in rival(f'PTI {init}', f'DDIM {init}')],
            [*edits.rows(start, (1.0,)), *edits.rows('DDIM null', ETAS)],
        ),
        Claim(
            'Scenes: it edits better than SDEdit, from the better of its two starts',
            abstract,
            f'against the best strength: {rule}',
            rival(edits.best_arm(OURS, NULL), SDEDIT),
            edits.rows(SDEDIT, STRENGTHS),
        ),
        Claim(
            'Scenes: it edits better than its neighbors, from the better of its two starts',
            f'{abstract}; the neighbors are ours to choose',
            'against the best strength of null-text, negative-prompt and edit-friendly inversion, all told what is in '
            f'the image: {rule}',
            [each for other in NEIGHBORS for each in rival(edits.best_arm(OURS, NULL), other)],
            [row for other in NEIGHBORS for row in edits.rows(other, EDITORS[other]['etas'])],
        ),
    ]
