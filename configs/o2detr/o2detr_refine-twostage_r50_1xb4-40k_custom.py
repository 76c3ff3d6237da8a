# O²DETR, our default, on your own data in DOTA's text format: copy this file beside itself, for its base is named by a
# relative path; change the names, the paths, the suffix and the size of your pictures; then
# `python -m mmplugins.o2detr check <the copy>`. 1 GPU x 4 images.
# A line of a label file: x1 y1 x2 y2 x3 y3 x4 y4 class difficult. Large images are cut first (mmrotate's
# tools/data/dota/split/img_split.py).
# The budget is in iterations, so that a few hundred pictures are seen often enough; 40,000 is our guess; it was not tried.
_base_ = './o2detr_refine-twostage_r50_2xb2-50e_dota.py'

metainfo = dict(classes=('plane', 'ship'))
data_root = 'data/mine/'
suffix = 'png'
patch_size = 1024  # of your pictures; `detect` cuts larger ones so
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='InfiniteSampler', shuffle=True),
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        img_suffix=suffix,
        ann_file='train/labelTxt/',
        data_prefix=dict(img_path='train/images/')))
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        metainfo=metainfo,
        img_suffix=suffix,
        ann_file='val/labelTxt/',
        data_prefix=dict(img_path='val/images/')))
test_dataloader = val_dataloader
model = dict(bbox_head=dict(num_classes=len(metainfo['classes'])))

max_iters = 40000
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=4000)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_iters, by_epoch=False, milestones=[32000], gamma=0.1)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=4000))
log_processor = dict(by_epoch=False)
