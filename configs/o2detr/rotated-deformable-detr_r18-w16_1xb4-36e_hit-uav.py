# Baseline: a rotated two-stage Deformable DETR, that is the base of the small O²DETR with the deformable encoder.
# Small: 1 process x 4 images, 36 epochs on a CPU.
_base_ = './o2detr_plain-twostage_r18-w16_1xb4-36e_hit-uav.py'
model = dict(
    encoder=dict(
        _delete_=True,
        type='deformable',
        num_layers=2,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=64, num_levels=3, dropout=0.0, batch_first=True),
            ffn_cfg=dict(embed_dims=64, feedforward_channels=128, ffn_drop=0.0))))
