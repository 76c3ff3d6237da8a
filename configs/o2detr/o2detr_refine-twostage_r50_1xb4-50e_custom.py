# O²DETR on your own data in DOTA's text format: change the names, the paths and the suffix, nothing else. 1 GPU x 4 images.
# A line of a label file: x1 y1 x2 y2 x3 y3 x4 y4 class difficult. Large images are cut first (mmrotate's
# tools/data/dota/split/img_split.py).
_base_ = './o2detr_refine-twostage_r50_2xb2-50e_dota.py'

metainfo = dict(classes=('plane', 'ship'))
data_root = 'data/mine/'
suffix = 'png'
train_dataloader = dict(
    batch_size=4,
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
