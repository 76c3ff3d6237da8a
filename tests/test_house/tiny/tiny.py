# A run of a second for the tests of tools/; needs this folder in PYTHONPATH.
custom_imports = dict(imports=['tiny_model'], allow_failed_imports=False)
default_scope = 'mmengine'
model = dict(type='TinyRegressor')
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type='TinyLine'),
    collate_fn=dict(type='default_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_dataloader = train_dataloader
test_dataloader = train_dataloader
val_evaluator = dict(type='TinyError')
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=4, val_interval=4)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
auto_scale_lr = dict(base_batch_size=4)
env_cfg = dict(dist_cfg=dict(backend='gloo'))
randomness = dict(seed=0)
