# Small: the characters in tests/data/omniglot (531 to train, 94 to validate, 228 to test, no alphabet in two parts), a
# network of 8,533 weights, larger attacks than on photos because drawings are black and white.
_base_ = './r-maml.py'

model = dict(
    network=dict(
        backbone=dict(
            in_channels=1, channels=16, strides=(2, 2, 2, 1), padding=1, pool_strides=(0, 0, 0, 0)),
        head=dict(in_channels=256)),
    inner_lr=0.1,
    train_steps=2,
    attack=dict(type='LinfAttack', eps=0.10),
    test_attacks=dict(pgd10=dict(type='LinfAttack', eps=0.08, steps=10)))

data_root = '{{ fileDirname }}/../../../tests/data/omniglot/'
pipeline = [dict(type='PackInputs')]
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        cache=True,
        dataset=dict(
            type='PackedDataset', data_root=data_root, ann_file='omniglot28.npz', part='train', pipeline=pipeline)))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        cache=True,
        dataset=dict(
            type='PackedDataset', data_root=data_root, ann_file='omniglot28.npz', part='val', pipeline=pipeline)))
test_dataloader = dict(
    num_workers=0,
    dataset=dict(
        cache=True,
        num_episodes=200,
        dataset=dict(
            type='PackedDataset', data_root=data_root, ann_file='omniglot28.npz', part='test', pipeline=pipeline)))

train_cfg = dict(max_iters=400, val_interval=200)
optim_wrapper = dict(optimizer=dict(lr=3e-3))  # ours: 400 updates are few
default_hooks = dict(checkpoint=dict(interval=100), logger=dict(interval=20))
randomness = dict(seed=0)
