"""Every config on a pretended GPU: nothing is left on the CPU, and a step waits for the device only where it must.

A job is the rehearsal's, without checkpoints: loss, backward, optimizer and hooks of two iterations, and a test.
"""

import importlib
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

import mmplugins

ROOT = Path(__file__).resolve().parents[2]
# Cheap, and each with other code of a plugin on its way. `-m devices` runs the others.
QUICK = {
    'cae/cae-v2_vit-tiny-p8_1xb64-20e_clothing10',
    'dsnet/dsnet-micro_1xb32-40e_clothing10',
    'hgkd/hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10',
    'its_maml/its-maml_conv4-w16_5way-3to1_1xb4-400i_omniglot28',
    'spsa/spsanet-micro_1xb32-40e_clothing10',
}
SLOW = {
    'cae/cae-v1_vit-tiny-p8_1xb64-20e_clothing10',
    'cae/cae-v1_vit-tiny-p8_mask-rcnn_1xb4-4e_bccd',
    'dsnet/retinanet_dsnet-micro_dsfpn_1xb8-6e_bccd',
    'hgkd/hgkd_sparse-r50_clip-base_8xb512-amp-coslr-300e_in1k',
    'its_maml/adml_conv4_5way-1to1_1xb4-15ki_cifar-fs',
    'its_maml/r-maml-trades_conv4_5way-1to1_1xb4-7500i_cifar-fs',
    'metr/metr_dino-r18_1xb4-10e_samples',
    'o2detr/o2detr-cascade_r18-w16-fpn_1xb4-12e_hit-uav',
    'o2detr/o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav',
    'prae/prae_fcos-retinanet_bccd',
    'prompt_tuning_inversion/pti_tiny_1xb4_tinted-mnist',
    'prompt_tuning_inversion/tiny-sd_1xb64-1800i_tinted-mnist',
}
# Where a step of ours may wait, and how often at most in a batch of two: `<file> <function>` by plugin and step.
# A config may use another plugin's network.
# What the hosts' own code waits for is not counted. A test step includes the metric, which is for the CPU.
MAY_WAIT = {
    # A table of positions for pictures of another size is made on the CPU.
    'cae': {
        'train': {'cae/transfer/finetune_vit.py position_table': 1},
        'test': {'cae/transfer/finetune_vit.py position_table': 1},
    },
    # The mask is drawn on the CPU, as SparK's; a sparse network needs the number of its cells. Two numbers for the log.
    'hgkd': {
        'train': {'hgkd/hgkd.py mask': 1, 'hgkd/masks.py __init__': 1, 'hgkd/hook.py after_train_iter': 2},
    },
    # Starts of attacks are drawn on the CPU, so that devices agree. How many classes a task has decides the shape of
    # the head that is made of their means.
    'its_maml': {
        'train': {
            'its_maml/episodic.py forward': 1,
            'its_maml/attacks.py __call__': 4,  # support and queries, of two tasks one by one
            'its_maml/variants.py class_means': 1,
        },
        'test': {
            'its_maml/episodic.py forward': 1,
            'its_maml/variants.py class_means': 1,
            'its_maml/attacks.py __call__': 4,
            'its_maml/metric.py <dictcomp>': 6,
        },
    },
    # The Hungarian matching is on the CPU: for three layers of two pictures one copy of costs, and two back.
    'metr': {
        'train': {
            'metr/group_assigner.py _costs': 12,
            'metr/group_assigner.py assign': 6,
            'metr/cem.py retain': 1,  # how many names are kept decides all shapes behind it
            'metr/cem.py _warn_if_dropped': 1,
            'metr/denoising.py __call__': 2,
            'metr/losses.py <listcomp>': 4,
            'metr/losses.py loss_by_feat': 4,
            'metr/losses.py _loss': 4,
            'metr/mixin.py allowed_categories': 1,  # what a picture says of its annotation is in its metainfo
            'metr/mixin.py count_boxes': 1,  # a label out of range would be an assertion on the device
            'metr/mixin.py exhaustive_categories': 1,
        },
        'test': {
            'metr/cem.py retain': 1,
            'metr/data/one_of_several.py <dictcomp>': 6,
            'metr/data/one_of_several.py to_local': 4,
            'metr/head.py _predict_single': 4,
            'metr/mixin.py allowed_categories': 1,
        },
    },
    # The host looks for matches twice in each layer of each picture, and reads each level's shape, as well.
    'o2detr': {
        'train': {
            'o2detr/encoder.py forward': 1,
            'o2detr/criterion.py _get_targets_single': 16,
            'o2detr/targets.py prepare_gt': 2,  # a label out of range would be an assertion on the device
        },
        'test': {'o2detr/encoder.py forward': 1},
    },
    # Boxes of all members are fused on the CPU, and curves are fitted there.
    'prae': {
        'test': {
            'prae/fit_metric.py <dictcomp>': 4,
            'prae/fit_metric.py process': 4,
            'prae/ensemble.py _run_member': 14,
            'prae/instances.py __call__': 6,
            'prae/instances.py <genexpr>': 6,
        },
    },
    # Two steps of two updates, each of which may be the last; a picture is shown on the CPU. Noise is drawn and words
    # are counted there; low memory means that trajectories wait there.
    'prompt_tuning_inversion': {
        'train': {
            'prompt_tuning_inversion/tinted_digits/training.py encode': 1,
            'prompt_tuning_inversion/tinted_digits/training.py forward': 1,
        },
        'test': {
            'prompt_tuning_inversion/diffusion/parts.py encode_text': 5,
            'prompt_tuning_inversion/attention_control.py maps': 2,
            'prompt_tuning_inversion/baselines.py invert': 1,
            'prompt_tuning_inversion/editor.py ddim_inversion': 3,
            'prompt_tuning_inversion/editor.py edit_samples': 9,
            'prompt_tuning_inversion/editor.py noise': 22,
            'prompt_tuning_inversion/tuning.py _tune': 4,
            'prompt_tuning_inversion/tuning.py _tune_all': 3,
        },
    },
}


