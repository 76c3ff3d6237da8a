# miniImageNet, 84x84, folders {train,val,test}/<class>/*.jpg with 64, 16, 20 classes. Attack 4/255, test 2/255.
_base_ = './r-maml.py'

model = dict(
    attack=dict(type='LinfAttack', eps=4 / 255),
    test_attacks=dict(
        pgd10=dict(type='LinfAttack', eps=2 / 255, steps=10),
        pgd20=dict(type='LinfAttack', eps=2 / 255, steps=20)))

data_root = 'data/mini-imagenet/'
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(84, 84)), dict(type='PackInputs')]
train_dataloader = dict(
    dataset=dict(dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='train', pipeline=pipeline)))
val_dataloader = dict(
    dataset=dict(dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='val', pipeline=pipeline)))
test_dataloader = dict(
    dataset=dict(dataset=dict(type='CustomDataset', data_root=data_root, data_prefix='test', pipeline=pipeline)))
