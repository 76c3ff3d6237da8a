# ITS-MAML on images of your own: a backbone of mmpretrain. 5-way 1-shot, 3 shots in training. 1 GPU x 4 tasks,
# 15,000 updates, about 105 hours of one CPU core for the training alone. Not run by us.
_base_ = './_base_/custom.py'
model = dict(
    network=dict(
        data_preprocessor=dict(
            type='ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True),
        # To start from ImageNet: init_cfg=dict(type='Pretrained', checkpoint=<file>, prefix='backbone').
        backbone=dict(_delete_=True, type='ResNet', depth=18),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(in_channels=512)))
train_dataloader = dict(dataset=dict(shots=3))
