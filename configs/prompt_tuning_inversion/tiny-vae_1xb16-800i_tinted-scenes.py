# The autoencoder of the tiny model of scenes (two tinted digits in front of a photo), 32 x 64 pixels to 4 x 8 x 16; else as
# that of digits. Small: 1 process x 16 pictures, 800 iterations, three minutes on a core.
_base_ = './tiny-vae_1xb32-800i_tinted-mnist.py'

train_dataloader = dict(
    batch_size=16,
    dataset=dict(
        type='TintedScenes',
        rounds=24,
        data_root='{{ fileDirname }}/../../tests/data/clothing10',
        data_prefix=dict(img_path='train')))
auto_scale_lr = dict(base_batch_size=16)
