# Plain mmdet DINO finetuned on COCO from METR's weights: 8 GPUs x 2 images, 12 epochs. Not run by us. The weights come from
# `python -m mmplugins.metr to-dino configs/metr/metr_dino-4scale_r50_32xb1-12e_coco-o365-oid.py <iter_1350000.pth>
# --num-classes 80 --out work_dirs/metr_as_dino.pth`.
_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'
model = dict(backbone=dict(init_cfg=None))  # its weights come with `load_from`
load_from = 'work_dirs/metr_as_dino.pth'
