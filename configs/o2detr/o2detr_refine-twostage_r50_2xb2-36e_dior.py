# O²DETR, our default, ResNet-50, DIOR-R (20 classes, 800x800). 2 GPUs x 2 images, 36 epochs. Not run by
# us; the paper's abstract names DOTA only.
_base_ = './o2detr_refine-twostage_r50_2xb2-50e_dota.py'
model = dict(num_queries=300, bbox_head=dict(num_classes=20), test_cfg=dict(max_per_img=300))

data_root = 'data/DIOR/'
patch_size = 800
scale = (800, 800)
train_pipeline = [
    dict(type='mmdet.LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='mmdet.Resize', scale=scale, keep_ratio=True, clip_object_border=False),
    dict(type='mmdet.RandomFlip', prob=0.75, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),  # after Resize, see the base
    dict(type='mmdet.PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=scale, keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True, box_type='qbox'),
    dict(type='ConvertBoxType', box_type_mapping=dict(gt_bboxes='rbox')),
    dict(type='mmdet.PackDetInputs', meta_keys={{_base_.meta_keys}})
]
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        ignore_keys=['DATASET_TYPE'],
        datasets=[
            dict(
                type='DIORDataset',
                data_root=data_root,
                ann_file=f'ImageSets/Main/{part}.txt',
                data_prefix=dict(img_path='JPEGImages-trainval'),
                filter_cfg=dict(filter_empty_gt=True),
                pipeline=train_pipeline) for part in ('train', 'val')
        ]))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='DIORDataset',
        data_root=data_root,
        ann_file='ImageSets/Main/test.txt',
        data_prefix=dict(img_path='JPEGImages-test'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[30], gamma=0.1)]
