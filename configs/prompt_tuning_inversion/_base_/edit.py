# What the editing runs share: nothing is trained, `tools/test.py` inverts and edits each image and judges the pictures.
custom_imports = dict(imports=['mmplugins.prompt_tuning_inversion'], allow_failed_imports=False)
default_scope = 'mmengine'

test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='pseudo_collate'))
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(type='LoggerHook', interval=1))
custom_hooks = [dict(type='SaveEditGridHook')]
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
