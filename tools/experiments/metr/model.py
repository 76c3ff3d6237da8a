"""Config of a small METR for the digit sets, and the two pieces that the comparisons replace."""

from pathlib import Path

import torch
from mmdet.registry import MODELS, TASK_UTILS
from mmengine.config import Config
from mmengine.structures import InstanceData

from experiments import ROOT
from experiments.metr.data import SETS
from mmplugins.metr import CategoryExtractionModule, GroupHungarianAssigner
from mmplugins.metr.head import FOCAL_COSTS

DIMS, LEVELS, TOP_K = 64, 2, 5
SHIPPED = ROOT / 'configs/metr/metr_dino-r18_1xb4-10e_samples.py'  # whose recipe all arms train with
BATCH = 8


@TASK_UTILS.register_module()
class CategoryBlindAssigner(GroupHungarianAssigner):
    """One Hungarian matching over all queries of an image, whatever their categories are (claim 3)."""

    def assign(self, pred_instances: InstanceData, gt_instances: InstanceData, img_meta=None, **kwargs):
        """As the base class, with every query and every box in one group."""
        pred_instances.group_labels = pred_instances.group_labels.clamp(max=0)
        one = InstanceData(bboxes=gt_instances.bboxes, labels=torch.zeros_like(gt_instances.labels))
        return super().assign(pred_instances, one, img_meta)


@MODELS.register_module()
class RandomRetention(CategoryExtractionModule):
    """Keeps names at random; in training, as always, all that have boxes (claim 4)."""

    def retain(self, logits, allowed, num_categories, gt_counts=None):
        """As the base class, on random logits."""
        return super().retain(torch.randn_like(logits), allowed, num_categories, gt_counts)


def model_config(shipped: dict, vocabulary: dict, **overrides) -> dict:
    """METR on DINO: ResNet-18 at quarter width from scratch, strides 8 and 16, two encoder and two decoder layers.

    Args:
        shipped: Model of the small config, for its name vectors and losses.
        vocabulary: Of the model.
        **overrides: ``cem`` and ``assigner`` (types), ``mask_unannotated``.
    """
    attention = dict(embed_dims=DIMS, num_heads=4, dropout=0.0)
    deformable = dict(embed_dims=DIMS, num_heads=4, num_levels=LEVELS, dropout=0.0)
    ffn = dict(embed_dims=DIMS, feedforward_channels=4 * DIMS, ffn_drop=0.0)
    norm = dict(type='GN', num_groups=8)
    return dict(
        type='METR',
        vocabulary=vocabulary,
        text_bank=shipped['text_bank'],
        cem=dict(type=overrides.get('cem', 'CategoryExtractionModule'), num_heads=4, feedforward_channels=4 * DIMS),
        num_categories=TOP_K,
        num_queries=8,
        mask_unannotated=overrides.get('mask_unannotated', True),
        num_feature_levels=LEVELS,
        data_preprocessor=dict(
            type='DetDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            bgr_to_rgb=True,
            pad_size_divisor=1,
        ),
        backbone=dict(type='ResNet', depth=18, base_channels=16, num_stages=3, strides=(1, 2, 2),
                      dilations=(1, 1, 1), out_indices=(1, 2), norm_cfg=norm),
        neck=dict(type='ChannelMapper', in_channels=[32, 64], kernel_size=1, out_channels=DIMS, act_cfg=None,
                  norm_cfg=norm, num_outs=LEVELS),
        encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=ffn)),
        decoder=dict(
            num_layers=2,
            return_intermediate=True,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=deformable, ffn_cfg=ffn),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(num_feats=DIMS // 2, normalize=True, offset=0.0, temperature=20),
        bbox_head=dict(shipped['bbox_head'], embed_dims=DIMS),
        dn_cfg=dict(box_noise_scale=1.0, group_cfg=dict(dynamic=True, num_dn_queries=10)),
        train_cfg=dict(
            assigner=dict(type=overrides.get('assigner', 'GroupHungarianAssigner'), match_costs=FOCAL_COSTS)
        ),
        test_cfg=dict(max_per_img=40),
    )  # fmt: skip


def run_config(
    data: Path, work_dir: Path, sets: tuple[str, ...], iters: int, seed: int, load_from: str | None, **overrides
) -> Config:
    """Config of one training on ``sets`` and of the test on the names that these sets annotate."""
    names = [name for name in SETS['test'][0] if any(name in SETS[key][0] for key in sets)]
    vocabulary = dict(datasets={**{key: SETS[key][0] for key in sets}, 'test': tuple(names)})
    shipped = Config.fromfile(SHIPPED)
    shipped.optim_wrapper.optimizer.lr *= BATCH / shipped.auto_scale_lr.base_batch_size
    meta_keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='Resize', scale_factor=1.0),  # writes `scale_factor`, which mmdet's metric asks for
        dict(type='PackDetInputs', meta_keys=meta_keys),
    ]

    def loader(keys: tuple[str, ...], test: bool) -> dict:
        datasets = {
            key: dict(
                type='VocabCocoDataset',
                data_root=str(data),
                ann_file=f'{key}.json',
                data_prefix=dict(img=f'{key}/'),
                metainfo=dict(classes=vocabulary['datasets'][key]),
                test_mode=test,
            )
            for key in keys
        }
        dataset = dict(type='MultiVocabConcatDataset', datasets=datasets, vocabulary=vocabulary, pipeline=pipeline)
        sampler = dict(type='DefaultSampler', shuffle=False) if test else dict(type='InfiniteSampler', shuffle=True)
        return dict(batch_size=20 if test else BATCH, num_workers=0, sampler=sampler, dataset=dataset)

    return Config(
        dict(
            default_scope='mmdet',
            work_dir=str(work_dir),
            experiment_name=f'{work_dir.name}_{iters}',
            model=model_config(shipped.model, vocabulary, **overrides),
            train_dataloader=loader(sets, test=False),
            test_dataloader=loader(('test',), test=True),
            test_evaluator=dict(
                type='VocabCocoMetric',
                dataset_name='test',
                ann_file=str(data / 'test.json'),
                outfile_prefix=str(work_dir / 'found'),
            ),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters + 1),
            test_cfg=dict(type='TestLoop'),
            optim_wrapper=shipped.optim_wrapper,
            param_scheduler=[
                dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=min(50, max(iters // 3, 1))),
                dict(type='MultiStepLR', by_epoch=False, milestones=[int(0.8 * iters)], gamma=0.1),
            ],
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=50),
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=iters, max_keep_ckpts=1),
            ),
            custom_hooks=[dict(type='CheckVocabularyHook')],
            randomness=dict(seed=seed),
            load_from=load_from,
            log_level='WARNING',
        )
    )
