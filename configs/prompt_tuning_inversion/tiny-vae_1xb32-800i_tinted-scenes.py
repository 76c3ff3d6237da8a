# The autoencoder of the tiny model of scenes (two tinted digits in front of a photo), 32 x 64 pixels to 8 x 8 x 16; else as
# that of digits. Small: 1 process x 32 pictures, 800 iterations, six minutes on a core.
_base_ = './tiny-vae_1xb32-800i_tinted-mnist.py'

model = dict(vae=dict(latent_channels=8))  # a pilot with four lost the colors of the digits
train_dataloader = dict(
    dataset=dict(
        type='TintedScenes',
        rounds=24,
        data_root='{{ fileDirname }}/../../tests/data/clothing10',
        data_prefix=dict(img_path='train')))
