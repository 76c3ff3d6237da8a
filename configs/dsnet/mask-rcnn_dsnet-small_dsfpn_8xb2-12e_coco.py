# Mask R-CNN, DS-Net-S with DS-FPN, COCO: 8 GPUs x 2 images, 12 epochs. As the config with FPN, but for the neck, whose
# blocks are ours in detail. Not run by us. Three quarters of the blocks' cost is at stride 4: levels=(1, 2, 3) spares it.
_base_ = './mask-rcnn_dsnet-small_fpn_8xb2-12e_coco.py'
model = dict(neck=dict(type='DSFPN', block_norm_cfg=dict(type='SyncBN')))  # two images a GPU
