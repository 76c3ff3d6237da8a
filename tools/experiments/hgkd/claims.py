"""Does a teacher help a sparse student? H-GKD (arXiv 2309.09571) on real digits, small enough for two CPU cores.

The same sparse encoder is pretrained in five ways on 4,000 digits without labels, by the modules of the plugin and
mmengine's Runner, and exported; a linear probe and fine-tuning on 50 labels measure it, beside an encoder from scratch.
The teacher, a MAE of the same 4,000 digits, is shipped; see ``mae_digits.py``.
"""

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from experiments import ROOT
from experiments.frame.claims import Claim, Found, minus
from experiments.frame.experiment import Experiment
from experiments.frame.tasks import Context, Task
from experiments.frame.verdict import Comparison
from experiments.hgkd import digits, photos
from experiments.hgkd.digits import enter_host
from experiments.hgkd.evaluate import LABELS, classifier, few_labels, ridge_probe
from experiments.hgkd.students import TEACHER_CONFIG, run_config, student
from experiments.workloads.images import CLOTHING
from mmplugins.hgkd import GenerativeDistillHook, TeacherProvider
from mmplugins.hgkd.sparse.export import backbone_weights
from mmplugins.hgkd.teachers.loading import build_teacher
from mmplugins.utils.atomic import replacing

SHIPPED = ROOT / 'tests/data/hgkd/mae_digits.npz'
TUNED_FILE = 'teacher_tuned.pth'  # in the work folder
TAPS = ['layers.3']
MAE_TEACHER, TUNED_TEACHER, RANDOM_TEACHER = 'MAE teacher', 'label-tuned teacher', 'random teacher'
# Arm: supervised positions (None: pixels, as SparK) and teacher; None: not pretrained.
ARMS = {
    'from scratch': None,
    'SparK': (None, None),
    'H-GKD, masked positions': ('masked', MAE_TEACHER),
    'H-GKD, all positions': ('all', MAE_TEACHER),
    'control: random teacher': ('all', RANDOM_TEACHER),
    'control: teacher tuned with 4,000 labels': ('all', TUNED_TEACHER),
}
SCRATCH, SPARK, MASKED, ALL, RANDOM, TUNED = ARMS
PROBE, FEW = 'linear probe in percent, 4,000 labels', f'fine-tuned on {LABELS} labels, percent'


def make_teacher(kind: str, context: Context) -> nn.Module:
    """Return the encoder of a teacher."""
    cfg = Config.fromfile(TEACHER_CONFIG).model.backbone
    if kind != RANDOM_TEACHER:
        return build_teacher(cfg, SHIPPED if kind == MAE_TEACHER else context.work / TUNED_FILE)
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    return model


