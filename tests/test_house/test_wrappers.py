"""The model behind its wrappers."""

from types import SimpleNamespace

import pytest
from torch import nn

from mmplugins.utils.wrappers import model_of


@pytest.mark.parametrize('wrappers', [0, 1, 2])
def test_model_of(wrappers):
    wrapped = model = nn.Linear(2, 2)
    for _ in range(wrappers):
        wrapped = nn.DataParallel(wrapped)
    assert model_of(SimpleNamespace(model=wrapped)) is model
