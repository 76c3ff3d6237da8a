"""The switch for oneDNN: the same numbers, the faster way wins, nothing stays switched, and no model has it inside."""

import itertools
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader

from mmplugins.utils import cpu_products
from mmplugins.utils.cpu_products import MIN_CHANNELS, MIN_ROWS, FasterCPUProductsHook, onednn_products
from mmplugins.utils.running import launch

TINY = Path(__file__).parent / 'tiny'
STEPS = 20
LINEAR, CONV2D = F.linear, F.conv2d

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='this torch has no oneDNN')


@pytest.fixture
def one_thread():
    """Torch gives 1x1 convolutions to oneDNN by itself where it has more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make(
    shape: tuple[int, ...], out: int = 160, bias: bool = True, kernel: tuple[int, ...] = ()
) -> list[Tensor | None]:
    """Input, weight and bias that want gradients, in double precision."""
    tensors = [torch.randn(shape), torch.randn(out, shape[1] if kernel else shape[-1], *kernel)]
    tensors.append(torch.randn(out) if bias else None)
    return [None if x is None else x.double().requires_grad_() for x in tensors]


def in_float(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """Leaves in single precision."""
    return [None if x is None else x.detach().float().requires_grad_(x.requires_grad) for x in tensors]


def used(function) -> set[str]:
    """The operators of oneDNN that a call goes through."""
    with torch.profiler.profile() as profile:
        function()
    return {event.name for event in profile.events() if 'mkldnn' in event.name}


# Products.


@pytest.mark.parametrize('shape', [(MIN_ROWS, MIN_CHANNELS), (4, 50, 128), (2, 3, 30, 200)], ids=str)
@pytest.mark.parametrize('bias', [True, False])
def test_values_and_gradients_are_those_of_double_precision(shape: tuple[int, ...], bias: bool) -> None:
    exact = make(shape, bias=bias)
    single = in_float(exact)
    with onednn_products():
        found = F.linear(*single)
    check(found, single, F.linear(*exact), exact)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('side', [5, 40], ids=['below the threshold', 'above'])
@pytest.mark.parametrize('more', [{}, dict(stride=2, padding=1), dict(padding='same')], ids=str)
def test_pointwise_convolutions_too(more: dict, side: int, layout: torch.memory_format, one_thread: None) -> None:
    exact = make((1, 16, side, side), kernel=(1, 1))
    single = in_float(exact)
    x = single[0].to(memory_format=layout)
    with onednn_products():
        found = F.conv2d(x, *single[1:], **more)
    assert found.is_contiguous(memory_format=layout)
    check(found, single, F.conv2d(*exact, **more), exact)


def check(found: Tensor, single: list[Tensor | None], expected: Tensor, exact: list[Tensor | None]) -> None:
    """Compare values and gradients with those in double precision."""
    assert found.dtype == torch.float32 and found.layout == torch.strided
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-4)
    weights = torch.randn_like(expected)
    expected.mul(weights).sum().backward()
    found.mul(weights.float()).sum().backward()
    for a, b in zip(single, exact, strict=True):
        if a is not None:
            torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('frozen', [0, 1, 2], ids=['input', 'weight', 'bias'])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    tensors = in_float(make((200, 128)))
    tensors[frozen].requires_grad_(False)
    with onednn_products():
        F.linear(*tensors).sum().backward()
    assert [x.grad is None for x in tensors] == [i == frozen for i in range(3)]


def test_views_and_names_of_arguments() -> None:
    x, weight, bias = in_float(make((128, 300)))
    with onednn_products():
        found = F.linear(input=x.t(), weight=torch.randn(96, 128), bias=None)
    assert found.shape == (300, 96)
    with onednn_products(), onednn_products():
        found = F.linear(x, weight=weight, bias=bias)
    torch.testing.assert_close(found, F.linear(x, weight, bias), rtol=1e-5, atol=1e-4)


def test_only_large_products_of_floats() -> None:
    large, few_rows, few_channels = (in_float(make(shape)) for shape in ((128, 128), (127, 128), (512, 64)))
    with onednn_products():
        assert 'aten::mkldnn_linear' in used(lambda: F.linear(*large))
        assert not used(lambda: F.linear(*few_rows))
        assert not used(lambda: F.linear(*few_channels))
        assert not used(lambda: F.linear(*[x.double() for x in large]))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert F.linear(*large).dtype == torch.bfloat16
    assert not used(lambda: F.linear(*large))


def test_only_large_maps(one_thread: None) -> None:
    """The reason for the dilation: as soon as torch itself chooses oneDNN, ours can go."""
    large, small = (in_float(make((1, 16, side, side), kernel=(1, 1))) for side in (40, 5))
    with onednn_products():
        assert 'aten::mkldnn_convolution' in used(lambda: F.conv2d(*large).sum().backward())
        assert not used(lambda: F.conv2d(*small).sum().backward())
    assert not used(lambda: F.conv2d(*large).sum().backward())


def test_compiled_graphs_are_left_alone() -> None:
    linear, conv = (in_float(make(shape, kernel=k)) for shape, k in (((128, 128), ()), ((1, 16, 40, 40), (1, 1))))
    function = torch.compile(lambda: (F.linear(*linear), F.conv2d(*conv)), backend='aot_eager', fullgraph=True)
    with onednn_products():
        found = function()
        assert 'aten::mkldnn_linear' not in used(function)
    assert torch.equal(found[0], F.linear(*linear)) and torch.equal(found[1], F.conv2d(*conv))


def test_second_derivatives_are_refused() -> None:
    x, weight, bias = in_float(make((128, 128)))
    with onednn_products():
        out = F.linear(x, weight, bias)
    (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()


def test_checkpointing_computes_the_same() -> None:
    x, weight, bias = in_float(make((256, 128)))

    def layer(x: Tensor) -> Tensor:
        return F.gelu(F.linear(x, weight, bias)).square()

    with onednn_products():
        (expected,) = torch.autograd.grad(layer(x).sum(), x)
        checkpoint(layer, x, use_reentrant=False).sum().backward()
    assert torch.equal(x.grad, expected)
    with onednn_products():
        layer(x).backward(torch.ones(256, 160), retain_graph=True)
    assert torch.equal(x.grad, 2 * expected)


# The run.


class Model(BaseModel):
    """A linear layer and a 1x1 convolution, large enough for oneDNN; notes whether its steps go through it."""

    def __init__(self, error_at: int | None = None) -> None:
        super().__init__()
        self.linear, self.conv = nn.Linear(128, 128), nn.Conv2d(128, 128, 1)
        self.error_at, self.steps = error_at, []

    def forward(self, inputs: Tensor, mode: str = 'tensor') -> dict[str, Tensor]:
        """Loss of ``(B, 256, 128)``."""
        self.steps.append(is_entered())
        if len(self.steps) - 1 == self.error_at:
            raise RuntimeError('out of luck')
        x = self.conv(self.linear(inputs).transpose(1, 2).unflatten(2, (16, 16)))
        return dict(loss=x.square().mean())


def is_entered() -> bool:
    """Whether products go through oneDNN here."""
    entered = F.linear is not LINEAR
    assert entered == (F.conv2d is not CONV2D)
    return entered


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Return a function that trains a model of seed 0 and gives it back.

    ``hooks``: of the run. ``seconds``: of a step through oneDNN and of a plain one, in place of the processor's clock.
    """
    folders = (tmp_path / str(number) for number in itertools.count())

    def train(*hooks: Hook | dict, seconds: tuple[float, float] | None = None, **kwargs) -> Model:
        torch.manual_seed(0)
        model, folder = Model(**kwargs), next(folders)
        if seconds:
            clock = lambda: sum(seconds[0] if step else seconds[1] for step in model.steps)  # noqa: E731
            monkeypatch.setattr(cpu_products, 'process_time', clock)
        runner = Runner(
            model=model,
            work_dir=str(folder),
            experiment_name=str(folder),
            train_dataloader=DataLoader([dict(inputs=torch.randn(256, 128)) for _ in range(STEPS)]),
            train_cfg=dict(by_epoch=False, max_iters=STEPS),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            custom_hooks=list(hooks),
            default_scope='mmengine',
        )
        try:
            runner.train()
        finally:
            assert not is_entered() and model.train_step.__func__ is BaseModel.train_step
        return model

    return train


