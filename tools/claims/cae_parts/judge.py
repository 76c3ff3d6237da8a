"""What the arms say about the claims, as JSON and as a figure."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

PROBES = ('10-shot', '10-NN', 'all labels')


def values(results: dict, name: str, probe: str) -> list[float]:
    """One number a seed."""
    return [result['mean'][probe] for result in results[name].values()]


def mean(results: dict, name: str, probe: str) -> float:
    """Mean over seeds."""
    return float(np.mean(values(results, name, probe)))


def rows(results: dict, names: Sequence[str], probes: Sequence[str] = PROBES) -> list[dict]:
    """Arms of a claim, percent."""
    found = []
    for name in names:
        for probe in probes:
            numbers = values(results, name, probe)
            std = round(float(np.std(numbers, ddof=1)), 3) if len(numbers) > 1 else None
            found.append(
                dict(name=name, metric=f'{probe} (%)', mean=round(float(np.mean(numbers)), 3), std=std,
                     seeds=sorted(results[name]))
            )  # fmt: skip
    return found


def with_all_tokens(results: dict) -> dict:
    """Add the arms that are also probed on all patch tokens side by side, which keep their places as pixels do."""
    names = ('random init', 'CAE v1', 'CAE v2, visible')
    more = {f'{name}, all tokens': {s: dict(mean=r['all_tokens']) for s, r in results[name].items()} for name in names}
    return results | more


def make_claims(results: dict, where: dict, teacher: float) -> list[dict]:
    """List of claims with source, verdict and arms."""

    def entry(claim: str, source: str, expected: str, holds: bool | None, arms: list[dict]) -> dict:
        return dict(claim=claim, source=source, expected=expected, holds=holds, arms=arms, **where)

    def ahead(one: str, other: str, probe: str) -> float:
        return mean(results, one, probe) - mean(results, other, probe)

    random, pixels, untrained = 'random init', 'raw pixels', 'random init, all tokens'
    v1, visible, masked, both = 'CAE v1', 'CAE v2, visible', 'CAE v2, masked', 'CAE v2, both'
    few = PROBES[:2]
    found = [
        entry(
            'Pretraining helps: probes of CAE v1 and of CAE v2 are above the same encoder at random init',
            'both papers', 'at least 5 points ahead on 10-shot and 10-NN',
            all(ahead(name, random, probe) >= 5 for name in (v1, visible) for probe in few),
            rows(results, [random, v1, visible]),
        ),
        *(
            entry(
                f'The features of {title}, averaged over all places, are also above the raw pixels',
                'ours', 'ahead on 10-shot and 10-NN',
                all(ahead(name, pixels, probe) > 0 for probe in few),
                rows(results, [pixels, name]),
            )
            for title, name in (('CAE v2', visible), ('CAE v1', v1))
        ),
        *(
            entry(
                f'The tokens of {title}, side by side as the pixels are, are above the raw pixels and random init',
                'ours', 'ahead of both on 10-shot and 10-NN',
                all(ahead(f'{name}, all tokens', other, probe) > 0 for other in (pixels, untrained) for probe in few),
                rows(results, [pixels, untrained, f'{name}, all tokens']),
            )
            for title, name in (('CAE v2', visible), ('CAE v1', v1))
        ),
        entry(
            f'Supervision of visible tokens alone beats that of masked tokens alone (teacher {teacher:.1f} %)',
            'abstract of CAE v2', 'visible not below masked on 10-shot and 10-NN',
            all(ahead(visible, masked, probe) >= 0 for probe in few),
            rows(results, [visible, masked, both]),
        ),
    ]  # fmt: skip
    ratio = {(dim, hidden): f'CAE v2, width {dim}, {hidden} of 36 masked' for dim in (12, 64) for hidden in (5, 16)}
    penalty = {(dim, probe): ahead(ratio[dim, 5], ratio[dim, 16], probe) for dim in (12, 64) for probe in few}
    found += [
        entry(
            'The smaller the model, the lower the mask ratio that suits it: masking 44 % instead of 14 % costs the '
            'small student more than the large one',
            'abstract of CAE v2', 'a larger drop at width 12 than at 64, on 10-shot and 10-NN',
            all(penalty[12, probe] > penalty[64, probe] for probe in few),
            rows(results, list(ratio.values())),
        ),
        entry(
            'Without the reconstruction CAE learns less',
            'CAE', 'CAE above alignment only, on all three probes',
            all(ahead(v1, 'CAE v1, alignment only', probe) > 0 for probe in PROBES),
            rows(results, [v1, 'CAE v1, alignment only']),
        ),
        entry(
            'Alignment and decoder each help',
            'CAE', '+1.0 and +2.1 points of the linear probe there; below the noise here, so nothing is asserted', None,
            rows(results, [v1, 'CAE v1, no alignment', 'CAE v1, no decoder', 'CAE v1, neither']),
        ),
    ]  # fmt: skip
    supervised = 'supervised, 10 labels a class'
    arms = rows(results, [visible], ['10-shot'])
    arms += rows(results, [supervised, 'supervised, all labels'], ['accuracy'])
    holds = mean(results, visible, '10-shot') > mean(results, supervised, 'accuracy')
    claim = 'With ten labels a class, a probe of CAE v2 beats the same encoder trained on those labels'
    found.append(entry(claim, 'ours', '10-shot probe above supervised', holds, arms))
    return found


def draw(results: dict, path: Path) -> None:
    """Bars of the two probes that tell the arms apart, with every seed as a point."""
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    names = [name for name in results if not name.startswith('supervised')]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    for axis, probe in zip(axes, PROBES[:2], strict=True):
        for row, name in enumerate(names):
            numbers = values(results, name, probe)
            color = 'tab:blue' if 'v2' in name else 'tab:orange' if 'v1' in name else 'tab:gray'
            axis.barh(row, np.mean(numbers), color=color, alpha=0.6)
            axis.plot(numbers, [row] * len(numbers), 'k.', markersize=4)
        axis.set(xlabel=f'{probe}, % of test digits', xlim=(40, 100))
    axes[0].set_yticks(range(len(names)), names, fontsize=8)
    axes[0].invert_yaxis()
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    plt.close(figure)
