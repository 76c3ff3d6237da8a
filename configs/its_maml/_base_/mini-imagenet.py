# miniImageNet, 84x84, 64, 16, 20 classes: folders {train,val,test}/<class>/*.jpg, or images/*.jpg with a list
# {train,val,test}.csv (Ravi and Larochelle, 2017). Attack 4/255, test 2/255.
_base_ = './r-maml.py'

model = dict(
    attack=dict(type='LinfAttack', eps=4 / 255),
    test_attacks=dict(
        pgd10=dict(type='LinfAttack', eps=2 / 255, steps=10),
        pgd20=dict(type='LinfAttack', eps=2 / 255, steps=20)))

data_root = 'data/mini-imagenet/'
pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(84, 84)), dict(type='PackInputs')]
train_dataloader = dict(
    dataset=dict(dataset=dict(type='FewShotFolder', data_root=data_root, part='train', pipeline=pipeline)))
val_dataloader = dict(
    dataset=dict(dataset=dict(type='FewShotFolder', data_root=data_root, part='val', pipeline=pipeline)))
test_dataloader = dict(
    dataset=dict(dataset=dict(type='FewShotFolder', data_root=data_root, part='test', pipeline=pipeline)))
