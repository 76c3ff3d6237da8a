# CIFAR-FS, 32x32: the authors' zip (Bertinetto et al., 2019) as data/cifar-fs, with data/<class>/*.png and
# splits/bertinetto/{train,val,test}.txt. Attack 10/255, test 8/255 (from public reviews and R-MAML's code).
_base_ = './r-maml.py'

model = dict(
    network=dict(
        backbone=dict(channels=(16, 16, 32, 32), strides=(2, 1, 1, 1), padding=1, pool_strides=(0, 2, 0, 2)),
        head=dict(in_channels=512)),
    attack=dict(type='LinfAttack', eps=10 / 255),
    test_attacks=dict(
        pgd10=dict(type='LinfAttack', eps=8 / 255, steps=10),
        pgd20=dict(type='LinfAttack', eps=8 / 255, steps=20)))

data_root = 'data/cifar-fs/'
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    dataset=dict(
        cache=True, dataset=dict(type='FewShotFolder', data_root=data_root, part='train', pipeline=pipeline)))
val_dataloader = dict(
    dataset=dict(
        cache=True, dataset=dict(type='FewShotFolder', data_root=data_root, part='val', pipeline=pipeline)))
test_dataloader = dict(
    dataset=dict(
        cache=True, dataset=dict(type='FewShotFolder', data_root=data_root, part='test', pipeline=pipeline)))
