# Text encoder and UNet of the tiny model of scenes, on latents of the autoencoder that
# tiny-vae_1xb32-800i_tinted-scenes.py made; else as those of digits. Small: 1 process x 64 pictures, 1,800 iterations,
# twenty minutes on a core.
_base_ = './tiny-sd_1xb64-1800i_tinted-mnist.py'

model = dict(
    autoencoder=dict(
        vae=dict(latent_channels=8),
        init_cfg=dict(checkpoint='work_dirs/tiny-vae_1xb32-800i_tinted-scenes/iter_800.pth')),
    unet=dict(latent_channels=8, sample_size=(8, 16)),
    tokenizer=dict(
        words=(
            'a', 'and', 'red', 'yellow', 'green', 'cyan', 'blue', 'magenta', 'zero', 'one', 'two', 'three', 'four', 'five',
            'six', 'seven', 'eight', 'nine'),
        max_length=12))
train_dataloader = dict(
    dataset=dict(
        type='TintedScenes',
        rounds=24,
        data_root='{{ fileDirname }}/../../tests/data/clothing10',
        data_prefix=dict(img_path='train')))
