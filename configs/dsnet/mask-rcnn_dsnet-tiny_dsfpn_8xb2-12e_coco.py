# Mask R-CNN, DS-Net-T with DS-FPN, COCO: 8 GPUs x 2 images, 12 epochs. As the config with FPN, but for the neck: blocks at
# strides 8, 16, 32, as the paper. Not run by us.
_base_ = './mask-rcnn_dsnet-tiny_fpn_8xb2-12e_coco.py'
model = dict(
    neck=dict(
        type='DSFPN',
        levels=(1, 2, 3),  # the paper leaves stride 4 out
        zero_init=False,  # the paper initializes all new layers alike; True is ours
        block_norm_cfg=dict(type='SyncBN')))  # two images a GPU
