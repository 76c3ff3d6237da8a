# O²DETR, our default: box refinement, and two stages with distinct proposals. ResNet-50, DOTA-v1.0. 2 GPUs x 2 images, 50
# epochs. Not run by us. The abstract of O²DETR names neither, so the base config is without.
_base_ = './o2detr_r50_2xb2-50e_dota.py'
model = dict(with_box_refine=True, as_two_stage=True)
