# Baseline of H-GKD: SparK, that is the same student that predicts masked pixels and has no teacher, with the same schedule.
# 8 GPUs x 512 images, 300 epochs. Not run by us.
_base_ = 'hgkd_sparse-r50_mae-base_8xb512-amp-coslr-300e_in1k.py'

model = dict(
    neck=dict(out_stride=1),
    head=None,
    pixel_head=dict(type='SparKPretrainHead', loss=dict(type='PixelReconstructionLoss', criterion='L2')),
    pixel_weight=1.0)
custom_hooks = []
