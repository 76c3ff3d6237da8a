"""The category extraction module: names do not see each other, and boxes are never without their category."""

import pytest
import torch
from mmengine.logging import MMLogger

from mmplugins.metr.cem import Categories, CategoryExtractionModule

B, N, V, D = 2, 12, 5, 16


@pytest.fixture
def cem():
    torch.manual_seed(0)
    module = CategoryExtractionModule(D, num_blocks=2, num_heads=4, feedforward_channels=32)
    module.init_weights()
    return module


@pytest.fixture
def prompts():
    return torch.randn(V, D, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def memory():
    return torch.randn(B, N, D, generator=torch.Generator().manual_seed(2))


def attention_by_hand(attn, query, memory, mask):
    """Multi-head attention of ``query (V, D)`` to ``memory (N, D)``, one head and one query at a time."""
    w_q, w_k, w_v = attn.in_proj_weight.chunk(3)
    b_q, b_k, b_v = attn.in_proj_bias.chunk(3)
    q, k, v = query @ w_q.T + b_q, memory @ w_k.T + b_k, memory @ w_v.T + b_v
    size = D // attn.num_heads
    heads = []
    for head in range(attn.num_heads):
        part = slice(head * size, (head + 1) * size)
        score = q[:, part] @ k[:, part].T / size**0.5
        if mask is not None:
            score[:, mask] = -torch.inf
        heads.append(score.softmax(-1) @ v[:, part])
    return torch.cat(heads, dim=-1) @ attn.out_proj.weight.T + attn.out_proj.bias


@pytest.mark.parametrize('padded', [0, 4])
def test_forward_by_hand(cem, prompts, memory, padded):
    mask = None
    if padded:
        mask = torch.zeros(B, N, dtype=torch.bool)
        mask[1, -padded:] = True
    vectors, logits = cem(prompts, memory, mask)
    assert vectors.shape == (B, V, D)
    assert [level.shape for level in logits] == [(B, V)] * 2
    for image in range(B):
        z = prompts
        for block, got in zip(cem.blocks, logits, strict=True):
            image_mask = None if mask is None else mask[image]
            z = block.norms[0](z + attention_by_hand(block.attn, z, memory[image], image_mask))
            z = block.norms[1](z + block.ffn.layers(z))
            g = cem.classifier.features(z)
            expected = (g * prompts).sum(-1) / D**0.5 + cem.classifier.bias
            torch.testing.assert_close(got[image], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(vectors[image], z, atol=1e-5, rtol=1e-4)


def test_a_name_does_not_see_the_others(cem, prompts, memory):
    """Bit-equal in float64 up to the order in which a matrix product adds: 1e-12."""
    cem, prompts, memory = cem.double(), prompts.double(), memory.double()
    _, together = cem(prompts, memory)
    for row in range(V):
        _, alone = cem(prompts[row : row + 1], memory)
        torch.testing.assert_close(alone[-1][:, 0], together[-1][:, row], rtol=0, atol=1e-12)
    changed = prompts.clone()
    changed[0] = 100
    _, other = cem(changed, memory)
    torch.testing.assert_close(other[-1][:, 1:], together[-1][:, 1:], rtol=0, atol=1e-12)
    assert (other[-1][:, 0] - together[-1][:, 0]).abs().min() > 1e-3


def test_padding_does_not_change_logits(cem, prompts, memory):
    _, short = cem(prompts, memory)
    mask = torch.zeros(B, N + 6, dtype=torch.bool)
    mask[:, N:] = True
    for garbage in (0.0, 1e4):
        padded = torch.cat([memory, torch.full((B, 6, D), garbage)], dim=1)
        _, long = cem(prompts, padded, mask)
        torch.testing.assert_close(long[-1], short[-1], atol=1e-5, rtol=1e-5)


def test_images_do_not_see_each_other(cem, prompts, memory):
    _, together = cem(prompts, memory)
    for image in range(B):
        _, alone = cem(prompts, memory[image : image + 1])
        torch.testing.assert_close(alone[-1][0], together[-1][image], atol=1e-5, rtol=1e-5)


# -- retention ------------------------------------------------------------------------------------------------------


def retain(cem, logits, num_categories, gt_counts=None, allowed=None):
    logits = torch.as_tensor(logits, dtype=torch.float)
    allowed = torch.ones_like(logits, dtype=torch.bool) if allowed is None else torch.as_tensor(allowed).bool()
    gt_counts = None if gt_counts is None else torch.as_tensor(gt_counts)
    keep, valid = cem.retain(logits, allowed, num_categories, gt_counts)
    return keep.tolist(), valid.tolist()


def test_test_time_keeps_the_most_probable_in_ascending_order(cem):
    keep, valid = retain(cem, [[0.0, 3.0, -1.0, 2.0], [5.0, 4.0, 6.0, -9.0]], 2)
    assert keep == [[1, 3], [0, 2]]
    assert valid == [[True, True]] * 2


def test_training_keeps_boxes_and_then_the_hardest_false_names(cem):
    keep, _ = retain(cem, [[9.0, -9.0, 1.0, 2.0, -9.0]], 3, gt_counts=[[0, 1, 0, 0, 0]])
    assert keep == [[0, 1, 3]]


@pytest.mark.parametrize('num_categories', [1, 2, 3, 9])
def test_recall_of_boxes_is_one_when_they_fit(cem, num_categories):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = 30 * torch.randn(4, 7, generator=generator)  # sigmoid saturates at 1 in float32
        gt_counts = torch.zeros(4, 7, dtype=torch.long)
        for row in gt_counts:
            row[torch.randperm(7, generator=generator)[:num_categories]] = torch.randint(
                1, 99, (min(num_categories, 7),), generator=generator
            )
        keep, _ = cem.retain(logits, torch.ones(4, 7, dtype=torch.bool), num_categories, gt_counts)
        kept = torch.zeros(4, 7, dtype=torch.bool).scatter(1, keep, True)
        assert kept[gt_counts > 0].all()


@pytest.fixture
def warnings_of_the_log(monkeypatch):
    lines = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', lines.append)
    return lines


def test_too_many_categories_keep_those_with_most_boxes_and_warn_once(cem, warnings_of_the_log):
    for _ in range(3):
        keep, _ = retain(cem, [[9.0, 9.0, -9.0, 0.0]], 2, gt_counts=[[1, 2, 5, 0]])
        assert keep == [[1, 2]]
    assert len(warnings_of_the_log) == 1
    assert 'An image holds 3 annotated categories' in warnings_of_the_log[0]
    assert 'num_categories=2' in warnings_of_the_log[0]


def test_no_warning_for_boxes_of_names_that_are_not_allowed(cem, warnings_of_the_log):
    retain(cem, [[0.0, 0.0, 0.0]], 1, gt_counts=[[1, 1, 1]], allowed=[[1, 0, 0]])
    assert warnings_of_the_log == []


def test_more_categories_than_names(cem):
    assert retain(cem, [[0.0, 1.0, 2.0]], 20) == ([[0, 1, 2]], [[True] * 3])


def test_one_category(cem):
    assert retain(cem, [[0.0, 1.0, 2.0]], 1) == ([[2]], [[True]])


def test_slots_beyond_the_allowed_names_are_not_valid(cem):
    keep, valid = retain(cem, [[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0]], 3, allowed=[[0, 1, 0, 0], [1, 1, 1, 1]])
    assert keep[1] == [1, 2, 3]
    assert valid[1] == [True] * 3
    assert [row for row, ok in zip(keep[0], valid[0], strict=True) if ok] == [1]
    assert len(set(keep[0])) == 3


def test_names_outside_the_data_set_are_not_kept_for_their_boxes(cem):
    keep, valid = retain(cem, [[0.0, 1.0, 2.0]], 2, gt_counts=[[0, 0, 9]], allowed=[[1, 1, 0]])
    assert (keep, valid) == ([[0, 1]], [[True, True]])


def test_slots_are_cut_to_the_most_allowed_names_of_the_batch(cem):
    keep, _ = retain(cem, torch.zeros(2, 6), 5, allowed=[[1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0]])
    assert keep == [[0, 1], [3, 4]]


def test_kept_vectors():
    vectors = torch.randn(2, 4, 3)
    keep = torch.tensor([[0, 2], [1, 3]])
    categories = Categories(vectors, [], None, keep, None)
    expected = torch.stack([vectors[0, [0, 2]], vectors[1, [1, 3]]])
    assert torch.equal(categories.kept_vectors, expected)


# -- loss -----------------------------------------------------------------------------------------------------------


def test_loss_of_every_block(cem, prompts, memory):
    vectors, logits = cem(prompts, memory)
    allowed = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
    counts = torch.tensor([[3, 0, 0, 0, 0], [0, 0, 1, 0, 2]])
    losses = cem.loss(Categories(vectors, logits, allowed, None, None, counts))
    assert set(losses) == {'b0.loss_cem', 'loss_cem'}
    for got, block_logits in zip((losses['b0.loss_cem'], losses['loss_cem']), logits, strict=True):
        torch.testing.assert_close(got, cem.loss_cem(block_logits, (counts > 0).float(), allowed.float()))
    sum(losses.values()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in cem.parameters())


def test_state_round_trip(cem, prompts, memory):
    other = CategoryExtractionModule(D, num_blocks=2, num_heads=4, feedforward_channels=32)
    other.load_state_dict(cem.state_dict())
    assert torch.equal(other(prompts, memory)[1][-1], cem(prompts, memory)[1][-1])


def test_attention_and_classifier_parameter_count(cem):
    attention = 4 * D * D + 4 * D
    ffn = 2 * D * 32 + 32 + D
    norms = 2 * 2 * D
    classifier = 2 * (D * D + D) + 1  # one for both blocks
    assert sum(p.numel() for p in cem.parameters()) == 2 * (attention + ffn + norms) + classifier


def test_bfloat16_autocast(cem, prompts, memory):
    with torch.autocast('cpu', dtype=torch.bfloat16):
        vectors, logits = cem(prompts, memory)
        counts = torch.tensor([[3, 0, 0, 0, 0], [0, 0, 1, 0, 2]])
        allowed = torch.ones(B, V, dtype=torch.bool)
        keep, _ = cem.retain(logits[-1], allowed, 2, counts)
        loss = sum(cem.loss(Categories(vectors, logits, allowed, keep, allowed, counts)).values())
    loss.backward()
    assert loss.isfinite()
    assert 0 in keep[0] and {2, 4} == set(keep[1].tolist())


@pytest.mark.parametrize('num_blocks', [0, -1])
def test_a_module_without_blocks(num_blocks):
    with pytest.raises(ValueError, match=f'`num_blocks` of at least 1, got {num_blocks}'):
        CategoryExtractionModule(D, num_blocks=num_blocks)
