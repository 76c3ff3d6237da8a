# Baseline: rotated Deformable DETR, ResNet-50, DOTA-v1.0: the same code with the deformable encoder. 2 GPUs x 2 images, 50
# epochs. Not run by us. Others report AP50 68.65 (ai4rs), 68.50 (RHINO) for models of this kind.
_base_ = './o2detr_r50_2xb2-50e_dota.py'
model = dict(
    encoder=dict(
        _delete_=True,
        type='deformable',
        num_layers=6,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_levels=4, dropout=0.1, batch_first=True),
            ffn_cfg=dict(embed_dims=256, feedforward_channels=1024, ffn_drop=0.1))))
