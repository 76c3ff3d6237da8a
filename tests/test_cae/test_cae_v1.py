"""CAE as an algorithm."""

import pytest
import torch

from mmplugins.cae.tokens import split_places


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def total(losses):
    return sum(losses.values())


def test_parameters_of_the_authors_model():
    from mmplugins.cae import CAEv1

    with torch.device('meta'):
        model = CAEv1(
            backbone=dict(type='CAEViT', arch='base'),
            neck=dict(type='CAERegressorNeck'),
            head=dict(type='CAEv1Head'),
            target_generator=torch.nn.Identity(),
        )
    counts = [parameter.numel() for parameter in model.parameters()]
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert (sum(counts), sum(trained)) == (148_984_064, 148_681_472)  # with the authors' copy 234,791,936


def test_losses_and_their_weights(small_model, small_batch):
    batch = small_batch()
    model = small_model().eval()
    losses = model.loss(*batch)
    assert set(losses) == {'loss_recon', 'loss_align'} and all(loss > 0 for loss in losses.values())
    model.head.recon_weight, model.head.align_weight = 3.0, 1.0  # from 1 and 2
    torch.testing.assert_close(model.loss(*batch)['loss_recon'], 3 * losses['loss_recon'])
    torch.testing.assert_close(model.loss(*batch)['loss_align'], losses['loss_align'] / 2)


def test_alignment_target_is_the_encoder_on_the_masked_patches(small_model, small_batch):
    model = small_model().eval()
    images, samples = small_batch()
    _, _, mask = model.read_batch(images, samples)
    target = model.align_target(images, mask)
    assert target.shape == (2, 7, 48) and not target.requires_grad
    pixels, hidden = model.backbone.patch_pixels(images), split_places(mask).masked
    torch.testing.assert_close(target, model.backbone.encode(pixels, hidden)[:, 1:])


def test_both_passes_use_each_patch_once(small_model, small_batch, monkeypatch):
    model, seen = small_model(), []
    encode = model.backbone.encode
    monkeypatch.setattr(model.backbone, 'encode', lambda x, places: seen.append(places) or encode(x, places))
    model.loss(*small_batch())
    assert torch.equal(torch.cat(seen, dim=1).sort(dim=1).values, torch.arange(15).expand(2, -1))


def test_no_gradient_through_the_alignment_target(small_model, small_batch, monkeypatch):
    model, batch = small_model(), small_batch()
    total(model.loss(*batch)).backward()
    expected = gradients(model)
    images, _, mask = model.read_batch(*batch)
    constant = model.align_target(images, mask)
    model.zero_grad()
    monkeypatch.setattr(model, 'align_target', lambda *args: constant)
    total(model.loss(*batch)).backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_reconstruction_alone_trains_everything(small_model, small_batch):
    model = small_model(head=dict(align_weight=0.0))
    assert set(losses := model.loss(*small_batch())) == {'loss_recon'}
    total(losses).backward()
    got = gradients(model)
    assert got['neck.mask_token'].any() and got['backbone.layers.0.attn.qkv.weight'].any()
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(got)


def test_alignment_alone_leaves_out_the_decoder(small_model, small_batch):
    model = small_model(head=dict(recon_weight=0.0))
    assert set(losses := model.loss(*small_batch())) == {'loss_align'}
    total(losses).backward()
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(gradients(model))


def test_masked_pixels_change_the_target_but_not_the_latents(small_model, small_batch):
    model = small_model().eval()
    images, samples = small_batch()
    _, _, mask = model.read_batch(images, samples)
    pixels = mask.unflatten(1, (3, 5)).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    changed = torch.where(pixels, 1 - images, images)
    assert torch.equal(model.reconstruct(images, mask)[0], model.reconstruct(changed, mask)[0])
    assert not torch.equal(model.align_target(images, mask), model.align_target(changed, mask))


def test_a_step_lowers_the_loss(small_model, small_batch):
    model, batch = small_model(), small_batch(8)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    history = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = total(model.loss(*batch))
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


def test_drop_path_in_the_alignment_target(small_model, small_batch):
    def targets(**kwargs):
        model = small_model(backbone=dict(drop_path_rate=0.8), **kwargs).train()
        images, _, mask = model.read_batch(*batch)
        pair = [model.align_target(images, mask) for _ in range(2)]
        assert model.backbone.training and all(layer.training for layer in model.backbone.layers)
        return pair

    batch = small_batch(8)
    assert not torch.equal(*targets())  # the authors'
    assert torch.equal(*targets(align_eval=True))


def test_no_copy_without_momentum(small_model):
    assert not [name for name in small_model().state_dict() if name.startswith('teacher.')]


