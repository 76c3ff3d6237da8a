# All that a resumed run must take up: shuffled data, noise of every generator, dropout, momentum, a schedule, averages.
_base_ = './tiny.py'
model = dict(dropout=0.2)
train_dataloader = dict(dataset=dict(noise=0.1, delay=0.005), sampler=dict(shuffle=True))
train_cfg = dict(max_epochs=6, val_interval=2)
optim_wrapper = dict(optimizer=dict(lr=0.05, momentum=0.9))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=10),
    dict(type='StepLR', step_size=2, gamma=0.5, by_epoch=True),
]
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1), logger=dict(type='LoggerHook', interval=1)
)
