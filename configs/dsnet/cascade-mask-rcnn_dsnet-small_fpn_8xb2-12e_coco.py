# Cascade Mask R-CNN, DS-Net-S with FPN, COCO: 8 GPUs x 2 images, 12 epochs. As the Mask R-CNN beside it, with the host's
# cascade. Not run by us. First dsnet-small_8xb128-300e_in1k.py, or a converted checkpoint in its place.
_base_ = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'  # 800 x 1333, steps at 8 and 11
custom_imports = dict(imports=['mmplugins.dsnet'], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type='mmpretrain.DSNet',
        arch='small',
        drop_path_rate=0.1,
        out_indices=(0, 1, 2, 3),
        norm_eval=True,  # two images a GPU
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/dsnet-small_8xb128-300e_in1k/epoch_300.pth',
            prefix='backbone.')),
    neck=dict(in_channels=[64, 128, 320, 512]))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0))
default_hooks = dict(checkpoint=dict(max_keep_ckpts=2))