def configs() -> Iterator:
    for path in sorted(ROOT.glob('configs/*/*.py')):
        name = f'{path.parent.name}/{path.stem}'
        if path.parent.name != '_base_':
            marks = [] if name in QUICK else [pytest.mark.slow]
            if name not in QUICK | SLOW:
                marks.append(pytest.mark.devices)
            yield pytest.param(path, marks=marks, id=path.stem)


@pytest.fixture(scope='module')
def on_gpu(data) -> Iterator[Callable]:
    """Return a function that runs a job of ``tests/pretended`` by its name, with arguments, in a process of its own."""
    sys.path.append(str(ROOT / 'tests'))
    pretended = importlib.import_module('pretended')
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, context, initializer=pretended.start, initargs=(data.parent,)) as process:
        yield lambda *job: process.submit(pretended.run, *job).result()
    sys.path.remove(str(ROOT / 'tests'))


@pytest.mark.parametrize('config', configs())
def test_trains_and_predicts(config, on_gpu, standins, request):
    name = f'{config.parent.name}/{config.stem}'
    if config.parent.name == 'metr':
        request.getfixturevalue('prepared')
    table = importlib.import_module('standins.overrides')
    if name in table.SKIPPED:
        pytest.skip(table.SKIPPED[name])
    for step, waits in on_gpu('train_and_test', config).items():
        found, where = Counter(), {}
        for wait, count in waits.items():
            if Path(mmplugins.__path__[0]) in Path(wait.file).parents:
                place = f'{Path(wait.file).relative_to(mmplugins.__path__[0])} {wait.function}'
                found[place] += count
                where.setdefault(place, []).append(f'{count} x {wait.kind} in line {wait.line}')
        allowed = {place: most for table in MAY_WAIT.values() for place, most in table.get(step, {}).items()}
        excess = {place: where[place] for place, count in found.items() if count > allowed.get(place, 0)}
        assert not excess, f'a step ({step}) waits more often than it may'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('ours', 'host'),
    [
        ('metr/metr_dino-r18_1xb4-10e_samples', 'metr/dino-r18_1xb4-10e_samples'),
        (
            'o2detr/o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav',
            'o2detr/rotated-deformable-detr_r18-w16_1xb4-36e_hit-uav',
        ),
    ],
)
def test_a_step_waits_less_than_the_hosts_network_on_the_same_data(ours, host, on_gpu, standins):
    ours, host = (sum(on_gpu('train_and_test', ROOT / f'configs/{name}.py')['train'].values()) for name in (ours, host))
    assert ours < host


@pytest.mark.slow
def test_edits_with_parts_on_the_cpu(on_gpu):
    config = ROOT / 'configs/prompt_tuning_inversion/pti_sd21_1xb1_pie-bench.py'
    on_gpu('train_and_test', config)
    assert on_gpu('invert', config) == {'gpu:0'}


def test_relative_positions_are_made_on_the_device(on_gpu):
    module = '__import__("mmplugins.cae.relative_position", fromlist=["_"])'
    assert on_gpu('evaluate', f'{module}.relative_position_index((2, 3), gpu.device)') == {}


@pytest.mark.parametrize('line', ['gpu + cpu', 'cpu[gpu.long()]', 'torch.stack([gpu[0], cpu[0]])', 'gpu.numpy()'])
def test_complains_where_cuda_does(line, on_gpu):
    with pytest.raises((RuntimeError, TypeError), match='gpu:0'):
        on_gpu('evaluate', line)


@pytest.mark.parametrize(
    ('line', 'waits'),
    [
        ('(gpu * 2 + cpu[0]).softmax(0)', {}),
        ('gpu.masked_fill_(gpu > 1, 0)', {}),
        ('float(gpu.sum())', {'read': 1}),
        ('gpu[gpu > 0]', {'size': 1}),
        ('gpu.nonzero()', {'size': 1}),
        ('gpu[cpu.long()]', {'to gpu': 1}),
        ('gpu.new_tensor([1, 2])', {'to gpu': 1}),
        ('cpu.to(gpu)', {'to gpu': 1}),
        ('gpu.cpu()', {'to cpu': 1}),
    ],
)
def test_counts_where_cuda_waits(line, waits, on_gpu):
    assert on_gpu('evaluate', line) == waits
