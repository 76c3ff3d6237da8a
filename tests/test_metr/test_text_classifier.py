"""The binary classifier: one formula, in two layouts."""

import pytest
import torch

from mmplugins.metr.text.classifier import LanguageClassifier


def test_forward_is_the_scaled_product_plus_bias():
    classifier = LanguageClassifier(4, num_fcs=1)
    with torch.no_grad():
        classifier.features[0].weight.copy_(torch.eye(4))
        classifier.features[0].bias.zero_()
        classifier.bias.fill_(0.5)
    x, c = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 0.0, -1.0, 2.0])
    # <x, c> = 1 - 3 + 8 = 6; sqrt(4) = 2
    assert classifier(x, c).item() == pytest.approx(3.5)


def test_two_layers_have_a_relu_between():
    classifier = LanguageClassifier(8)
    x, c = torch.randn(3, 5, 8), torch.randn(3, 5, 8)
    first, _, second = classifier.features
    hidden = (x @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    expected = torch.einsum('bqd,bqd->bq', hidden, c) / 8**0.5 + classifier.bias
    torch.testing.assert_close(classifier(x, c), expected)


def test_pairwise_is_forward_of_every_pair():
    classifier = LanguageClassifier(8)
    x, c = torch.randn(2, 5, 8), torch.randn(2, 3, 8)
    pairs = classifier(x[:, :, None], c[:, None])
    assert pairs.shape == (2, 5, 3)
    torch.testing.assert_close(classifier.pairwise(x, c), pairs)


@pytest.mark.parametrize('prior', [0.1, 0.01])
def test_start_probability(prior):
    classifier = LanguageClassifier(8, prior_prob=prior)
    classifier.init_weights()
    assert classifier(torch.zeros(8), torch.zeros(8)).sigmoid().item() == pytest.approx(prior)


def test_released_start_bias():
    assert LanguageClassifier(8).bias.item() == pytest.approx(-2.197, abs=1e-3)


def test_every_parameter_gets_a_gradient_and_state_round_trips():
    classifier = LanguageClassifier(8)
    classifier(torch.randn(6, 8), torch.randn(6, 8)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in classifier.parameters())
    other = LanguageClassifier(8)
    other.load_state_dict(classifier.state_dict())
    x, c = torch.randn(8), torch.randn(8)
    assert torch.equal(other(x, c), classifier(x, c))
