"""What a call costs: time, memory, and what does not depend on the machine.

Counted are multiplications, bytes kept for the backward pass, calls of kernels and the bytes that they read and write,
and how often the host would wait for a device. The same model gives the same counts on each machine.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_flop

# Operations whose result the host must know before it can go on. Indexing by a mask is one more, see below.
SYNCS = ('_local_scalar_dense', 'nonzero', 'masked_select', 'equal', 'is_nonzero', '_unique2', 'unique_dim')
# torch knows the operations of fused attention on CUDA alone.
FLOPS = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: sdpa_flop}


class Counter(TorchDispatchMode):
    """Count operations, kernels, the bytes that they read and write, and synchronisations; forward and backward.

    A kernel is an operation of ATen that is no view. What a compiler would fuse is counted apart, and what a composite
    operation does inside one kernel is not seen: the numbers compare two versions of the same computation.

    Attributes:
        flops: Of products, two a multiply-add.
        kernels: Number of calls.
        traffic: Bytes of their tensor arguments and results.
        syncs: Operations after which the host waits, were the tensors on a GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.kernels, self.traffic, self.syncs = 0, 0, 0, 0

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        """Call ``func`` and count it."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.overloadpacket in FLOPS:
            self.flops += FLOPS[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        by_mask = name in ('index', 'index_put', 'index_put_') and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in tree_leaves(args[1])
        )
        self.syncs += name in SYNCS or by_mask
        if not func.is_view and name not in ('detach', 'empty', 'empty_like', 'new_empty', '_local_scalar_dense'):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.kernels += 1
            self.traffic += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of the forward pass, two a multiply-add."""
    with Counter() as counter, torch.no_grad():
        call()
    return counter.flops


def kept_bytes(call: Callable[[], object], counts: Callable[[Tensor], bool] = lambda tensor: True) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters not counted.

    Args:
        call: The forward pass; what it returns is held until all is counted.
        counts: Which tensors are meant.
    """
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Of a weight a layer keeps a view, its transposed one.
        is_weight = isinstance(tensor if tensor._base is None else tensor._base, torch.nn.Parameter)
        if not is_weight and counts(tensor):
            # Held, so that its address is not used again.
            storages.setdefault(tensor.untyped_storage()._cdata, tensor.detach())
        # The tensor itself would hold the graph that holds it, and none of it would ever be freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = call()
    del out
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def graphs(module: torch.nn.Module, *args: object) -> int:
    """Number of graphs that ``torch.compile`` makes of a module; 1 is the best."""
    torch._dynamo.reset()
    return torch._dynamo.explain(module)(*args).graph_count


def seconds_of(call: Callable[[], object], device: str) -> float:
    """Processor time of a call, or on CUDA the time between two events."""
    if device == 'cpu':
        start = time.process_time()
        call()
        return time.process_time() - start
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    events[0].record()
    call()
    events[1].record()
    torch.cuda.synchronize()
    return events[0].elapsed_time(events[1]) / 1000


def interleaved(arms: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each arm; the arms take turns, after one call each to warm up."""
    for call in arms.values():
        call()
    times = [{name: seconds_of(call, device) for name, call in arms.items()} for _ in range(repeats)]
    return {name: median(run[name] for run in times) for name in arms}


def resident(key: str) -> int:
    """Bytes of ``VmRSS`` (now) or ``VmHWM`` (most ever) of this process; Linux only."""
    return int(re.search(rf'{key}:\s+(\d+)', Path('/proc/self/status').read_text())[1]) * 1024


def _resident_peak(build: Callable[..., Callable[[], object]], args: tuple, warm: tuple) -> int:
    torch.set_num_threads(1)
    if sys.platform == 'linux':
        # M_MMAP_THRESHOLD: give what is freed back at once, or the peak is that of glibc's heap, not of the tensors.
        ctypes.CDLL(None).mallopt(-3, 2**16)
    build(*warm)()  # libraries take memory of their own at their first call
    before = resident('VmRSS')
    build(*args)()
    return resident('VmHWM') - before


def _allocated_peak(build: Callable[..., Callable[[], object]], args: tuple, warm: tuple) -> int:
    build(*warm)()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    build(*args)()
    return torch.cuda.max_memory_allocated() - before


def peak_bytes(build: Callable[..., Callable[[], object]], args: tuple, warm: tuple, device: str) -> int:
    """Most memory that ``build(*args)()`` needs, over what there was before.

    Args:
        build: A function of a module: makes models and inputs and returns the call. Weights count.
        args: Of ``build``.
        warm: Arguments of a smaller case that is run before.
        device: ``'cpu'`` (resident memory of a fresh process; Linux) or ``'cuda'`` (torch's allocator, which counts
            tensors and needs no fresh process).
    """
    if device == 'cuda':
        return _allocated_peak(build, args, warm)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        return pool.submit(_resident_peak, build, args, warm).result()
