# Attentive probe of CAE ViT-B on ImageNet-1k: one learned query looks at all tokens of the frozen encoder.
# Paper recipe (authors' code): 8 GPUs x 1024, 90 epochs, SGD. Not run by us.
_base_ = './cae-v1_vit-base-p16_linear-probe_8xb2048-90e_in1k.py'
model = dict(
    backbone=dict(out_type='raw'),
    neck=None,
    head=dict(
        _delete_=True,
        type='AttentiveProbeHead',
        num_classes=1000,
        in_channels=768,
        num_heads=12,
        loss=dict(type='CrossEntropyLoss')))
train_dataloader = dict(batch_size=1024)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.4, momentum=0.9, nesterov=True, weight_decay=0.0))
auto_scale_lr = dict(base_batch_size=8192)
