# O²DETR with box refinement and two stages, ResNet-50, DOTA-v1.0. 2 GPUs x 2 images, 50 epochs. Not run by us.
# Both are Deformable DETR's options; the abstract of O²DETR names neither, so the base config is without.
_base_ = './o2detr_r50_2xb2-50e_dota.py'
model = dict(with_box_refine=True, as_two_stage=True)