def test_the_hook_is_registered() -> None:
    assert HOOKS.get('FasterCPUProductsHook') is FasterCPUProductsHook


@pytest.mark.parametrize('seconds, winner', [((1, 2), 'oneDNN'), ((2, 1), 'torch'), ((1, 1), 'torch')], ids=str)
def test_the_faster_way_wins(train, seconds: tuple[float, float], winner: str) -> None:
    hook = FasterCPUProductsHook()
    model = train(hook, seconds=seconds)
    assert model.steps == [False, True, True, False] * 4 + [winner == 'oneDNN'] * 4
    assert hook.choice == winner


def test_the_first_steps_do_not_count() -> None:
    hook = FasterCPUProductsHook()
    hook.seconds = dict(torch=[2.5] * 8, oneDNN=[9, 9, 1, 1, 1, 3, 3, 3])
    hook.after_train_iter(SimpleNamespace(logger=logging.getLogger()), batch_idx=15)
    assert hook.choice == 'oneDNN'  # 2 against 2.5; with the first two 3


def test_one_line_of_the_log_has_both_times(train, tmp_path) -> None:
    train(dict(type='FasterCPUProductsHook'), seconds=(1, 2))
    lines = [line for log in tmp_path.rglob('*.log') for line in log.read_text().splitlines() if 'CPU products' in line]
    assert len(lines) == 1
    assert 'takes 2.000 s by torch, 1.000 s by oneDNN' in lines[0] and 'oneDNN computes the rest' in lines[0]


