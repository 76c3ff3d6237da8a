"""Each layer with weights is called, in a training step or in a prediction, in a small network of every plugin.

Hooks, LoRA, quantization and shards of parameters see calls. A layer whose weight alone is read is none for them: an
adapter in its place changes nothing and is not trained, without a word.
"""

import importlib
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from torch import nn

from mmplugins.utils.running import launch

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = [
    'cae/cae-v1_vit-tiny-p8_1xb64-20e_clothing10',
    'cae/cae-v2_vit-tiny-p8_1xb64-20e_clothing10',
    'dsnet/retinanet_dsnet-micro_dsfpn_1xb8-6e_bccd',
    'hgkd/hgkd_sparse-r18-w16_mae_1xb40-20e_clothing10',
    'its_maml/its-maml_conv4_5way-3to1_1xb4-15ki_cifar-fs',
    'metr/metr_dino-r18_1xb4-10e_samples',
    'o2detr/o2detr_refine-twostage_r18-w16_1xb4-36e_hit-uav',
    'prae/fcos_r18-w16_1xb8-12e_bccd',
    'prompt_tuning_inversion/tiny-vae_1xb32-800i_tinted-mnist',
    'spsa/spsanet-micro_1xb32-40e_clothing10',
]
# Layers of a plugin that are not called, and why that is right. They are patterns.
EXCEPTIONS = {
    'cae/cae-v2*': {'neck.norm_regressor': "frozen: CAE v2 has no alignment; the layer is there for CAE's checkpoints"},
    'metr/*': {'query_embedding': "mmdet's DINO reads its weight, all rows at once"},
}


def leaves(model: nn.Module) -> dict[str, nn.Module]:
    """Layers with weights and without children, by name; not those in ``nn.MultiheadAttention``, which torch reads."""
    torchs = tuple(f'{name}.' for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention))
    return {
        name: module
        for name, module in model.named_modules()
        if not list(module.children())
        and list(module.parameters())
        and not isinstance(module, (nn.ParameterList, nn.ParameterDict))
        and not name.startswith(torchs)
    }


def silent(model: nn.Module, run: Callable[[], object]) -> set[str]:
    """Names of the leaves that are not called while something runs."""
    found, fired = leaves(model), set()
    for name, module in found.items():
        module.register_forward_hook(lambda *_, name=name: fired.add(name))
    run()
    return found.keys() - fired


@pytest.mark.slow
@pytest.mark.parametrize('name', CONFIGS)
def test_every_layer_is_called(name, shortened, standins):
    rehearsal = importlib.import_module('standins.rehearsal')
    rehearsal.forget()
    cfg = shortened(ROOT / f'configs/{name}.py')
    try:
        runner = launch.build_runner(cfg)
        found = silent(runner.model, runner.train)
    finally:
        shutil.rmtree(cfg.work_dir, ignore_errors=True)
        rehearsal.forget()
    allowed = [layer for pattern, layers in EXCEPTIONS.items() if fnmatch(name, pattern) for layer in layers]
    assert not {layer for layer in found if not any(fnmatch(layer, pattern) for pattern in allowed)}


def test_a_weight_that_is_read_is_found():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.called, self.read = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return nn.functional.linear(self.called(x), self.read.weight)

    model = Reads()
    assert silent(model, lambda: model(torch.randn(1, 2))) == {'read'}
