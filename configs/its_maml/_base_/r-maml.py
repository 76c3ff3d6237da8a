# What all configs of its_maml share: R-MAML with numbers of its code (github.com/wangren09/MetaAdv), second order.
_base_ = 'mmpretrain::_base_/default_runtime.py'
custom_imports = dict(imports=['mmplugins.its_maml'], allow_failed_imports=False)

model = dict(
    type='RobustMAML',
    network=dict(
        type='ImageClassifier',
        backbone=dict(type='Conv4'),
        head=dict(
            type='LinearClsHead', num_classes=5, in_channels=800,
            init_cfg=dict(type='Kaiming', layer='Linear', mode='fan_in'))),
    inner_lr=0.01,
    train_steps=5,
    test_steps=10,
    first_order=False,  # the paper's formula; its base's code is first-order, see *_repro_*
    reg='ce',
    reg_weight=1.0)  # 1:1, from public reviews

train_dataloader = dict(
    batch_size=4,  # tasks
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='EpisodeSampler'),
    dataset=dict(type='EpisodicDataset', ways=5, shots=1, queries=15, num_episodes=100000, seed=0))
val_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='EpisodicDataset', ways=5, shots=1, queries=15, num_episodes=100, seed=222))
test_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=False,
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
    # ours: 600 tasks; R-MAML's code has 100
    dataset=dict(type='EpisodicDataset', ways=5, shots=1, queries=15, num_episodes=600, seed=223))
val_evaluator = dict(type='FewShotRobustMetric')
test_evaluator = val_evaluator

# R-MAML's code: 60,000 tasks of 6 passes over 10,000 episodes, 4 a step.
train_cfg = dict(by_epoch=False, max_iters=15000, val_interval=1000)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-3))
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    checkpoint=dict(by_epoch=False, interval=1000, max_keep_ckpts=2, save_best='few_shot/score', rule='greater'))
custom_hooks = [dict(type='CheckEpisodesHook'), dict(type='IntrinsicDimensionHook')]
log_processor = dict(by_epoch=False)