def test_training_comes_to_the_same(train) -> None:
    plain, ours = train(), train(FasterCPUProductsHook(), seconds=(1, 2))
    assert not any(plain.steps) and any(ours.steps)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('step', [1, 17], ids=['while both are timed', 'after the choice'])
def test_nothing_stays_entered_after_an_error(train, step: int) -> None:
    hook = FasterCPUProductsHook()
    with pytest.raises(RuntimeError, match='out of luck'):
        train(hook, seconds=(1, 2), error_at=step)  # in which ``train`` looks
    assert hook.choice == (None if step == 1 else 'oneDNN')


def test_only_the_step_itself_is_concerned(train) -> None:
    entered = []

    class Other(Hook):
        def before_train_iter(self, *args, **kwargs) -> None:
            entered.append(is_entered())

        after_train_iter = before_train_iter

    assert any(train(Other(), FasterCPUProductsHook(), Other(), seconds=(1, 2)).steps)
    assert len(entered) == 4 * STEPS and not any(entered)


@pytest.mark.parametrize('what', ['a GPU', 'no oneDNN'])
def test_nothing_happens_with(train, monkeypatch, what: str) -> None:
    if what == 'a GPU':
        monkeypatch.setattr(cpu_products, 'get_device', lambda: 'cuda')
    else:
        monkeypatch.setattr(torch.backends.mkldnn, 'is_available', lambda: False)
    hook = FasterCPUProductsHook()
    assert not any(train(hook).steps) and hook.choice is None


# Off by default.


@pytest.mark.parametrize('value, number', [(None, 0), ('0', 0), ('1', 1)])
def test_the_tools_add_the_hook_if_the_environment_says_so(monkeypatch, tmp_path, value, number) -> None:
    monkeypatch.syspath_prepend(TINY)
    monkeypatch.delenv('MMPLUGINS_ONEDNN', raising=False)
    if value:
        monkeypatch.setenv('MMPLUGINS_ONEDNN', value)
    args = launch.build_parser('').parse_args([str(TINY / 'tiny.py'), '--work-dir', str(tmp_path)])
    runner = launch.build_runner(launch.load_config(args))
    assert sum(isinstance(hook, FasterCPUProductsHook) for hook in runner.hooks) == number


class Dilations(TorchFunctionMode):
    """Notes the dilations of 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.found = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.conv2d and args[1].shape[2:] == (1, 1):
            dilation = args[5] if len(args) > 5 else (kwargs or {}).get('dilation', 1)
            self.found.append(dilation in (1, (1, 1)))
        return func(*args, **(kwargs or {}))


def test_no_model_chooses_kernels(one_thread: None) -> None:
    from mmplugins.cae import CAEViT
    from mmplugins.dsnet import DSNet

    with Dilations() as dilations:
        for model, size in ((CAEViT('tiny', 64, 4), 64), (DSNet('tiny'), 96)):
            found = used(lambda model=model, size=size: model(torch.randn(1, 3, size, size))[0].sum().backward())
            assert 'aten::mkldnn_linear' not in found
    assert dilations.found and all(dilations.found)
