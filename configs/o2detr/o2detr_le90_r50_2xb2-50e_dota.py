# O²DETR with angles in [-90°, 90°), as most models of mmrotate have them. 2 GPUs x 2 images, 50 epochs. Not run by us.
_base_ = './o2detr_r50_2xb2-50e_dota.py'
model = dict(bbox_head=dict(angle_version='le90'))
