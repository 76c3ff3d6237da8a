# METR on DINO, half-width ResNet-18 from scratch, on two blood-cell sets with different, overlapping label spaces
# (tests/data/bccd). Small: 1 process x 4 images, 10 epochs, under 10 minutes on two CPU cores.
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['mmplugins.metr'], allow_failed_imports=False)

# Each set annotates two of three kinds of cells; the third is visible in its images and not annotated. The spelling of
# the shared name differs on purpose.
vocabulary = dict(
    datasets=dict(
        bccd_cells=('red blood cell', 'white blood cell'), bccd_platelets=('White_Blood_Cell', 'platelets')))

model = dict(
    type='METR',
    vocabulary=vocabulary,
    text_bank=dict(embeddings='minilm-l6-v2'),
    cem=dict(num_blocks=2, feedforward_channels=256),
    num_categories=3,
    num_queries=40,  # for each category; an image has up to 27 red blood cells
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1),
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=32,
        num_stages=4,
        out_indices=(1, 2, 3),
        # GN: the batch is small, and several processes then compute what one does.
        norm_cfg=dict(type='GN', num_groups=8)),
    neck=dict(
        type='ChannelMapper',
        in_channels=[64, 128, 256],
        kernel_size=1,
        out_channels=128,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32),
        num_outs=3),
    num_feature_levels=3,
    encoder=dict(
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=128, num_heads=8, num_levels=3, dropout=0.0),
            ffn_cfg=dict(embed_dims=128, feedforward_channels=256, ffn_drop=0.0))),
    decoder=dict(
        num_layers=3,
        return_intermediate=True,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=128, num_heads=8, dropout=0.0),
            cross_attn_cfg=dict(embed_dims=128, num_levels=3, dropout=0.0),
            ffn_cfg=dict(embed_dims=128, feedforward_channels=256, ffn_drop=0.0)),
        post_norm_cfg=None),
    positional_encoding=dict(num_feats=64, normalize=True, offset=0.0, temperature=20),
    bbox_head=dict(
        type='METRHead',
        embed_dims=128,
        # The authors' 2, 5 and 2 teach a small network from scratch to find things, and hardly to tell them apart.
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=4.0),
        loss_bbox=dict(type='L1Loss', loss_weight=2.5),
        loss_iou=dict(type='GIoULoss', loss_weight=1.0)),
    dn_cfg=dict(box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_dn_queries=40)),
    test_cfg=dict(max_per_img=100))

data_root = '{{ fileDirname }}/../../tests/data/bccd/'
scale = (256, 192)
train_pipeline = [
    dict(type='LoadImageOrSkip'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),  # the name that DetInferencer looks for
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='MultiVocabConcatDataset',
        vocabulary=vocabulary,
        pipeline=train_pipeline,
        datasets=dict(
            bccd_cells=dict(
                type='VocabCocoDataset',
                data_root=data_root,
                ann_file='annotations/cells_train.json',
                data_prefix=dict(img='train/')),
            bccd_platelets=dict(
                type='VocabCocoDataset',
                data_root=data_root,
                ann_file='annotations/platelets_train.json',
                data_prefix=dict(img='train/')))))
val_dataloader = dict(
    batch_size=4,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='MultiVocabConcatDataset',
        vocabulary=vocabulary,
        pipeline=test_pipeline,
        datasets=dict(
            bccd_cells=dict(
                type='VocabCocoDataset',
                data_root=data_root,
                ann_file='annotations/cells_val.json',
                data_prefix=dict(img='val/'),
                test_mode=True),
            bccd_platelets=dict(
                type='VocabCocoDataset',
                data_root=data_root,
                ann_file='annotations/platelets_val.json',
                data_prefix=dict(img='val/'),
                test_mode=True))))
# All three kinds in all images, also those that the image's own set leaves out. The file names them in the order of the
# vocabulary.
test_dataloader = dict(
    val_dataloader,
    dataset=dict(
        type='VocabCocoDataset',
        data_root=data_root,
        ann_file='annotations/all_val.json',
        data_prefix=dict(img='val/'),
        pipeline=test_pipeline,
        test_mode=True))
val_evaluator = dict(
    type='MultiDatasetsEvaluator',
    dataset_prefixes=['bccd_cells', 'bccd_platelets'],
    metrics=[
        dict(type='VocabCocoMetric', dataset_name='bccd_cells', ann_file=data_root + 'annotations/cells_val.json'),
        dict(
            type='VocabCocoMetric', dataset_name='bccd_platelets', ann_file=data_root + 'annotations/platelets_val.json')
    ])
test_evaluator = dict(type='VocabCocoMetric', dataset_name='all', ann_file=data_root + 'annotations/all_val.json')

max_epochs = 10
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=2)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=4e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(text_bank=dict(lr_mult=0.02))),  # tells names that are alike apart, see DETAILS.md
    clip_grad=dict(max_norm=0.1, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[8], gamma=0.1)
]
auto_scale_lr = dict(base_batch_size=4)
default_hooks = dict(
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2),
    logger=dict(type='LoggerHook', interval=10),
    visualization=dict(type='DetVisualizationHook'))
custom_hooks = [dict(type='CheckVocabularyHook'), dict(type='CheckInvalidLossHook', interval=10)]
randomness = dict(seed=0)
log_processor = dict(window_size=20)
