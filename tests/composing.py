"""What others build on a network: adapters, quantization, replicas, shards, captured graphs.

Each check takes a network on the CPU that makes several tensors of images ``(B, 3, H, W)``, and leaves it as it is. The
fixture ``composing`` of ``conftest.py`` returns this module.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy

import torch
import torch.distributed as dist
from torch import Tensor, nn

SIZES = ((2, 64, 96), (1, 101, 150), (3, 33, 47))  # batch, height, width
AXES = {0: 'batch', 2: 'height', 3: 'width'}


class LowRank(nn.Module):
    """LoRA written by hand: a linear or convolutional layer, and beside it a product of rank 2 that starts at 0.

    Args:
        layer: ``nn.Linear`` or ``nn.Conv2d``; it is frozen.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        if isinstance(layer, nn.Linear):
            self.down = nn.Linear(layer.in_features, 2, bias=False)
            self.up = nn.Linear(2, layer.out_features, bias=False)
        else:
            self.down = nn.Conv2d(layer.in_channels, 2, layer.kernel_size, layer.stride, layer.padding, bias=False)
            self.up = nn.Conv2d(2, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Add the product to what the layer returns."""
        return self.layer(x) + self.up(self.down(x))


def images(size: tuple[int, int, int]) -> Tensor:
    """Random images ``(B, 3, H, W)`` of a size ``(B, H, W)``."""
    return torch.randn(size[0], 3, *size[1:], generator=torch.Generator().manual_seed(0))


def loss(outputs: Sequence[Tensor]) -> Tensor:
    """A number that depends on all outputs."""
    return sum(y.square().mean() for y in outputs)


def compare(call: Callable[[Tensor], Sequence[Tensor]], net: nn.Module, sizes: Sequence[tuple], **tolerance) -> None:
    """Compare outputs with those of the network, for images of several sizes."""
    for size in sizes:
        x = images(size)
        for found, expected in zip(call(x), net(x), strict=True):
            torch.testing.assert_close(torch.as_tensor(found), expected, **tolerance)


def check_lora(net: nn.Module) -> None:
    """Wrap each layer by its name: the same outputs at first, and each adapter is trained."""
    adapted = deepcopy(net).eval().requires_grad_(False)
    layers = [name for name, module in adapted.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    for name in layers:
        parent, _, child = name.rpartition('.')
        setattr(adapted.get_submodule(parent), child, LowRank(adapted.get_submodule(name)))
    compare(adapted, net.eval(), SIZES)
    loss(adapted(images(SIZES[0]))).backward()
    ups = {name: adapted.get_submodule(name).up.weight for name in layers}
    assert not [name for name, weight in ups.items() if not weight.grad.any()], 'adapters that nothing reaches'
    assert all(weight.grad is None for name, weight in adapted.named_parameters() if '.layer.' in name)


def check_peft(net: nn.Module, peft) -> None:
    """The same by the library, which merges the adapters into the layers afterwards."""
    layers = [
        name
        for name, module in net.named_modules()
        if isinstance(module, nn.Linear) or isinstance(module, nn.Conv2d) and module.groups == 1
    ]
    adapted = peft.get_peft_model(deepcopy(net).eval(), peft.LoraConfig(r=2, target_modules=layers))
    compare(adapted, net.eval(), SIZES)
    loss(adapted(images(SIZES[0]))).backward()
    ups = [weight for name, weight in adapted.named_parameters() if '.lora_B.' in name]
    assert len(ups) == len(layers) and all(weight.grad.any() for weight in ups)
    for weight in ups:
        nn.init.normal_(weight, std=0.05)
    changed = deepcopy(adapted)
    assert not torch.allclose(changed(images(SIZES[0]))[0], net(images(SIZES[0]))[0])
    compare(adapted.merge_and_unload(), changed, SIZES, atol=1e-3, rtol=1e-3)


def check_quantize_dynamic(net: nn.Module, tolerance: float = 0.05) -> None:
    """Linear layers with weights of 8 bits: outputs differ by a part of the largest value."""
    net = net.eval()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch moves it to another package
        quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    assert not [module for module in quantized.modules() if type(module) is nn.Linear]
    x = images(SIZES[0])
    with torch.no_grad():
        for found, expected in zip(quantized(x), net(x), strict=True):
            assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@contextlib.contextmanager
def one_rank() -> Iterator[None]:
    """A process group of this process alone, on the CPU."""
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def gradients(net: nn.Module) -> dict[str, Tensor]:
    """Gradients of a training step by name; of a copy."""
    net = deepcopy(net).train()
    loss(net(images(SIZES[0]))).backward()
    return {name: weight.grad for name, weight in net.named_parameters()}


def check_ddp(net: nn.Module) -> None:
    """Gradients of a step, and no warning, as of strides of gradients that a bucket has not."""
    expected = gradients(net)
    with one_rank(), warnings.catch_warnings():
        warnings.simplefilter('error')
        torch.set_warn_always(True)
        try:
            replica = nn.parallel.DistributedDataParallel(deepcopy(net).train())
            loss(replica(images(SIZES[0]))).backward()
        finally:
            torch.set_warn_always(False)
        found = {name: weight.grad for name, weight in replica.module.named_parameters()}
    torch.testing.assert_close(found, expected)


def check_fsdp(net: nn.Module, blocks: tuple[type[nn.Module], ...]) -> None:
    """Gradients of a step whose parameters are sharded block by block."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    expected = gradients(net)
    with one_rank():
        mesh, sharded = init_device_mesh('cpu', (1,)), deepcopy(net).train()
        for module in [module for module in sharded.modules() if isinstance(module, blocks)]:
            fully_shard(module, mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        loss(sharded(images(SIZES[0]))).backward()
        found = {name: weight.grad.full_tensor() for name, weight in sharded.named_parameters()}
    torch.testing.assert_close(found, expected)


def check_export(net: nn.Module) -> None:
    """``torch.export`` for any batch, height and width."""
    net, free = net.eval(), torch.export.Dim.DYNAMIC
    program = torch.export.export(net, (images(SIZES[0]),), dynamic_shapes=({0: free, 2: free, 3: free},))
    compare(program.module(), net, SIZES, atol=1e-5, rtol=1e-5)


def check_trace(net: nn.Module) -> None:
    """``torch.jit.trace`` for any batch, height and width."""
    net = net.eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')  # of the tracer, on the sizes that it does keep
        script = torch.jit.trace(net, images(SIZES[0]), check_trace=False)
    compare(script, net, SIZES, atol=1e-4, rtol=1e-4)


def check_onnx(net: nn.Module, onnxruntime, int8: bool = False, tolerance: float = 1e-4) -> None:
    """ONNX Runtime for any batch, height and width; with weights of 8 bits to a part of the largest value."""
    net, file = net.eval(), io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('ignore')
        torch.onnx.export(
            net, (images(SIZES[0]),), file, input_names=['x'], dynamic_axes=dict(x=AXES), opset_version=17, dynamo=False
        )
    model = file.getvalue()
    if int8:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        file = io.BytesIO()
        quantize_dynamic(onnx.load_from_string(model), file, weight_type=QuantType.QUInt8)
        model = file.getvalue()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    session = onnxruntime.InferenceSession(model, options, providers=['CPUExecutionProvider'])
    for size in SIZES:
        x = images(size)
        for found, expected in zip(session.run(None, dict(x=x.numpy())), net(x), strict=True):
            error = (torch.from_numpy(found) - expected).abs().max()
            assert error <= tolerance * expected.abs().max(), float(error / expected.abs().max())
