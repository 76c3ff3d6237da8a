# Mask R-CNN, DS-Net-T with FPN, COCO: 8 GPUs x 2 images, 12 epochs; the baseline of DS-FPN. Not run by us. First
# dsnet-tiny_8xb128-300e_in1k.py, or a converted checkpoint in its place.
_base_ = './mask-rcnn_dsnet-small_fpn_8xb2-12e_coco.py'
model = dict(
    backbone=dict(arch='tiny', init_cfg=dict(checkpoint='work_dirs/dsnet-tiny_8xb128-300e_in1k/epoch_300.pth')))
