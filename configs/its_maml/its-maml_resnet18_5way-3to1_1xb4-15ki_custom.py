# ITS-MAML on images of your own, data/my_images/<class>/*: a backbone of mmpretrain, classes divided by a seed.
# 5-way 1-shot, 3 shots in training. 1 GPU x 4 tasks, 15,000 updates. Not run by us.
_base_ = './_base_/r-maml.py'

model = dict(
    network=dict(
        data_preprocessor=dict(
            type='ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
        # To start from ImageNet: init_cfg=dict(type='Pretrained', checkpoint=<file>, prefix='backbone').
        backbone=dict(_delete_=True, type='ResNet', depth=18),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(in_channels=512)),
    attack=dict(type='LinfAttack', eps=4 / 255),
    test_attacks=dict(pgd10=dict(type='LinfAttack', eps=2 / 255, steps=10)))

data_root = 'data/my_images/'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=96),
    dict(type='CenterCrop', crop_size=84),
    dict(type='PackInputs')
]
folders = dict(type='CustomDataset', data_root=data_root, pipeline=pipeline)
train_dataloader = dict(dataset=dict(shots=3, class_split=dict(part='train'), dataset=folders))
val_dataloader = dict(dataset=dict(class_split=dict(part='val'), dataset=folders))
test_dataloader = dict(dataset=dict(class_split=dict(part='test'), dataset=folders))
