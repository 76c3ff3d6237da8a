# As o2detr-cascade_r50_2xb2-12e_dota.py with an FPN for the RoI head ("FPN-FT" in the DOTA leaderboard). Not run by us.
_base_ = './o2detr-cascade_r50_2xb2-12e_dota.py'
model = dict(
    backbone=dict(out_indices=(0, 1, 2, 3)),  # the base's neck takes the last three
    roi_neck=dict(type='mmdet.FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=4),
    roi_head=dict(bbox_roi_extractor=dict(featmap_strides=[4, 8, 16, 32])))
