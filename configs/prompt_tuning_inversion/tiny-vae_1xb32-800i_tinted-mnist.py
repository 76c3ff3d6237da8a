# The autoencoder of the tiny model, 32 x 32 pixels to 4 x 8 x 8. Small: 1 process x 32 pictures, 800 iterations, three
# minutes on a core.
_base_ = './_base_/tinted_digits.py'

model = dict(type='TintedDigitAutoencoder', vae=dict(channels=(16, 32, 32)))
train_dataloader = dict(batch_size=32)

max_iters = 800
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.0), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=40),
    dict(type='CosineAnnealingLR', eta_min=2e-5, by_epoch=False, begin=40, end=max_iters)
]
auto_scale_lr = dict(base_batch_size=32)
