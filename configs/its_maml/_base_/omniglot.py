# Omniglot, 28x28, as unpacked: images_background and images_evaluation with <alphabet>/<character>/*.png. A character is
# a class; background characters are divided 0.85 : 0.15 into training and validation. Attack 10/255, test 8/255.
_base_ = './r-maml.py'

model = dict(
    network=dict(
        backbone=dict(
            in_channels=1, channels=64, kernel_sizes=(3, 3, 3, 2), strides=(2, 2, 2, 1), pool_strides=(0, 0, 0, 0)),
        head=dict(in_channels=64)),
    attack=dict(type='LinfAttack', eps=10 / 255),
    test_attacks=dict(
        pgd10=dict(type='LinfAttack', eps=8 / 255, steps=10),
        pgd20=dict(type='LinfAttack', eps=8 / 255, steps=20)))

data_root = 'data/omniglot/'
ratio = (0.85, 0.15, 0.0)
pipeline = [
    dict(type='LoadImageFromFile', color_type='grayscale'),
    dict(type='Resize', scale=(28, 28), interpolation='area'),
    dict(type='PackInputs')
]
background = dict(
    type='LeafFolderDataset', data_root=data_root, data_prefix='images_background', pipeline=pipeline)
# A character has 20 drawings: with 15 queries at most 5 shots.
train_dataloader = dict(
    dataset=dict(cache=True, class_split=dict(part='train', ratio=ratio), dataset=background))
val_dataloader = dict(
    dataset=dict(cache=True, class_split=dict(part='val', ratio=ratio), dataset=background))
test_dataloader = dict(
    dataset=dict(
        cache=True,
        dataset=dict(
            type='LeafFolderDataset', data_root=data_root, data_prefix='images_evaluation', pipeline=pipeline)))
