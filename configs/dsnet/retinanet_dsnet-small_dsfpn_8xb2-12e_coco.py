# RetinaNet, DS-Net-S with DS-FPN, COCO: 8 GPUs x 2 images, 12 epochs. As the config with FPN, but for the neck, whose
# blocks are ours in detail. Not run by us.
_base_ = './retinanet_dsnet-small_fpn_8xb2-12e_coco.py'
model = dict(neck=dict(type='DSFPN', block_norm_cfg=dict(type='SyncBN')))  # strides 8, 16, 32; two images a GPU
