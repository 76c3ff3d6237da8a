# Fine-tuning of a ResNet-50 from H-GKD on ImageNet-1k, SparK's recipe. 8 GPUs x 256 images, 300 epochs. Not run by us.
# Users of SparK report that it diverges for some runs of ResNet-50; resnet50_8xb256-adamw-... is the milder way.
# Needs an export of the pretraining (see the README).
_base_ = 'mmpretrain::spark/benchmarks/resnet50_8xb256-coslr-300e_in1k.py'

model = dict(backbone=dict(init_cfg=dict(checkpoint='work_dirs/hgkd_r50.pth', prefix='backbone.')))
