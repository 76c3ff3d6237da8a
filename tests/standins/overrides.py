"""The one table of what a rehearsal changes in a config, beside the numbers that :func:`.rehearsal.shorten` sets.

Data need no change: the stand-ins lie where the configs say.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import NamedTuple


class Row(NamedTuple):
    """Changes for all configs that match.

    Attributes:
        pattern: Of ``<plugin>/<name of the config>``.
        why: What the run would cost otherwise.
        options: As of ``--cfg-options``.
        shrink: Divides the sides of pictures.
    """

    pattern: str
    why: str
    options: dict
    shrink: int = 1


def flat_vit(width: int, heads: int, owner: str = 'model.backbone') -> dict:
    """Return a ViT in its width, of four layers with narrow FFNs."""
    arch = dict(embed_dims=width, num_layers=4, num_heads=heads, feedforward_channels=width)
    return {f'{owner}.arch': dict(_delete_=True, **arch)}


# A DETR on a ResNet-50 or -101, whose weights of torchvision's shrink with it.
SMALL = {
    'model.backbone.base_channels': 16,
    'model.neck.in_channels': [128, 256, 512],
    'model.encoder.num_layers': 2,
    'model.decoder.num_layers': 2,
}
SHALLOW_VIT_DETR = {
    'model.backbone.out_indices': (0, 1, 2, 3),
    'model.encoder.num_layers': 2,
    'model.decoder.num_layers': 2,
}
FLAT_DSNET = dict(
    embed_dims=(64, 128, 320, 512), depths=(1, 1, 1, 1), num_heads=(1, 2, 5, 8), global_ratios=(8, 4, 2, 2)
)
THIN = {'model.decode_head.channels': 64, 'model.auxiliary_head.channels': 64}
WEIGHTS = 'up to 300 million weights in 24 layers'
TABLE = [
    Row('o2detr/*_r50*', 'patches of 1024 pixels, ships and fields of 800; six layers', SMALL, shrink=8),
    Row('o2detr/*_r50-fpn_*', 'a quarter of the channels', {'model.roi_neck.in_channels': [64, 128, 256, 512]}),
    Row('o2detr/*_r101*', 'patches of 1024 pixels; six layers', SMALL, shrink=8),
    Row('metr/*_r50_*', 'sides up to 1333 pixels; six layers', SMALL, shrink=8),
    Row(
        'spsa/spsa-resnet50_*',
        '224 pixels, 25 million weights',
        {'model.backbone.stem_channels': 16, 'model.backbone.base_channels': 16, 'model.head.in_channels': 512},
        shrink=2,
    ),
    Row(
        'spsa/*_spsa-r50_fpn_*',
        'a quarter of the channels',
        {'model.backbone.base_channels': 16, 'model.neck.in_channels': [64, 128, 256, 512]},
    ),
    Row('spsa/spsa*_in1k', '224 pixels', {}, shrink=2),
    Row('dsnet/dsnet*_in1k', '224 pixels', {}, shrink=2),
    Row('dsnet/*dsnet-[bst]*', 'up to 38 blocks', {'model.backbone.arch': dict(_delete_=True, **FLAT_DSNET)}),
    Row('metr/*_vit-*', WEIGHTS, {**flat_vit(768, 12), **SHALLOW_VIT_DETR}),
    Row('hgkd/hgkd_sparse-r50*', 'no float16 on a CPU', {'custom_hooks.0.autocast': 'bfloat16'}),
    Row(
        'hgkd/hgkd_sparse-r50*',
        'a teacher of 12 layers, a wide decoder',
        {
            **flat_vit(768, 12, 'custom_hooks.0.teacher'),
            'custom_hooks.0.taps': ['layers.3'],
            'model.neck.feature_dim': 128,
        },
    ),
    Row(
        'hgkd/*_vit-tiny_*',
        'no network to take weights from',
        {'custom_hooks.0.teacher.pretrained': False, 'custom_hooks.0.checkpoint': 'checkpoints/vit_tiny.pth'},
    ),
    Row('cae/*_vit-tiny-p16_*', WEIGHTS, flat_vit(192, 12)),
    Row('cae/*_vit-small-p16_*', WEIGHTS, flat_vit(384, 12)),
    Row('cae/*_vit-base-p16_*', WEIGHTS, flat_vit(768, 12)),
    Row('cae/*_vit-large-p16_*', WEIGHTS, flat_vit(1024, 16)),
    Row('cae/cae-v1_*-p16_32xb64-*', "DALL-E's encoder in its width", {'model.target_generator.n_hid': 32}),
    Row('cae/*-p16_*-probe_*', 'four layers, all frozen', {'model.backbone.frozen_stages': 4}),
    # On CUDA autocast takes the exponential of the box coder in float32.
    Row('cae/*-p16_mask-rcnn_*', "mmcv's CPU code for NMS takes no bfloat16", {'optim_wrapper.type': 'OptimWrapper'}),
    Row('cae/*-p16_mask-rcnn_*', 'the outputs of four layers', {'model.backbone.out_indices': (0, 1, 2, 3)}),
    Row('cae/*-p16_upernet_*', 'the outputs of four layers', {'model.backbone.out_indices': (0, 1, 2, 3)}),
    Row('its_maml/baseline-plus-plus*', 'the stand-in has six classes', {'model.network.head.num_classes': 6}),
    Row('its_maml/*_resnet12_*', 'second order through wide layers at 84 pixels', {}, shrink=4),
    Row('*/*_bccd*', 'fields of 640 pixels', {}, shrink=4),
    Row('metr/*_samples', 'fields of 640 pixels', {}, shrink=2),
    Row('cae/*-rcnn_*_coco*', 'layers of a thousand channels', {'model.roi_head.bbox_head.fc_out_channels': 64}),
    Row('*/[!c]*-rcnn_*_coco*', 'layers of a thousand channels', {'model.roi_head.bbox_head.fc_out_channels': 64}),
    Row(
        '*/cascade-*rcnn_*_coco*',
        'three heads with layers of a thousand channels',
        {f'model.roi_head.bbox_head.{stage}.fc_out_channels': 64 for stage in range(3)},
    ),
    Row('*/*_coco*', 'sides up to 1333 pixels', {}, shrink=8),
    Row('*/*upernet*_ade20k*', 'crops of 512 pixels, heads of up to 1024 channels', THIN, shrink=8),
    Row('prompt_tuning_inversion/*_pie-bench', 'pictures of 512 to 1024 pixels', {}, shrink=8),
]
# What cannot run here at all.
SKIPPED = {
    'o2detr/o2detr_riou_r50_2xb2-50e_dota': 'mmcv has no CPU code for diff_iou_rotated_2d',
    'cae/cae-v1_vit-large-p16_fsdp_32xb64-1600e_in1k': 'takes several processes; test_fsdp.py trains it small',
}
FAILING: dict[str, str] = {}
# Run without `-m slow` too, with two workers: one of each plugin.
QUICK = {
    'cae/cae-v2_vit-tiny-p8_1xb64-20e_clothing10',
    'dsnet/dsnet-micro_1xb32-40e_clothing10',
    'hgkd/hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10',
    'its_maml/its-maml_conv4_5way-3to1_1xb4-15ki_cifar-fs',
    'metr/metr_dino-r18_1xb4-10e_samples',
    'o2detr/o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav',
    'prae/fcos_r18-w16_1xb8-12e_bccd',
    'prompt_tuning_inversion/tiny-vae_1xb32-800i_tinted-mnist',
    'spsa/spsanet-micro_1xb32-40e_clothing10',
}


def rows_of(name: str) -> list[Row]:
    """Return the rows for ``<plugin>/<name of the config>``."""
    return [row for row in TABLE if fnmatch(name, row.pattern)]
