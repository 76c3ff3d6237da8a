"""Speed and memory of METR's decoder and matcher against what mmdet's own classes would do on the same work.

Decoder, forward and backward, same weights and inputs: one memory an image, against mmdet's decoder on a batch of
``B K`` with memory, references and valid ratios repeated ``K`` times, and against mmdet's on ``K Q`` queries at once,
whose self-attention is masked to the groups.

Matcher: groups, against one mmdet ``HungarianAssigner`` over all ``K Q`` queries. The baseline gets the same boxes, and
the same logits in a ``(K Q, K)`` matrix, each query's in the column of its category and -20 elsewhere; making the
matrix is not timed. It solves another problem (it may pair across categories), which is why ours is compared with
brute force and not with it.

Start of a rank: mmdet's own data set, the rank that parses and writes the samples, and one that finds them written.
"""

from collections.abc import Iterator
from functools import partial

import torch
from mmdet.models.task_modules.assigners import HungarianAssigner
from mmdet.utils import register_all_modules

from experiments.frame.benchmark import Benchmark, Bound, Case, Measured, Options, ratio
from experiments.metr.decoder_case import FULL, QUICK, DecoderCase, build_step
from experiments.metr.loading_case import starts
from experiments.metr.matching import IMAGE_SIZE, check_matching, matching_case
from mmplugins.metr.group_assigner import GroupHungarianAssigner
from mmplugins.metr.head import FOCAL_COSTS

META = dict(img_shape=(int(IMAGE_SIZE),) * 2)


def check(options: Options) -> None:
    """Compare the decoders, and the matcher with brute force.

    In float64: in float32 a sampling point next to the border of a cell may round to either side, and its gradient
    jumps there.

    Raises:
        AssertionError: They differ.
    """
    register_all_modules()
    case = DecoderCase(64, options.device, torch.float64, **QUICK)
    for arm in ('plain', 'masked'):
        for ours, theirs in zip(case.gradients('ours'), case.gradients(arm), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.detach().abs().max()))
    assigner = GroupHungarianAssigner(match_costs=FOCAL_COSTS)
    check_matching(assigner, matching_case(4, 20, 100, 30, options.device), META, exhaustive=False)
    check_matching(assigner, matching_case(8, 4, 5, 5, options.device), META, exhaustive=True)


def cases(options: Options) -> Iterator[Case]:
    """The decoder at two widths of its FFN, and the matcher."""
    sizes = QUICK if options.quick else FULL
    for ffn in (32, 64) if options.quick else (1024, 2048):
        case = DecoderCase(ffn, options.device, **sizes)
        small = (32, options.device, QUICK)
        yield Case(
            f'decoder, FFN {ffn}',
            case.arms(),
            'plain',
            peaks={arm: (build_step, (arm, ffn, options.device, sizes), (arm, *small)) for arm in case.decoders},
            given={arm: dict(memory_side=case.memory_side(arm)) for arm in case.decoders},
        )
    group, plain = GroupHungarianAssigner(match_costs=FOCAL_COSTS), HungarianAssigner(match_costs=FOCAL_COSTS)
    images = matching_case(*((1, 3, 10, 4) if options.quick else (4, 20, 100, 30)), options.device)
    arms = dict(
        ours=lambda: [group.assign(ours, gt, META) for ours, _, gt in images],
        plain=lambda: [plain.assign(pred, gt, META) for _, pred, gt in images],
    )
    yield Case('matching', arms, 'plain', repeats=15)
    if options.device == 'cpu':
        num_boxes = 12_000 if options.quick else 2_000_000
        yield Case(f'start on {num_boxes:,} boxes', {}, 'mmdet', given=starts(num_boxes))


def bounds(measured: Measured) -> list[Bound]:
    """The worst of both widths."""
    decoders = [case for case in measured if case.startswith('decoder')]
    over = partial(ratio, measured, ours='ours', theirs='plain')
    worst = {key: max(over(case, key=key) for case in decoders) for key in ('seconds', 'peak', 'memory_side')}
    masked = max(over(case, theirs='masked', key='seconds') for case in decoders)
    once = 'one memory an image, not one for each category'
    mapped = 'samples lie in one file that all ranks map; what is counted are the pages of 1,000 of them'
    return [
        Bound('decoder, time over mmdet on copies', worst['seconds'], 0.3, once),
        Bound('decoder, time over mmdet with a mask', masked, 0.8, 'self-attention within groups: a K-th of the pairs'),
        Bound('decoder, peak memory over mmdet on copies', worst['peak'], 0.55, once),
        Bound('decoder, bytes kept on the side of the memory', worst['memory_side'], 0.1, 'counted: 1 / K'),
        Bound('matching, time over mmdet', over('matching', key='seconds'), 0.2, 'K small assignments for a large one'),
        *(
            Bound('memory of a further rank over mmdet', ratio(measured, case, 'further', 'mmdet', 'peak'), 0.1, mapped)
            for case in measured
            if case.startswith('start')  # on the CPU alone
        ),
    ]


BENCHMARK = Benchmark(cases=cases, bounds=bounds, check=check)
