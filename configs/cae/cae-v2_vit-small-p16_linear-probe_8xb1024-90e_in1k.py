# Linear probe of CAE v2 ViT-S on ImageNet-1k. Paper recipe: 8 GPUs x 1024, 90 epochs, LARS. Not run by us.
_base_ = './cae-v1_vit-base-p16_linear-probe_8xb2048-90e_in1k.py'
model = dict(
    backbone=dict(
        arch='small', init_cfg=dict(checkpoint='work_dirs/cae-v2_vit-small-p16_8xb256-300e_in1k/epoch_300.pth')),
    neck=dict(input_features=384),
    head=dict(in_channels=384))
train_dataloader = dict(batch_size=1024)
optim_wrapper = dict(optimizer=dict(lr=3.2))  # 0.1 * 8192 / 256
auto_scale_lr = dict(base_batch_size=8192)
