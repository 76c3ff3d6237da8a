# Mask R-CNN on COCO from CAE ViT-L. Paper recipe (authors' code): 16 GPUs x 2, 12 epochs. Not run by us.
_base_ = './cae-v1_vit-base-p16_mask-rcnn_16xb2-1x_coco.py'
model = dict(
    backbone=dict(
        arch='large',
        layer_scale_init_value=1e-5,
        with_cp=True,  # ours: two images of 800 x 1333 on a GPU of 32 GB
        init_cfg=dict(checkpoint='work_dirs/cae-v1_vit-large-p16_32xb64-1600e_in1k/epoch_1600.pth')),
    neck=[
        dict(type='mmpretrain.ViTPyramid', in_channels=1024),
        dict(type='FPN', in_channels=[1024, 1024, 1024, 1024], out_channels=256, num_outs=5)
    ])
optim_wrapper = dict(optimizer=dict(lr=2e-4), paramwise_cfg=dict(layer_decay_rate=0.85))
