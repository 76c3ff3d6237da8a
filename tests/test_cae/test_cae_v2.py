"""CAE v2 as an algorithm."""

import pytest
import torch

from mmplugins.cae import CAEv2

# Channels of the encoder, of the regressor, its depth; all and trained parameters as counted in the authors' code.
PUBLISHED = [
    ('tiny', 192, 96, 1, 5_726_816, 5_670_080),
    ('small', 384, 384, 1, 23_721_344, 23_570_048),
    ('base', 768, 768, 4, 114_723_584, 114_420_992),
]


@pytest.mark.parametrize(('arch', 'dims', 'width', 'depth', 'everything', 'trained'), PUBLISHED, ids=lambda x: str(x))
def test_parameters_of_the_authors_models(arch, dims, width, depth, everything, trained):
    neck = dict(num_classes=512, in_channels=dims, embed_dims=width, regressor_depth=depth, decoder_depth=0)
    with torch.device('meta'):
        model = CAEv2(
            backbone=dict(type='CAEViT', arch=arch),
            neck=dict(type='CAERegressorNeck', **neck),
            head=dict(type='CAEv2Head'),
            target_generator=torch.nn.Identity(),
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == everything
    # Theirs has a normalization that nothing uses; it is here, for their checkpoints, but not trained.
    counts = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert sum(counts) == trained - 2 * width


class Given(torch.nn.Module):
    """A target that is set from outside."""

    target: torch.Tensor

    def forward(self, x):
        return self.target


def in_order(model, groups, mask):
    """Put CLS, visible and masked tokens in raster order."""
    cls_token, visible, masked = groups
    patches = torch.empty(len(mask), mask.size(1), cls_token.size(-1))
    patches[~mask], patches[mask] = visible.flatten(0, 1), masked.flatten(0, 1)
    return torch.cat([cls_token, patches], dim=1)


@pytest.fixture
def perfect(small_model, small_batch):
    """A model, a batch, and as the target three times what the model predicts for it."""
    model, (images, samples) = small_model(2, target_generator=Given()).eval(), small_batch()
    _, _, mask = model.read_batch(images, samples)
    with torch.no_grad():
        model.target_generator.target = 3 * in_order(model, model.predict_groups(images, mask), mask)
    return model, (images, samples), mask


def test_loss_is_zero_for_its_own_predictions(perfect):
    model, batch, _ = perfect
    assert model.loss(*batch)['loss_latent'].item() == pytest.approx(0, abs=1e-6)


def test_loss_is_two_for_the_opposite(perfect):
    model, batch, _ = perfect
    model.target_generator.target *= -1
    assert model.loss(*batch)['loss_latent'].item() == pytest.approx(2, abs=1e-6)


def test_each_token_has_its_own_target(perfect):
    model, batch, mask = perfect
    first, second = 1 + mask[0].nonzero().flatten()[:2]
    target = model.target_generator.target
    target[0, [first, second]] = target[0, [second, first]]
    assert model.loss(*batch)['loss_latent'] > 1e-5


def test_target_sees_the_whole_image(small_model, small_batch):
    model, (images, samples), seen = small_model(2), small_batch(), []
    model.target_generator.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    other = images.flip(0)
    model.loss([images, other], samples)
    model.loss(images, samples)
    assert torch.equal(seen[0], other) and torch.equal(seen[1], images)


@pytest.mark.parametrize(
    ('head', 'without'),
    [
        (dict(supervision='both'), ['neck.norm_regressor']),
        (dict(supervision='both', with_cls=False), ['neck.norm_regressor']),
        (dict(supervision='masked'), ['neck.norm_regressor']),
        (dict(supervision='visible'), ['neck.norm_regressor', 'neck.regressors', 'neck.mask_token']),
    ],
    ids=str,
)
def test_what_gets_a_gradient(small_model, small_batch, head, without):
    model = small_model(2, head=head)
    model.loss(*small_batch())['loss_latent'].backward()
    for name, parameter in model.named_parameters():
        unused = name.endswith('pos_embed') or any(name.startswith(part) for part in without)
        assert parameter.requires_grad == (parameter.grad is not None) == (not unused), name


def test_masked_supervision_ignores_the_cls_target(small_model, small_batch):
    model, batch = small_model(2, head=dict(supervision='masked'), target_generator=Given()).eval(), small_batch()
    model.target_generator.target = torch.randn(2, 16, 108)
    loss = model.loss(*batch)['loss_latent']
    model.target_generator.target[:, 0] = 100
    assert torch.equal(loss, model.loss(*batch)['loss_latent'])


def test_prediction_equals_the_reference(authors_cae, small_model, small_batch):
    """The plain torch model, given the weights part by part."""
    model = small_model(2, neck=dict(embed_dims=24, regressor_depth=1)).eval()
    reference = authors_cae(
        version=2, dim=48, depth=3, heads=4, width=24, regressor_depth=1, grid=(3, 5), patch=8, outputs=108
    ).eval()
    neck, theirs = model.neck, reference.regresser.regressor_blocks[0]
    ours = neck.regressors[0]
    reference.encoder = model.backbone
    reference.encoder_to_regresser, reference.encoder_to_regresser_norm = neck.projection, neck.norm_projection
    reference.mask_token, reference.decoder.norm, reference.decoder.head = neck.mask_token, neck.norm_decoder, neck.head
    for name in ('q', 'k', 'v'):
        setattr(theirs, f'norm1_{name}', getattr(ours, f'norm1_{name}_cross'))
    theirs.norm2_cross, theirs.gamma_1_cross, theirs.gamma_2_cross = (
        ours.norm2_cross, ours.gamma_1_cross, ours.gamma_2_cross
    )  # fmt: skip
    theirs.cross_attn.load_state_dict(ours.cross_attn.state_dict())
    theirs.mlp_cross.fc1, theirs.mlp_cross.fc2 = ours.ffn.layers[0][0], ours.ffn.layers[1]
    images, samples = small_batch()
    _, _, mask = model.read_batch(images, samples)
    predicted = torch.cat(model.predict_groups(images, mask), dim=1)
    expected = reference(images, mask).predicted
    torch.testing.assert_close(predicted / predicted.norm(dim=-1, keepdim=True), expected, atol=1e-5, rtol=1e-5)


def test_steps_lower_the_loss(small_model, small_batch):
    model, batch = small_model(2), small_batch(8)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    history = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = model.loss(*batch)['loss_latent']
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


def test_frozen_target_stays_in_evaluation_mode(small_model):
    target = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 8, 8), torch.nn.Dropout())
    model = small_model(2, target_generator=target).train()
    assert model.training and not target.training and not any(p.requires_grad for p in target.parameters())


def test_broken_target(small_model, small_batch):
    model = small_model(2, target_generator=Given())
    model.target_generator.target = torch.randn(2, 16, 108)
    model.target_generator.target[0, 3, 5] = float('nan')
    with pytest.raises(FloatingPointError, match="'loss_latent': nan"):
        model.parse_losses(model.loss(*small_batch()))


def test_there_is_no_decoder(small_model):
    with pytest.raises(ValueError, match='set decoder_depth=0'):
        small_model(2, neck=dict(decoder_depth=1))
