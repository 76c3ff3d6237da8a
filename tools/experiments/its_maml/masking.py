"""Is robustness real, or do gradients only hide? The same test tasks under attacks that should grow stronger.

What shows that gradients are masked (Athalye et al., ICML 2018): a large radius leaves accuracy, and attacks without
gradients or from another model do more than PGD.
"""

from __future__ import annotations

from importlib.util import find_spec
from statistics import mean

import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmpretrain.registry import DATASETS, TASK_UTILS

from mmplugins.its_maml import RobustMAML

EPS = 0.08
OWN = {
    'PGD-10': dict(eps=EPS, steps=10),
    'PGD-50': dict(eps=EPS, steps=50),
    'PGD-10, half the radius': dict(eps=EPS / 2, steps=10),
    'PGD-10, twice the radius': dict(eps=2 * EPS, steps=10),
    'PGD-10, six times the radius': dict(eps=6 * EPS, steps=10),
}
OTHERS = {
    'APGD': dict(name='APGD', eps=EPS, steps=20),
    'Square, 300 queries': dict(name='Square', eps=EPS, n_queries=300),
}
TRANSFER = 'PGD-10 on MAML of this seed'
STRONGER = (*OWN, *OTHERS, TRANSFER)


def accuracies(cfg: Config, model: RobustMAML, other: RobustMAML | None, tasks: int) -> dict[str, float]:
    """Accuracy in percent on the first test tasks, clean and under each attack; None without torchattacks.

    Args:
        cfg: Of the test data.
        model: That is tested.
        other: That finds the images of `TRANSFER`; None leaves them out.
        tasks: How many.
    """
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    attacks = {name: TASK_UTILS.build(dict(type='LinfAttack', **given)) for name, given in OWN.items()}
    if find_spec('torchattacks'):
        attacks |= {name: TASK_UTILS.build(dict(type='TorchAttack', **given)) for name, given in OTHERS.items()}
    right: dict[str, list[float]] = {}
    for index in range(tasks):
        task = default_collate([dataset[index]])
        query, labels = task['query'], task['query_labels']
        weights = model.adapt_for_test(task)
        found = {'clean': query}
        found |= {name: model.attacked(each, weights, query, labels, task) for name, each in attacks.items()}
        if other is not None:
            theirs = other.adapt_for_test(task)
            found[TRANSFER] = other.attacked(attacks['PGD-10'], theirs, query, labels, task)
        for name, images in found.items():
            with torch.no_grad():
                hit = model.learner.run(weights, images).argmax(-1) == labels
            right.setdefault(name, []).append(100 * hit.double().mean().item())
    return dict.fromkeys(STRONGER) | {name: mean(values) for name, values in right.items()}