def tune_teacher(context: Context) -> None:
    """Control: train the MAE's encoder on with all 4,000 labels, and keep it."""
    if (context.work / TUNED_FILE).is_file():
        return
    enter_host()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, linear = make_teacher(MAE_TEACHER, context), nn.Linear(64, 10)
    images, labels = digits.load()['train']
    optimizer = torch.optim.AdamW([*model.parameters(), *linear.parameters()], lr=5e-4, weight_decay=0.05)
    for _ in range(4):
        for batch in torch.randperm(256 if context.quick else len(images)).split(128):
            tokens = model(digits.place(images[batch], shift=True), mask=None)[-1]
            loss = F.cross_entropy(linear(tokens[:, 1:].mean(dim=1)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with replacing(context.work / TUNED_FILE) as temporary:
        torch.save(model.state_dict(), temporary)


def pretrain(arm: str, seed: int, context: Context) -> dict[str, Tensor] | None:
    """Return the weights of a pretrained encoder; None from scratch."""
    if ARMS[arm] is None:
        return None
    supervise, kind = ARMS[arm]
    runner = Runner.from_cfg(run_config(student(supervise), context.folder, seed, context.quick))
    if kind is not None:
        # A random teacher cannot be asked for in a config: the hook takes the network itself.
        runner.register_hook(GenerativeDistillHook(make_teacher(kind, context), taps=TAPS))
    runner.train()
    return backbone_weights(runner.model.state_dict())


def students(arm: str, seed: int, context: Context) -> dict:
    """Pretrain, export and measure an encoder."""
    enter_host()
    weights, data = pretrain(arm, seed, context), digits.load()
    torch.manual_seed(seed)
    encoder = classifier(weights).backbone
    encoder.eval()
    return dict(
        probe=ridge_probe(lambda images: encoder(images)[-1], data),
        few=few_labels(weights, data, seed, 1 if context.quick else 60),
    )


def teachers(kind: str, seed: int, context: Context) -> dict:
    """Probe the targets of a teacher, averaged over the tokens."""
    enter_host()
    provider = TeacherProvider(make_teacher(kind, context), TAPS)
    probe = ridge_probe(lambda x: provider(x, torch.ones(len(x), 1, 4, 4, dtype=torch.bool)), digits.load())
    return dict(probe=probe)


def claims(found: Found) -> list[Claim]:
    """What follows."""

    def ahead(ours: str, theirs: str, key: str, metric: str) -> Comparison:
        return found.compare('students', ours, theirs, key, metric)

    def rows(key: str, metric: str, *arms: str) -> list:
        return found.rows('students', key, metric, arms)

    spark = found.values('students', SPARK, 'probe')
    known = found.values('teachers', MAE_TEACHER, 'probe').values()
    gap = minus({seed: value for value in known for seed in spark}, spark)
    better = [
        Claim(
            f'Distilled features are better than those of masked pixels, and these than none: {metric}',
            'abstract: 76.98 -> 80.01 % on ImageNet; SparK for the second half',
            'H-GKD (all positions) above SparK, SparK above scratch',
            [ahead(ALL, SPARK, key, metric), ahead(SPARK, SCRATCH, key, metric)],
            rows(key, metric, SCRATCH, SPARK, MASKED, ALL, RANDOM),
        )
        for key, metric in (('probe', PROBE), ('few', FEW))
    ]
    return [
        *photos.claims(found),
        Claim(
            'The teacher knows more than a SparK student, so there is something to transfer',
            'ours: the condition of the experiment',
            'the probe of the MAE is more than 5 points above that of SparK',
            [Comparison(f'{MAE_TEACHER} minus {SPARK}', PROBE, gap, above=5.0)],
            [found.row('teachers', MAE_TEACHER, 'probe', PROBE), *rows('probe', PROBE, SPARK)],
        ),
        *better,
        Claim(
            'It is what the teacher learned that helps, not the prediction of some features',
            'ours: control',
            'H-GKD above the same with a random teacher, in both measures',
            [ahead(ALL, RANDOM, 'probe', PROBE), ahead(ALL, RANDOM, 'few', FEW)],
            [*rows('probe', PROBE, ALL, RANDOM), *rows('few', FEW, ALL, RANDOM)],
        ),
        Claim(
            'What the teacher knows goes over to the student (a control: this teacher saw all labels)',
            'ours: control',
            'a teacher tuned with labels gives a better student than the MAE, in the probe',
            [ahead(TUNED, ALL, 'probe', PROBE)],
            [
                found.row('teachers', TUNED_TEACHER, 'probe', PROBE),
                *rows('probe', PROBE, ALL, TUNED),
                *rows('few', FEW, ALL, TUNED),
            ],
        ),
    ]


EXPERIMENT = Experiment(
    tasks=dict(
        students=Task(students, tuple(ARMS), (0, 1, 2), minutes={**dict.fromkeys(ARMS, 1.3), SCRATCH: 0.3}),
        teachers=Task(teachers, (MAE_TEACHER, TUNED_TEACHER), minutes=0.2),
        **photos.TASKS,
    ),
    claims=claims,
    prepare=tune_teacher,
    finish=photos.draw,
    data=CLOTHING,
    packages=('mlxtend',),
)
