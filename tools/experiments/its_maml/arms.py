"""The arms: which learner, how many shots, which weight of the adversarial loss, how many inner steps and updates."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config

from experiments import ROOT

PLAIN = dict(train_shots=1, reg_weight=1.0, inner_steps=2)
MAIN = {
    'MAML, 1 shot': dict(PLAIN, reg_weight=0.0),
    'R-MAML, 1 shot': PLAIN,
    'ITS-MAML, 5 shots': dict(PLAIN, train_shots=5),
    'MAML, 5 shots': dict(PLAIN, train_shots=5, reg_weight=0.0),
}
ARMS = {
    'omniglot': {
        **MAIN,
        'ITS-MAML, 2 shots': dict(PLAIN, train_shots=2),
        'ITS-MAML, 3 shots': dict(PLAIN, train_shots=3),
        # As many processor seconds of training as 5 shots, measured with seeds 0 and 1.
        'R-MAML, 1 shot, 1.35 times the updates': dict(PLAIN, longer=1.35),
        'R-MAML, 1 shot, twice the updates': dict(PLAIN, longer=2),
        # To convergence: hours.
        'MAML, 1 shot, ten times the updates': dict(PLAIN, reg_weight=0.0, longer=10),
        'R-MAML, 1 shot, ten times the updates': dict(PLAIN, longer=10),
        'ITS-MAML, 5 shots, ten times the updates': dict(PLAIN, train_shots=5, longer=10),
        'R-MAML, 1 shot, 13.5 times the updates': dict(PLAIN, longer=13.5),
        'R-MAML, 1 shot, 1 step': dict(PLAIN, inner_steps=1),
        'ITS-MAML, 5 shots, 1 step': dict(PLAIN, train_shots=5, inner_steps=1),
        'R-MAML, 1 shot, 5 steps': dict(PLAIN, inner_steps=5),
        'ITS-MAML, 5 shots, 5 steps': dict(PLAIN, train_shots=5, inner_steps=5),
        'ANIL, 1 shot': dict(PLAIN, reg_weight=0.0, learner='RobustANIL'),
        'R-ANIL, 1 shot': dict(PLAIN, learner='RobustANIL'),
        'ProtoNet, 1 shot': dict(PLAIN, reg_weight=0.0, learner='RobustProtoNet'),
        'R-ProtoNet, 1 shot': dict(PLAIN, learner='RobustProtoNet'),
        'ITS-ProtoNet, 5 shots': dict(PLAIN, train_shots=5, learner='RobustProtoNet'),
    },
    'digits': MAIN,
}


def base_config(data: str, folder: Path, tasks: int) -> Config:
    """Return the small config without validation, with a learning rate that falls to 0.

    Omniglot: drawings at 28x28. Digits: scikit-learn's at 8x8, each turned four ways; digits 0-6 to train, 7-9 to test,
    so that no turned copy of a digit is in both.

    Args:
        data: ``omniglot`` or ``digits``.
        folder: Of ``omniglot28.npz``.
        tasks: Of the test.
    """
    cfg = Config.fromfile(ROOT / 'configs/its_maml/r-maml_conv4-w16_5way-1to1_1xb4-400i_omniglot28.py')
    cfg.model.with_features = True
    for part in ('train', 'test'):
        dataset = cfg[f'{part}_dataloader'].dataset
        dataset.queries = 5  # R-MAML's code has 15: three times the cost, and no more tasks
        dataset.dataset.data_root = str(folder)
    if data == 'digits':
        cfg.model.network.backbone.update(strides=(2, 1, 1, 1))
        for part, digits in dict(train=range(7), test=range(7, 10)).items():
            cfg[f'{part}_dataloader'].dataset.dataset = dict(
                type='DigitsDataset', digits=tuple(digits), turns=(0, 1, 2, 3), pipeline=[dict(type='PackInputs')]
            )
    cfg.test_dataloader.dataset.num_episodes = tasks
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        cfg[key] = None
    cfg.default_hooks.checkpoint.update(save_best=None, interval=500)
    cfg.optim_wrapper.optimizer.lr = 3e-3  # chosen on MAML with seed 99 and the alphabets of validation
    cfg.param_scheduler = [dict(type='CosineAnnealingLR', by_epoch=False)]
    cfg.log_level = 'WARNING'
    return cfg
