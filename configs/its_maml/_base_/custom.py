# A folder of classes, whatever its layout (see FewShotFolder): CUB, miniImageNet, CIFAR-FS, one's own. Name it in
# FEW_SHOT_DATA or in the line data_root. Images of 84x84. Attack 4/255, test 2/255, as for miniImageNet.
_base_ = './r-maml.py'

model = dict(
    attack=dict(type='LinfAttack', eps=4 / 255),
    test_attacks=dict(pgd10=dict(type='LinfAttack', eps=2 / 255, steps=10)))

data_root = '{{$FEW_SHOT_DATA:data/my_images/}}'
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=96),
    dict(type='CenterCrop', crop_size=84),
    dict(type='PackInputs')
]
train_dataloader = dict(
    dataset=dict(dataset=dict(type='FewShotFolder', data_root=data_root, part='train', pipeline=pipeline)))
val_dataloader = dict(
    dataset=dict(dataset=dict(type='FewShotFolder', data_root=data_root, part='val', pipeline=pipeline)))
test_dataloader = dict(
    dataset=dict(dataset=dict(type='FewShotFolder', data_root=data_root, part='test', pipeline=pipeline)))
