"""Group-consistent denoising: what each query must restore, how far it was moved, and whom it sees."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.structures import InstanceData

from mmplugins.metr.denoising import GroupCdnQueryGenerator

V, D = 5, 8
HEIGHT, WIDTH = 100, 200
# Far from the borders, so that no noise is cut off there.
BOXES = [(80, 40, 100, 60), (90, 45, 130, 55), (70, 30, 90, 50), (100, 50, 120, 70)]


def samples(*labels: list[int]) -> list[DetDataSample]:
    """One image for each list of labels; box ``i`` of an image is ``BOXES[i]``."""
    batch = []
    for image in labels:
        boxes = torch.tensor(BOXES[: len(image)], dtype=torch.float).reshape(-1, 4)
        sample = DetDataSample(metainfo=dict(img_shape=(HEIGHT, WIDTH)))
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor(image, dtype=torch.long))
        batch.append(sample)
    return batch


@pytest.fixture
def generator():
    def build(**kwargs) -> GroupCdnQueryGenerator:
        torch.manual_seed(0)
        return GroupCdnQueryGenerator(D, **dict(dict(group_cfg=dict(dynamic=False, num_groups=3)), **kwargs))

    return build


@pytest.fixture
def batch():
    """Three images; kept names of each; the boxes that must be noised, as 0-based indices."""
    kept = torch.zeros(3, V, dtype=torch.bool)
    kept[0, [1, 2]] = True
    kept[1, [0, 1, 4]] = True
    kept[2, [3]] = True
    return samples([1, 3, 1, 2], [4, 0], []), kept, [[0, 2, 3], [0, 1], []]


@pytest.fixture
def vectors():
    return torch.randn(3, V, D, generator=torch.Generator().manual_seed(3))


def slots(meta, num_images=3):
    """``gt_inds`` as ``(B, groups, 2, boxes)``; 0 in the third place are the positives."""
    return meta['gt_inds'].view(num_images, meta['num_denoising_groups'], 2, -1)


def test_of_many_boxes_some_are_drawn(generator):
    """A thousand boxes, and not more queries than DINO has for a hundred."""
    boxes = torch.rand(1000, 4).sort(dim=1).values * HEIGHT
    sample = DetDataSample(metainfo=dict(img_shape=(HEIGHT, WIDTH)))
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.arange(1000) % V)
    vectors, kept = torch.randn(1, V, D), torch.ones(1, V, dtype=torch.bool)
    kept[0, 3] = False
    build = generator(group_cfg=dict(dynamic=True, num_dn_queries=100))
    _, references, meta = build([sample], vectors, kept)
    positives = slots(meta, 1)[0, 0, 0] - 1
    assert references.shape == (1, 200, 4)
    assert len(positives.unique()) == 100
    assert (positives % V != 3).all()
    other = slots(build([sample], vectors, kept)[2], 1)[0, 0, 0] - 1
    assert not torch.equal(other, positives)  # another draw


def test_shapes(generator, batch, vectors):
    query, references, meta = generator()(batch[0], vectors, batch[1])
    num = 3 * 2 * 3  # groups, positive and negative, most kept boxes of an image
    assert meta['num_denoising_queries'] == num
    assert meta['num_denoising_groups'] == 3
    assert query.shape == meta['class_vectors'].shape == (3, num, D)
    assert references.shape == (3, num, 4)
    assert meta['gt_inds'].shape == (3, num)
    assert meta['attn_mask'].shape == (3, num, num)


def test_positives_restore_their_own_box_and_the_rest_is_marked(generator, batch, vectors):
    gt_inds = slots(generator()(batch[0], vectors, batch[1])[2])
    for image, boxes in enumerate(batch[2]):
        padding = 3 - len(boxes)
        for group in range(3):
            assert gt_inds[image, group, 0].tolist() == [box + 1 for box in boxes] + [-1] * padding
            assert gt_inds[image, group, 1].tolist() == [0] * len(boxes) + [-1] * padding


@pytest.mark.parametrize('scale', [1.0, 0.4])
def test_noise(generator, batch, vectors, scale):
    """Positives move each corner by less than half of ``scale`` of the size, negatives by more, up to twice that."""
    model = generator(box_noise_scale=scale, group_cfg=dict(dynamic=False, num_groups=20))
    _, references, meta = model(batch[0], vectors, batch[1])
    corners = bbox_cxcywh_to_xyxy(references.sigmoid()).view(3, 20, 2, 3, 4)
    for image, boxes in enumerate(batch[2]):
        for slot, box in enumerate(boxes):
            x1, y1, x2, y2 = BOXES[box]
            factor = torch.tensor([WIDTH, HEIGHT] * 2)
            size = torch.tensor([x2 - x1, y2 - y1] * 2)
            moved = (corners[image, :, :, slot] * factor - torch.tensor([x1, y1, x2, y2])).abs() / size
            positive, negative = moved.unbind(1)
            assert positive.max() <= scale / 2 + 1e-4
            assert positive.max() > 0.4 * scale
            # A negative may turn a side inside out; DINO's code then makes it (nearly) 0, which moves corners back.
            side = references.sigmoid().view(3, 20, 2, 3, 4)[image, :, 1, slot, 2:].repeat(1, 2)
            negative = negative[side > 0.002]
            assert len(negative) > 20
            assert negative.min() >= scale / 2 - 1e-4
            assert negative.max() <= scale + 1e-4
            assert len(positive.unique()) > 40


def test_content_is_the_shared_embedding_plus_the_vector_of_the_box_s_category(generator, batch, vectors):
    model = generator()
    query, _, meta = model(batch[0], vectors, batch[1])
    for image, boxes in enumerate(batch[2]):
        labels = batch[0][image].gt_instances.labels
        expected = torch.zeros(3, D)
        for slot, box in enumerate(boxes):
            expected[slot] = vectors[image, labels[box]]
        expected = expected.repeat(6, 1)
        torch.testing.assert_close(meta['class_vectors'][image], expected)
        torch.testing.assert_close(query[image], expected + model.label_embedding.weight[0])


def test_mask_by_brute_force(generator, batch, vectors):
    mask = generator()(batch[0], vectors, batch[1])[2]['attn_mask']
    for image, boxes in enumerate(batch[2]):
        labels = batch[0][image].gt_instances.labels
        # (group, category) of every query; positives and negatives of a group see each other, as in DINO
        of_query = []
        for repeat in range(6):
            for slot in range(3):
                of_query.append((repeat // 2, int(labels[boxes[slot]]) if slot < len(boxes) else 'padding'))
        for i, one in enumerate(of_query):
            for j, other in enumerate(of_query):
                assert mask[image, i, j].item() == (one != other), (image, i, j)
    assert not mask.all(-1).any()  # a row that sees nothing would be NaN


def test_no_kept_box_gives_no_query(generator, vectors):
    for labels in ([[], [], []], [[1], [2, 2], []]):
        query, references, meta = generator()(samples(*labels), vectors, torch.zeros(3, V, dtype=torch.bool))
        assert query.shape == (3, 0, D)
        assert references.shape == (3, 0, 4)
        assert meta['num_denoising_queries'] == 0


@pytest.mark.parametrize(('num_boxes', 'groups'), [(1, 8), (3, 2), (4, 2), (9, 1)])
def test_dynamic_groups_keep_to_the_budget(generator, vectors, num_boxes, groups):
    sample = samples([0])[0]
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([BOXES[0]] * num_boxes, dtype=torch.float), labels=torch.zeros(num_boxes, dtype=torch.long)
    )
    model = generator(group_cfg=dict(dynamic=True, num_dn_queries=8))
    meta = model([sample], vectors[:1], torch.ones(1, V, dtype=torch.bool))[2]
    assert meta['num_denoising_groups'] == groups
    assert meta['num_denoising_queries'] == 2 * groups * min(num_boxes, 8)


def test_label_embedding_does_not_depend_on_the_vocabulary(generator):
    assert {name: p.shape for name, p in generator().named_parameters()} == {'label_embedding.weight': (1, D)}


def test_same_seed_same_noise(generator, batch, vectors):
    runs = []
    for seed in (7, 7, 8):
        model = generator()
        torch.manual_seed(seed)
        runs.append(model(batch[0], vectors, batch[1])[1])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_gradient_reaches_embedding_and_vectors(generator, batch, vectors):
    model = generator()
    vectors.requires_grad_()
    model(batch[0], vectors, batch[1])[0].sum().backward()
    assert model.label_embedding.weight.grad.abs().sum() > 0
    used = vectors.grad.abs().sum(-1) > 0
    assert used.nonzero().tolist() == [[0, 1], [0, 2], [1, 0], [1, 4]]