@pytest.mark.parametrize('fused', [False, True])  # a fused one leaves the versions of the parameters as they are
def test_moving_average(small_model, small_batch, fused):
    model, batch = small_model(momentum=0.75), small_batch()
    before = {name: value.clone() for name, value in model.teacher.named_parameters()}
    model.loss(*batch)
    optimizer = torch.optim.SGD(model.backbone.parameters(), lr=1.0, fused=fused)
    for parameter in model.backbone.parameters():
        parameter.grad = -torch.ones_like(parameter)
    optimizer.step()
    for _ in range(3):  # batches that are gathered for one step
        model.loss(*batch)
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value.data, before[name] + 0.25, atol=1e-5, rtol=1e-5)
        assert not value.requires_grad
    model.eval().loss(*batch)
    torch.testing.assert_close(model.teacher.cls_token.data, before['cls_token'] + 0.25, atol=1e-5, rtol=1e-5)


def test_features_of_whole_images(small_model, small_batch):
    model, (images, _) = small_model().eval(), small_batch()
    features = model([images, images], mode='tensor')
    assert torch.equal(features[0], model(images, mode='tensor')[0]) and features[0].shape == (2, 16, 48)


def test_narrower_regressor(small_model, small_batch):
    model = small_model(neck=dict(embed_dims=24)).eval()
    images, samples = small_batch()
    _, _, mask = model.read_batch(images, samples)
    assert model.align_target(images, mask).shape == (2, 7, 24)
    assert torch.isfinite(total(model.loss(images, samples)))


class Broken(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return torch.full((len(x), 15, 192), self.value)


@pytest.mark.parametrize('value', [float('nan'), float('inf')], ids=str)
def test_losses_must_be_finite(small_model, small_batch, value):
    model = small_model(target_generator=Broken(value), check_interval=3)
    losses, fine = model.loss(*small_batch()), dict(loss_recon=torch.zeros(()))
    for _ in range(2):
        with pytest.raises(FloatingPointError, match="'loss_recon': (nan|inf).*: look at the images and the target"):
            model.parse_losses(losses)
        model.parse_losses(fine)
        for _ in range(2):  # it is not looked at every step
            model.parse_losses(losses)
    assert not torch.isfinite(small_model(check_interval=0).parse_losses(losses)[0])


def test_tokens_must_fit_the_read_out(small_model):
    target = dict(type='KMeansTokenTarget', codebook='clothing10-p8-k128')
    for num_classes in (127, 129):
        with pytest.raises(ValueError, match=f'128 tokens of the target, but num_classes={num_classes} of the neck'):
            small_model(neck=dict(num_classes=num_classes), target_generator=target)
    small_model(neck=dict(num_classes=128), target_generator=target)


@pytest.mark.parametrize('version', [1, 2])
def test_transposed_masks_are_told(small_model, small_batch, version):
    images, samples = small_batch()
    samples = [sample.set_mask(sample.mask.T) for sample in samples]
    with pytest.raises(ValueError, match=r'masks of shape \(5, 3\) for a grid of \(3, 5\) patches'):
        small_model(version).loss(images, samples)


@pytest.mark.parametrize('version', [1, 2])
def test_counting_before_gives_the_same_loss(small_model, small_batch, version):
    model, (images, samples) = small_model(version).eval(), small_batch()
    expected = model.loss(images, samples)
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), True)
    assert [sample.num_masked for sample in data['data_samples']] == [7, 7]
    for name, loss in model.loss(images, data['data_samples']).items():
        torch.testing.assert_close(loss, expected[name])
    samples[0].mask[:] = False
    with pytest.raises(ValueError, match='the same number of patches, got 0 to 7'):
        model.data_preprocessor(dict(inputs=images, data_samples=samples), True)


def test_masks_are_needed(small_model, small_batch):
    from mmpretrain.structures import DataSample

    images, _ = small_batch()
    with pytest.raises(ValueError, match='put InclusiveBlockMask before PackInputs'):
        small_model().loss(images, [DataSample(), DataSample()])


@pytest.mark.parametrize('masked', [0, 15])
def test_nothing_or_everything_masked(small_model, small_batch, masked):
    with pytest.raises(ValueError, match=f'between 1 and 14 of 15 patches must be masked, got {masked}'):
        small_model().loss(*small_batch(masked=masked))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(neck=dict(grid_size=(5, 3))), r'grid_size=\(5, 3\) of the neck, but the backbone has \(3, 5\)'),
        (dict(neck=dict(in_channels=32)), 'the neck takes 32 channels, but the backbone gives 48'),
        (dict(momentum=1.0), 'momentum=1.0'),
    ],
    ids=['grid', 'channels', 'momentum'],
)
def test_parts_must_fit(small_model, change, message):
    with pytest.raises(ValueError, match=message):
        small_model(**change)
