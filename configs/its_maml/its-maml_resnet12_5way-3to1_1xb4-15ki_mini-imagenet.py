# ITS-MAML with ResNet-12 (8 M parameters), miniImageNet, 5-way 1-shot, 3 shots in training. Not in the paper. 1 GPU x
# 4 tasks, 15,000 updates, longer on a CPU than anything else here. Not run by us.
_base_ = './_base_/mini-imagenet.py'
model = dict(
    network=dict(
        backbone=dict(_delete_=True, type='ResNet12'),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(in_channels=512)),
    chunk_size=1)  # second order keeps the graph of all inner steps
train_dataloader = dict(dataset=dict(shots=3))
