# Text encoder and UNet of the tiny model, on latents of the autoencoder that tiny-vae_1xb32-800i_tinted-mnist.py made.
# Small: 1 process x 64 pictures, 1,800 iterations, ten minutes on a core.
_base_ = './_base_/tinted_digits.py'

model = dict(
    type='TintedDigitDenoiser',
    autoencoder=dict(
        type='TintedDigitAutoencoder',
        vae=dict(channels=(16, 32, 32)),
        init_cfg=dict(type='Pretrained', checkpoint='work_dirs/tiny-vae_1xb32-800i_tinted-mnist/iter_800.pth')),
    unet=dict(channels=(48, 64)),
    drop_prompt=0.1)

max_iters = 1800
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='AdamW', lr=1.5e-3, weight_decay=1e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, begin=0, end=60),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=False, begin=60, end=max_iters)
]
