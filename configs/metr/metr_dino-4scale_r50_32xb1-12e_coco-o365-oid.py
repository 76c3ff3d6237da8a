# METR on DINO, ResNet-50, pretrained jointly on COCO, Objects365 v2 and OpenImages v6. 4 nodes x 8 GPUs x 1 image, 12
# epochs, as the authors' pretraining; they use one merged file and BigDetection instead of COCO. Not run by us.
# Annotations: `python -m mmplugins.metr prepare objects365 data/objects365v2`, `… prepare openimages data/openimages`;
# `… prepare check` with this config prints what it then reads.
_base_ = './metr_dino-4scale_r50_8xb1-12e_coco.py'

# 80 + 365 + 601 names; equal names share a row.
vocabulary = dict(
    datasets=dict(coco='coco', objects365='objects365v2', openimages='oid_v6'),
    aliases=dict(
        # Elsewhere a mouse is that of a computer.
        openimages={
            'mouse': 'mouse (animal)',
            'computer mouse': 'mouse'
        },
        objects365={
            'bakset': 'basket',
            'ballon': 'balloon',
            'billards': 'billiards',
            'buttefly': 'butterfly',
            'campel': 'camel',
            'dinning table': 'dining table',
            'extention cord': 'extension cord',
            'hamimelon': 'hami melon',
            'head phone': 'headphones',
            'hotair ballon': 'hot air balloon',
            'moniter/tv': 'monitor/tv',
            'mushroon': 'mushroom',
            'noddles': 'noodles',
            'table teniis paddle': 'table tennis paddle',
            'tape measur/ ruler': 'tape measure/ruler',
            'tea pot': 'teapot',
            'tong': 'tongs'
        }))
model = dict(
    vocabulary=dict(_delete_=True, **vocabulary),
    # with_cp=True,  # layers computed again in the backward pass: less memory, more time
    test_cfg=dict(max_per_img=300))

data_root = 'data/'
coco = dict(
    type='VocabCocoDataset',
    data_root=data_root + 'coco/',
    ann_file='annotations/instances_train2017.json',
    data_prefix=dict(img='train2017/'),
    cache_dir=data_root + 'coco/annotations',
    filter_cfg=dict(filter_empty_gt=False))
objects365 = dict(
    type='VocabCocoDataset',
    data_root=data_root + 'objects365v2/',
    ann_file='annotations/objects365v2_train.json',
    data_prefix=dict(img='train/'),
    cache_dir=data_root + 'objects365v2/annotations',
    filter_cfg=dict(filter_empty_gt=True, min_size=32))
openimages = dict(
    type='VocabCocoDataset',
    data_root=data_root + 'openimages/',
    ann_file='annotations/oidv6_train_bbox_coco.json',
    data_prefix=dict(img='train/'),
    cache_dir=data_root + 'openimages/annotations',
    filter_cfg=dict(filter_empty_gt=True, min_size=32))
train_dataloader = dict(
    # Draws of the three sets: their sizes are 118k, 1.74M and 1.74M images. Ours: the authors' mixing is not known.
    sampler=dict(_delete_=True, type='InfiniteRatioSampler', dataset_ratio=[1, 4, 4]),
    dataset=dict(
        _delete_=True,
        type='MultiVocabConcatDataset',
        vocabulary=vocabulary,
        pipeline={{_base_.train_pipeline}},
        datasets=dict(
            coco=coco,
            objects365=objects365,
            # Names in less than one image of a thousand come more often, as on LVIS. Ours.
            openimages=dict(type='ClassBalancedDataset', oversample_thr=1e-3, dataset=openimages))))
val_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='MultiVocabConcatDataset',
        vocabulary=vocabulary,
        pipeline={{_base_.test_pipeline}},
        datasets=dict(
            coco=dict(
                coco,
                ann_file='annotations/instances_val2017.json',
                data_prefix=dict(img='val2017/'),
                filter_cfg=None,
                test_mode=True),
            objects365=dict(
                objects365,
                ann_file='annotations/objects365v2_val.json',
                data_prefix=dict(img='val/'),
                filter_cfg=None,
                test_mode=True),
            openimages=dict(
                openimages,
                ann_file='annotations/oidv6_val_bbox_coco.json',
                data_prefix=dict(img='val/'),
                filter_cfg=None,
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
            ann_file=data_root + 'objects365v2/annotations/objects365v2_val.json'),
        dict(
            type='VocabOpenImagesMetric',
            dataset_name='openimages',
            ann_file=data_root + 'openimages/annotations/oidv6_val_bbox_coco.json')
    ])
test_evaluator = val_evaluator

# 12 epochs of 3.6M images in iterations of 32; checkpoints inside an epoch, so that a run goes on there.
max_iters = 1_350_000
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=112_500)
param_scheduler = [
    dict(type='MultiStepLR', begin=0, end=max_iters, by_epoch=False, milestones=[max_iters * 11 // 12], gamma=0.1)
]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5_000, max_keep_ckpts=3))
# A run of weeks is stopped now and then: checkpoints are written beside and renamed, and with a seed of its own the
# sampler goes on in the same order. `mim train` takes the runner too.
runner_type = 'mmplugins.utils.running.runner.SurvivingRunner'
randomness = dict(seed=0)
log_processor = dict(by_epoch=False)
auto_scale_lr = dict(base_batch_size=32)
