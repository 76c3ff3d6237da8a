"""The claims, from the numbers of the arms, in the format of the project's evidence files."""

import statistics

from .approximate import EXACT

SOURCE = 'abstract; small experiment of ours'


def row(name: str, metric: str, values: list[float], seeds: list[int]) -> dict:
    """One arm: mean and, of two values or more, standard deviation."""
    std = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return dict(name=name, metric=metric, mean=round(statistics.mean(values), 4), std=std, seeds=seeds)


def answer(differences: list[float]) -> bool | None:
    """True if all differences are above zero, None if only their mean is, else False."""
    if all(difference > 0 for difference in differences):
        return True
    return None if statistics.mean(differences) > 0 else False


def compare(results: dict[str, dict[int, dict]], key: str, metric: str, base: str = 'Identity') -> list[dict]:
    """Rows of all arms, and of the differences from the base, paired over seeds."""
    seeds = sorted(results[base])
    rows = [row(name, metric, [found[s][key] for s in seeds], seeds) for name, found in results.items()]
    for name, found in results.items():
        if name != base:
            pairs = [found[seed][key] - results[base][seed][key] for seed in seeds]
            rows.append(row(f'{name} minus {base}', f'{metric}, paired difference', pairs, seeds))
    return rows


def differences(results: dict[str, dict[int, dict]], key: str, ours: str, other: str) -> list[float]:
    """Paired differences of two arms."""
    return [results[ours][seed][key] - results[other][seed][key] for seed in sorted(results[ours])]


def above_all(classify: dict[str, dict[int, dict]], *others: str) -> list[float]:
    """By how much the gate is above the best of the others, in each seed."""
    return list(map(min, *(differences(classify, 'top1', 'SPSA gate', other) for other in others)))


def make_claims(classify: dict, detect: dict, near: dict, slopes: dict) -> list[dict]:
    """Return the claims.

    Args:
        classify: Arm -> seed -> what ``classify.train`` returns.
        detect: Arm -> seed -> what ``detect.train`` returns.
        near: What ``approximate.measure`` returns.
        slopes: Layer -> exponent of processor time over tokens.
    """
    seeds = sorted(classify['Identity'])
    first = {name: found[seeds[0]] for name, found in classify.items()}
    images = first['Identity']['test_images']
    top1 = f'top-1 in percent, {images} images'
    claims = [
        dict(
            claim='It has no training parameters',
            expected='the network with SPSA has as many parameters as the one without any mixer',
            holds=first['SPSA gate']['parameters']
            == first['Identity']['parameters']
            == first['SPSA agg']['parameters'],
            arms=[row(name, 'parameters', [found['parameters']], seeds[:1]) for name, found in first.items()],
        ),
        dict(
            claim='Its complexity is linear in the number of tokens',
            expected='exponent of processor time at most 1.1, 784 to 12,544 tokens (attention: 784 to 3,136)',
            holds=slopes['SPSA gate'] <= 1.1,
            arms=[row(name, 'exponent', [slope], []) for name, slope in slopes.items()],
        ),
    ]
    pearson, dot = (near[kind] for kind in EXACT)
    error = pearson['error']
    rows = [
        row(name, f'{metric}, {kind}', [value], [])
        for kind, found in near.items()
        for metric, values in (('relative error', found['error']), ('cosine', found['cosine']))
        for name, value in values.items()
    ]
    rows += [
        row('gate', f'rank correlation with the attention a token receives, {kind}', [found['rank'][0]], [])
        for kind, found in near.items()
    ]
    claims.append(
        dict(
            claim='It approximates self-attention',
            expected='against softmax attention over correlations: error of agg below that of the mean token, that '
            'below 1, and rank correlation of the gate with the attention that a token receives above 0.6',
            holds=error['agg'] < error['mean token'] < 1 and pearson['rank'][0] > 0.6,
            arms=rows,
        )
    )
    # Stated apart: what users may expect from the title and do not get.
    gap = dot['error']['the token itself'] - dot['error']['gate, 1 + rho']
    claims.append(
        dict(
            claim='The output of the gate is close to that of attention over dot products (ours to ask, not claimed)',
            expected='a smaller error than the token itself has, without any attention',
            holds=gap > 0,
            arms=[row(name, f'relative error, {EXACT[1]}', [dot['error'][name]], []) for name in
                  ('gate, 1 + rho', 'agg', 'the token itself')],
        )
    )  # fmt: skip
    rows = compare(classify, 'top1', top1)
    rows.append(row('always the most frequent class', top1, [first['Identity']['majority']], []))
    claims += [
        dict(
            claim='With convolution it is better than convolution alone, image classification',
            expected='the gate above Identity in every seed',
            holds=answer(differences(classify, 'top1', 'SPSA gate', 'Identity')),
            arms=rows,
        ),
        dict(
            claim='It is better than the gates that it is nearest to, SimAM and SGE, image classification',
            expected='the gate above both in every seed',
            holds=answer(above_all(classify, 'SimAM', 'SGE')),
            arms=[
                row(f'SPSA gate minus {other}', f'{top1}, paired difference',
                    differences(classify, 'top1', 'SPSA gate', other), seeds)
                for other in ('SimAM', 'SGE')
            ],
        ),
        dict(
            claim='It is as good as self-attention, image classification (ours to ask, not claimed)',
            expected='the gate above MHSA, with and without the token added, in every seed',
            holds=answer(above_all(classify, 'MHSA', 'MHSA + token')),
            arms=[row(f'SPSA gate minus {other}', f'{top1}, paired difference',
                      differences(classify, 'top1', 'SPSA gate', other), seeds) for other in ('MHSA', 'MHSA + token')]
            + [row(name, 'processor seconds of training', [found[s]['cpu_seconds'] for s in seeds], seeds)
               for name, found in classify.items()],
        ),
        dict(
            claim='With convolution it is better than convolution alone, object detection',
            expected='the gate above Identity in every seed',
            holds=answer(differences(detect, 'ap50', 'SPSA gate', 'Identity')),
            arms=compare(detect, 'ap50', 'AP50, 72 images'),
        ),
    ]  # fmt: skip
    return [dict(claim, source=SOURCE) for claim in claims]
