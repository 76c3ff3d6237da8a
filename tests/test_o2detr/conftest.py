"""Fixtures of the O²DETR tests: small models of any variant, images with rotated boxes, random boxes."""

import math
from copy import deepcopy

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmrotate')


@pytest.fixture(autouse=True)
def mmrotate_scope():
    """Bare type names mean mmrotate's, as in a config of mmrotate, and afterwards what they meant before."""
    from mmengine.registry import DefaultScope
    from mmrotate.utils import register_all_modules

    import mmplugins.o2detr  # noqa: F401

    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmrotate'):
        yield


@pytest.fixture(scope='session')
def iou_of_opencv():
    """Return a function that gives the IoU of two boxes ``(x, y, w, h, θ)``."""

    def iou(first, second) -> float:
        rectangles = [((x, y), (w, h), math.degrees(theta)) for x, y, w, h, theta in (first, second)]
        corners = cv2.rotatedRectangleIntersection(*rectangles)[1]
        common = 0.0 if corners is None else cv2.contourArea(cv2.convexHull(corners))
        return common / (first[2] * first[3] + second[2] * second[3] - common)

    return iou


@pytest.fixture(scope='session')
def random_boxes():
    """Return a function that gives ``(n, 5)`` boxes inside an image, regular in [0, π), of ratios 1.2 to 6."""

    def make(n: int, img_shape: tuple[int, int] = (128, 128), dtype: torch.dtype = torch.float32) -> torch.Tensor:
        height, width = img_shape
        center = (torch.rand(n, 2, dtype=dtype) * 0.6 + 0.2) * torch.tensor([width, height], dtype=dtype)
        long = torch.rand(n, 1, dtype=dtype) * 0.3 * min(img_shape) + 8
        short = long / (1.2 + 4.8 * torch.rand(n, 1, dtype=dtype))
        return torch.cat([center, long, short, torch.rand(n, 1, dtype=dtype) * math.pi], dim=1)

    return make


@pytest.fixture(scope='session')
def scaled_rectangles():
    """Return a function that scales the corners of ``(n, 5)`` boxes and gives OpenCV's smallest rectangles of them."""

    def scale(boxes: torch.Tensor, factors: tuple[float, float]) -> torch.Tensor:
        rectangles = []
        for x, y, w, h, theta in boxes.double().tolist():
            corners = cv2.boxPoints(((x, y), (w, h), math.degrees(theta))) * np.float32(factors)
            center, sides, degrees = cv2.minAreaRect(corners)
            rectangles.append([*center, *sides, math.radians(degrees)])
        return torch.tensor(rectangles)

    return scale


D, LEVELS, CLASSES, QUERIES = 32, 4, 3, 12
FFN = dict(embed_dims=D, feedforward_channels=48, ffn_drop=0.0)
ENCODERS = dict(
    dwsep=dict(layer_cfg=dict(mixer_cfg=dict(embed_dims=D), ffn_cfg=FFN)),
    deformable=dict(layer_cfg=dict(self_attn_cfg=dict(embed_dims=D, num_heads=4, dropout=0.0), ffn_cfg=FFN)),
)


