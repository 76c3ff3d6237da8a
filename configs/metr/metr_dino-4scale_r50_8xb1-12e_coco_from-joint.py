# Finetune the jointly pretrained METR on COCO: 8 GPUs x 1 image, 12 epochs. The text bank is not in the checkpoint, so
# the smaller vocabulary needs no conversion. Not run by us.
_base_ = './metr_dino-4scale_r50_8xb1-12e_coco.py'
model = dict(backbone=dict(init_cfg=None))  # its weights come with `load_from`
load_from = 'work_dirs/metr_dino-4scale_r50_32xb1-12e_coco-o365-oid/iter_1350000.pth'
