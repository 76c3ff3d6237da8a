# H-GKD, sparse ResNet-50 with a MAE ViT-B/16 as teacher, ImageNet-1k without labels. 8 GPUs x 512 images, 300 epochs.
# Not run by us. The paper's recipe is not public: what is not said otherwise here is that of mmpretrain's SparK.
# Needs the teacher's weights in checkpoints/ (mmpretrain's mae_vit-base-p16_8xb512-amp-coslr-1600e_in1k, or any file with
# the weights of a MAEViT, alone or behind `backbone.`).
_base_ = 'mmpretrain::spark/spark_sparse-resnet50_8xb512-amp-coslr-800e_in1k.py'
custom_imports = dict(imports=['mmplugins.hgkd'], allow_failed_imports=False)

model = dict(
    _delete_=True,
    type='HGKD',
    input_size=224,
    mask_ratio=0.6,  # SparK
    out_channels=768,  # width of the teacher
    target_stride=16,  # patch of the teacher
    enc_dec_norm_cfg=dict(type='SyncBN'),
    backbone=dict(
        type='HGKDSparseResNet', depth=50, out_indices=(0, 1, 2, 3), drop_path_rate=0.05, norm_cfg=dict(type='SyncBN')),
    neck=dict(type='HGKDUNetDecoder', feature_dim=512, upsample_ratio=32, out_stride=4),  # ours: see DETAILS.md
    head=dict(type='FeaturePredictHead', loss_type='smooth_l1', beta=2.0, supervise='all'))  # as G2SD

custom_hooks = [
    dict(
        type='GenerativeDistillHook',
        teacher=dict(type='MAEViT', arch='b', patch_size=16),
        checkpoint='checkpoints/mae_vit-base-p16_1600e.pth',
        taps=['layers.11'],
        mode='full',
        autocast='float16')  # of the teacher alone
]

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.67, 1.0),  # SparK's authors; mmpretrain has 0.2
        backend='pillow',
        interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs')
]
train_dataloader = dict(
    collate_fn=dict(_delete_=True, type='default_collate'),  # the host's has the scope of its base, which it cannot take
    dataset=dict(pipeline=train_pipeline))

max_epochs = 300  # ours: the paper's baseline of 76.98 is below that of long SparK schedules
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-4, by_epoch=True, begin=0, end=40, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=max_epochs - 40, by_epoch=True, begin=40, end=max_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingWeightDecay', eta_min=0.2, T_max=max_epochs, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=max_epochs)
auto_scale_lr = dict(base_batch_size=4096)  # 8 GPUs x 512