@pytest.fixture(scope='session')
def model_cfg():
    """Return a function that gives the config of a small model; changes may be nested, as ``{'test_cfg.x': 1}``."""
    from mmengine.config import Config

    def make(encoder: str = 'dwsep', **changes) -> dict:
        encoder = (
            dict(type='none', embed_dims=D)
            if encoder == 'none'
            else dict(type=encoder, num_layers=2, **deepcopy(ENCODERS[encoder]))
        )
        model = dict(
            type='O2DETR',
            num_queries=QUERIES,
            num_feature_levels=LEVELS,
            data_preprocessor=dict(type='mmdet.DetDataPreprocessor', boxtype2tensor=False, pad_size_divisor=32),
            backbone=dict(
                type='mmdet.ResNet', depth=18, base_channels=8, out_indices=(1, 2, 3), norm_cfg=dict(type='BN')
            ),
            neck=dict(
                type='mmdet.ChannelMapper',
                in_channels=[16, 32, 64],
                kernel_size=1,
                out_channels=D,
                act_cfg=None,
                norm_cfg=dict(type='GN', num_groups=4),
                num_outs=LEVELS,
            ),
            encoder=encoder,
            decoder=dict(
                num_layers=2,
                return_intermediate=True,
                post_norm_cfg=None,
                layer_cfg=dict(
                    self_attn_cfg=dict(embed_dims=D, num_heads=4, dropout=0.0, batch_first=True),
                    cross_attn_cfg=dict(embed_dims=D, num_heads=4, num_levels=LEVELS, dropout=0.0, batch_first=True),
                    ffn_cfg=FFN,
                ),
            ),
            positional_encoding=dict(num_feats=D // 2, normalize=True, offset=-0.5),
            bbox_head=dict(type='O2DETRHead', num_classes=CLASSES, embed_dims=D),
            train_cfg=dict(
                assigner=dict(
                    type='mmdet.HungarianAssigner',
                    match_costs=[
                        dict(type='mmdet.FocalLossCost', weight=2.0),
                        dict(type='RBoxL1Cost', weight=5.0),
                        dict(type='GDCost', weight=2.0),
                    ],
                )
            ),
            test_cfg=dict(max_per_img=20),
        )
        cfg = Config(dict(model=model))
        cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
        return cfg.model

    return make


@pytest.fixture
def build_model(model_cfg):
    """Return a function that builds and initializes a small model."""
    from mmrotate.registry import MODELS

    def make(encoder: str = 'dwsep', **changes) -> torch.nn.Module:
        torch.manual_seed(0)
        model = MODELS.build(model_cfg(encoder, **changes))
        model.init_weights()
        return model

    return make


@pytest.fixture(scope='session')
def make_batch(random_boxes):
    """Return a function that gives raw inputs and data samples for images of given shapes and numbers of boxes."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData
    from mmrotate.structures import RotatedBoxes

    def make(shapes=((64, 96), (96, 64)), boxes=(3, 2), num_classes: int = CLASSES) -> dict:
        torch.manual_seed(1)
        samples = []
        for (height, width), number in zip(shapes, boxes, strict=True):
            sample = DetDataSample(
                metainfo=dict(
                    img_path=f'{height}x{width}.png',
                    img_id=len(samples),
                    img_shape=(height, width),
                    ori_shape=(height * 2, width * 2),
                    scale_factor=(0.5, 0.5),
                )
            )
            sample.gt_instances = InstanceData(
                bboxes=RotatedBoxes(random_boxes(number, (height, width))),
                labels=torch.randint(num_classes, (number,)),
            )
            samples.append(sample)
        inputs = [torch.randint(0, 255, (3, *shape), dtype=torch.uint8) for shape in shapes]
        return dict(inputs=inputs, data_samples=samples)

    return make


@pytest.fixture(scope='session')
def cascade_changes():
    """Return a function that gives what makes a cascade of a small model's config."""

    def make(num_stages: int = 2, fpn: bool = False, **changes) -> dict:
        coder = dict(
            type='DeltaXYWHTRBBoxCoder',
            angle_version='le90',
            edge_swap=True,
            proj_xy=True,
            target_stds=[0.1, 0.1, 0.2, 0.2, 0.1],
        )
        head = dict(
            type='mmdet.Shared2FCBBoxHead',
            predict_box_type='rbox',
            in_channels=D,
            fc_out_channels=24,
            num_classes=CLASSES,
            roi_feat_size=7,
            reg_class_agnostic=True,
            reg_predictor_cfg=dict(type='mmdet.Linear'),
            cls_predictor_cfg=dict(type='mmdet.Linear'),
            bbox_coder=coder,
            loss_cls=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=False),
            loss_bbox=dict(type='mmdet.SmoothL1Loss'),
        )
        align = dict(type='RoIAlignRotated', out_size=7, sample_num=2, clockwise=True)
        strides = [4, 8, 16, 32] if fpn else [8, 16, 32]
        extractor = dict(
            type='RotatedSingleRoIExtractor', roi_layer=align, out_channels=D, featmap_strides=strides, finest_scale=14
        )
        roi_head = dict(
            type='mmdet.CascadeRoIHead',
            num_stages=num_stages,
            stage_loss_weights=[1.0] * num_stages,
            bbox_roi_extractor=extractor,
            bbox_head=[deepcopy(head) for _ in range(num_stages)],
        )
        stage = dict(
            assigner=dict(
                type='mmdet.MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                iou_calculator=dict(type='RBboxOverlaps2D'),
            ),
            sampler=dict(type='mmdet.RandomSampler', num=32, pos_fraction=0.25, add_gt_as_proposals=True),
            pos_weight=-1,
        )
        made = {
            'type': 'O2DETRCascade',
            'roi_head': roi_head,
            'train_cfg.rcnn': [deepcopy(stage) for _ in range(num_stages)],
            'test_cfg.rcnn': dict(score_thr=0.0, nms=dict(type='nms_rotated', iou_threshold=0.1), max_per_img=20),
            'num_proposals': 10,
        }
        if fpn:
            made['backbone.out_indices'] = (0, 1, 2, 3)
            made['roi_neck'] = dict(type='mmdet.FPN', in_channels=[8, 16, 32, 64], out_channels=D, num_outs=4)
        return {**made, **changes}

    return make
