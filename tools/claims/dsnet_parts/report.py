"""The claims, from the numbers of the arms, in the format of the project's evidence files."""

import statistics

import torch
from torch.utils.flop_counter import FlopCounterMode

from mmplugins.dsnet import DSNet

from .arms import ALIGNED, ARMS

# Millions of parameters and GMACs at 224, 1000 classes, of the models with a star: documentation of PaddleClas.
PUBLISHED = dict(tiny=(10.5, 1.8), small=(23.0, 3.5), base=(49.3, 8.4))
LOCAL, GLOBAL, DUAL, WIDER = (name for name in ARMS if name != ALIGNED)
FULL = 'abstract; small experiment of ours'
Results = dict[str, dict[int, dict]]  # arm -> seed -> what was measured


def row(name: str, metric: str, values: list[float], seeds: list[int]) -> dict:
    """One arm: mean and, of two values or more, standard deviation."""
    std = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return dict(name=name, metric=metric, mean=round(statistics.mean(values), 4), std=std, seeds=seeds)


def answer(differences: list[float]) -> bool | None:
    """True if all differences are above zero, None if only their mean is, else False."""
    if all(difference > 0 for difference in differences):
        return True
    return None if statistics.mean(differences) > 0 else False


def differences(results: Results, ours: str, other: str) -> list[float]:
    """Paired differences of two arms."""
    return [results[ours][seed]['score'] - results[other][seed]['score'] for seed in sorted(results[ours])]


def rows_of(results: Results, metric: str) -> list[dict]:
    """Score and parameters of every arm."""
    seeds = sorted(next(iter(results.values())))
    rows = [row(name, metric, [found[s]['score'] for s in seeds], seeds) for name, found in results.items()]
    return rows + [row(name, 'parameters', [found[seeds[0]]['parameters']], []) for name, found in results.items()]


def compare(results: Results, metric: str, pairs: list[tuple[str, str]]) -> dict:
    """``holds`` and ``arms`` of the claim that the first of each pair is better in every seed."""
    found = [differences(results, *pair) for pair in pairs]
    answers = [answer(values) for values in found]
    holds = True if all(answers) else False if False in answers else None
    seeds = sorted(results[pairs[0][0]])
    metric = f'{metric}, paired difference'
    rows = [row(f'{a} minus {b}', metric, values, seeds) for (a, b), values in zip(pairs, found, strict=True)]
    return dict(holds=holds, arms=rows)


def size_claim(expected: dict[str, tuple[float, float]] = PUBLISHED) -> dict:  # noqa: B006
    """Parameters and multiplications against the published ones; nothing is trained."""
    arms, holds = [], True
    for arch, published in expected.items():
        with torch.device('meta'), FlopCounterMode(display=False) as counter:
            net = DSNet(arch).eval()
            net(torch.empty(1, 3, 224, 224))
            millions = (sum(parameter.numel() for parameter in net.parameters()) + 513 * 1000) / 1e6
        measured = millions, counter.get_total_flops() / 2e9
        for metric, ours, theirs in zip(('million parameters', 'GMACs at 224'), measured, published, strict=True):
            arms += [row(arch, metric, [ours], []), row(f'{arch}, published', metric, [theirs], [])]
            # Ours does the projections of the global stream where it is small, so it multiplies less.
            holds &= abs(ours - theirs) <= 0.05 if metric.startswith('million') else ours <= theirs + 0.05
    text = 'parameters equal after rounding, GMACs not above the published ones'
    return dict(claim='The sizes are the published ones', source='PaddleClas', expected=text, holds=holds, arms=arms)


def make_claims(classify: Results, pairs: Results, detect: Results) -> list[dict]:
    """Return the claims from the results of the three tasks."""
    photos = next(iter(classify[ALIGNED].values()))
    top1 = f'top-1 in percent, {photos["test_images"]} photos'
    same = f'top-1 in percent, {next(iter(pairs[ALIGNED].values()))["test_images"]} pairs'
    singles = [(ours, single) for ours in (DUAL, ALIGNED) for single in (LOCAL, GLOBAL)]
    majority = row('always the most frequent class', top1, [photos['majority']], [])
    return [
        size_claim(),
        dict(
            claim='Two streams are better than either alone, photos',
            source='ablation of the channel ratio, without alignment; small experiment of ours',
            expected='two streams above the local and above the global one in every seed',
            holds=compare(classify, top1, [(DUAL, LOCAL), (DUAL, GLOBAL)])['holds'],
            arms=rows_of(classify, top1) + [majority] + compare(classify, top1, singles)['arms'],
        ),
        dict(
            claim='The alignment helps, photos',
            source=FULL,
            expected='the aligned arm above two streams, and above wider ones of no fewer weights, in every seed',
            **compare(classify, top1, [(ALIGNED, DUAL), (ALIGNED, WIDER)]),
        ),
        dict(
            claim='The alignment relates what is far apart, pairs of digits (made for this after the photos)',
            source='ours: the mechanism, not the accuracy',
            expected='the aligned arm above all others in every seed',
            holds=compare(pairs, same, [(ALIGNED, name) for name in pairs if name != ALIGNED])['holds'],
            arms=rows_of(pairs, same)
            + compare(pairs, same, [(ALIGNED, name) for name in pairs if name != ALIGNED])['arms'],
        ),
        dict(
            claim='DS-FPN is better than FPN, blood cells',
            source='paper; details of DS-FPN are ours, small experiment of ours',
            expected='DS-FPN above FPN in every seed (it has more weights, and there is no control of its size)',
            holds=compare(detect, 'AP50, 72 images', [('DS-FPN', 'FPN')])['holds'],
            arms=rows_of(detect, 'AP50, 72 images')
            + compare(detect, 'AP50, 72 images', [('DS-FPN', 'FPN')])['arms']
            + [
                row(name, 'processor seconds of training', [r['cpu_seconds'] for r in found.values()], sorted(found))
                for name, found in detect.items()
            ],
        ),
    ]
