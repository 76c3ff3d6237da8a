"""The SSD head predicts, where the host's raises."""

import torch
from mmdet.models.dense_heads import SSDHead
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.registry import init_default_scope


def test_predicts_what_the_host_would(repo):
    cfg = Config.fromfile(repo / 'configs/spsa/ssdlite_spsanet-xs_8xb24-600e_coco.py')
    cfg.model.test_cfg.score_thr = 0.005  # below the score of a class among 81 before training
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model).eval()
    options = {key: value for key, value in cfg.model.bbox_head.items() if key != 'type'}
    host = SSDHead(**options)  # the detector has put the options of training and testing there
    host.load_state_dict(model.bbox_head.state_dict(), strict=True)
    host.loss_cls = None  # all that it lacks
    data = model.data_preprocessor(demo_mm_inputs(1, [[3, 320, 320]]), False)
    with torch.no_grad():
        features = model.extract_feat(data['inputs'])
        (ours,), (theirs,) = (head.eval().predict(features, data['data_samples']) for head in (model.bbox_head, host))
    assert len(ours) > 0
    torch.testing.assert_close(ours.bboxes, theirs.bboxes)
    torch.testing.assert_close(ours.scores, theirs.scores)
