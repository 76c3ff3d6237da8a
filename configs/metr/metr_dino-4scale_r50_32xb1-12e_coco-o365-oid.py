# METR on DINO, ResNet-50, pretrained jointly on COCO, Objects365 v2 and OpenImages v6 (boxes as COCO json). 4 nodes x 8
# GPUs x 1 image, 12 epochs, as the authors' pretraining; they use one merged file and BigDetection instead of COCO.
# Not run by us.
_base_ = './metr_dino-4scale_r50_8xb1-12e_coco.py'

# 80 + 365 + 601 names; equal names share a row.
vocabulary = dict(datasets=dict(coco='coco', objects365='objects365v2', openimages='oid_v6'))
model = dict(vocabulary=dict(_delete_=True, **vocabulary), test_cfg=dict(max_per_img=300))

data_root = 'data/'
train_pipeline = [dict(type='LoadImageOrSkip'), *_base_.train_pipeline[1:]]  # Objects365 lists files that are in no archive
test_pipeline = {{_base_.test_pipeline}}
train_dataloader = dict(
    # Draws of the three sets: their sizes are 118k, 1.74M and 1.74M images. Ours: the authors' mixing is not known.
    sampler=dict(_delete_=True, type='MultiDataSampler', dataset_ratio=[1, 4, 4]),
    dataset=dict(
        _delete_=True,
        type='MultiVocabConcatDataset',
        vocabulary=vocabulary,
        pipeline=train_pipeline,
        datasets=dict(
            coco=dict(
                type='VocabCocoDataset',
                data_root=data_root + 'coco/',
                ann_file='annotations/instances_train2017.json',
                data_prefix=dict(img='train2017/'),
                filter_cfg=dict(filter_empty_gt=False)),
            objects365=dict(
                type='VocabCocoDataset',
                data_root=data_root + 'objects365v2/',
                ann_file='annotations/zhiyuan_objv2_train.json',
                data_prefix=dict(img='train/'),
                name_parts=2,
                filter_cfg=dict(filter_empty_gt=True, min_size=32)),
            openimages=dict(
                type='VocabCocoDataset',
                data_root=data_root + 'openimages/',
                ann_file='annotations/oidv6_train_bbox_coco.json',
                data_prefix=dict(img='train/'),
                filter_cfg=dict(filter_empty_gt=True, min_size=32)))))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiVocabConcatDataset',
        vocabulary=vocabulary,
        pipeline=test_pipeline,
        datasets=dict(
            coco=dict(
                type='VocabCocoDataset',
                data_root=data_root + 'coco/',
                ann_file='annotations/instances_val2017.json',
                data_prefix=dict(img='val2017/'),
                test_mode=True),
            objects365=dict(
                type='VocabCocoDataset',
                data_root=data_root + 'objects365v2/',
                ann_file='annotations/zhiyuan_objv2_val.json',
                data_prefix=dict(img='val/'),
                name_parts=2,
                test_mode=True),
            openimages=dict(
                type='VocabCocoDataset',
                data_root=data_root + 'openimages/',
                ann_file='annotations/oidv6_val_bbox_coco.json',
                data_prefix=dict(img='val/'),
                test_mode=True))))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type='MultiDatasetsEvaluator',
    dataset_prefixes=['coco', 'objects365', 'openimages'],
    metrics=[
        dict(
            type='VocabCocoMetric',
            dataset_name='coco',
            ann_file=data_root + 'coco/annotations/instances_val2017.json'),
        dict(
            type='VocabCocoMetric',
            dataset_name='objects365',
            ann_file=data_root + 'objects365v2/annotations/zhiyuan_objv2_val.json'),
        dict(
            type='VocabCocoMetric',
            dataset_name='openimages',
            ann_file=data_root + 'openimages/annotations/oidv6_val_bbox_coco.json')
    ])
test_evaluator = val_evaluator
auto_scale_lr = dict(base_batch_size=32)
