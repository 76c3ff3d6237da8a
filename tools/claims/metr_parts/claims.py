"""The claims, from the numbers of the arms, in the format of the project's evidence files."""

import statistics
from collections.abc import Sequence

import numpy as np

from . import data as digits
from .evaluate import CONFUSION_SCORE
from .model import TOP_K

FINETUNE_ITERS = 150


class Evidence:
    """Numbers of all arms, and claims about them."""

    def __init__(self, results: dict[str, dict[int, dict]]) -> None:
        self.results = results
        self.claims: list[dict] = []

    def ap(self, arm: str, names: Sequence[str], test: str | None = None) -> dict[int, float]:
        """Mean AP50 of some names, by seed; ``test`` is an arm's second test."""
        found = {seed: result[test] if test else result for seed, result in self.results[arm].items()}
        return {seed: np.mean([r['ap50'][name] for name in names]).item() for seed, r in found.items()}

    def get(self, arm: str, key: str) -> dict[int, float]:
        """Another number of an arm, by seed."""
        return {seed: result[key] for seed, result in self.results[arm].items()}

    def add(self, claim: str, expected: str, arms: list[tuple[str, str, dict]], higher: list[tuple]) -> None:
        """Add a claim.

        Args:
            claim: What the paper says.
            expected: Direction.
            arms: Name, metric, values by seed.
            higher: ``(better, worse, slack)``, values by seed: the first must be above the second minus the slack.
        """
        known = all(value is not None for *both, _ in higher for values in both for value in values.values())
        pairs = [[(a[s], b[s] - slack) for s in a] for a, b, slack in higher] if known else []
        every_seed = known and all(a > b for pair in pairs for a, b in pair)
        in_mean = known and all(sum(a for a, _ in pair) > sum(b for _, b in pair) for pair in pairs)
        rows = []
        for name, metric, values in arms:
            known_values = [value for value in values.values() if value is not None]
            mean = round(statistics.mean(known_values), 4) if known_values else None
            std = round(statistics.stdev(known_values), 4) if len(known_values) > 1 else None
            rows.append(dict(name=name, metric=metric, mean=mean, std=std, seeds=list(values)))
        holds = True if every_seed else None if in_mean or not known else False
        source = 'abstract; small experiment of ours'
        self.claims.append(dict(claim=claim, source=source, expected=expected, holds=holds, arms=rows))


def negative(values: dict[int, float | None]) -> dict[int, float | None]:
    """Values of which less is better, turned around."""
    return {seed: None if value is None else -value for seed, value in values.items()}


def make_claims(results: dict) -> list[dict]:
    """Return the claims in the format of the project's evidence files."""
    e = Evidence(results)
    joint8, unmasked8 = e.ap('joint', digits.SINGLE), e.ap('joint_unmasked', digits.SINGLE)
    eight = 'AP50, eight names that one set annotates'
    e.add(
        'Datasets with different label spaces are pretrained jointly, although objects that only another set annotates '
        'are in the images',
        'leaving un-annotated names out of the losses (ours, not in the paper) gives a higher AP50 than taking them as '
        'absent (the released code)',
        [('joint, un-annotated names masked', eight, joint8), ('joint, not masked', eight, unmasked8)],
        [(joint8, unmasked8, 0)],
    )  # fmt: skip
    arms, pairs = [], []
    for text, names in (('A', digits.A), ('B', digits.B)):
        one, half = f'only_{text.lower()}', f'half_{text.lower()}'
        for metric, chosen, slack in (
            (f'AP50, names of {text}', names, 0.02),
            ('AP50, two shared names', digits.SHARED, 0),
        ):
            joint = e.ap('joint', chosen)
            arms += [
                ('joint', metric, joint),
                (f'{text} only, as many iterations', metric, e.ap(one, chosen)),
                (
                    f'control: {text} only, half of them, as joint training has on images of {text}',
                    metric,
                    e.ap(half, chosen),
                ),
            ]
            arms.append(('control: joint, all ten names kept at test', metric, e.ap('joint', chosen, 'all_names')))
            pairs.append((joint, e.ap(one, chosen), slack))
    arms = list({(name, metric): (name, metric, values) for name, metric, values in arms}.values())
    e.add(
        'Joint training on several datasets is good for each',
        'joint is not worse (by more than 0.02 AP50) on the names of each set, and better on the two shared names',
        arms,
        pairs,
    )
    everything = 'AP50, ten names'
    wrong = f'wrong name among detections in the right place, score ≥ {CONFUSION_SCORE}'
    best = 'wrong name of the best detection of a found box'
    numbers = {
        arm: [e.ap(arm, digits.DIGITS), *(e.get(arm, key) for key in ('confusion', 'best_wrong'))]
        for arm in ('joint', 'blind')
    }
    e.add(
        'Group bipartite matching: a box may match only queries of its category',
        'higher AP50 and less confusion than one matching that ignores categories',
        [
            (name, metric, values)
            for arm, name in (('joint', 'group matching'), ('blind', 'one matching, categories ignored'))
            for metric, values in zip((everything, wrong, best), numbers[arm], strict=True)
        ],
        [
            (numbers['joint'][0], numbers['blind'][0], 0),
            *((negative(numbers['joint'][i]), negative(numbers['blind'][i]), 0) for i in (1, 2)),
        ],
    )
    joint10, random10 = (e.ap(arm, digits.DIGITS) for arm in ('joint', 'random'))
    recall = f'recall of present names among the {TOP_K} kept'
    kept = [e.get(arm, 'kept_recall') for arm in ('joint', 'random')]
    every = e.ap('joint', digits.DIGITS, 'all_names')
    e.add(
        'The category extraction module finds the names that are in an image',
        'higher recall of present names and higher AP50 than names drawn at random',
        [
            ('CEM, top 5', recall, kept[0]),
            ('random 5', recall, kept[1]),
            ('CEM, top 5', everything, joint10),
            ('random 5', everything, random10),
            ('control: weights of "CEM, top 5", all ten names kept at test', everything, every),
            *(
                (
                    'CEM',
                    f'recall of present names at K={k}',
                    {s: r['cem_recall'][k - 1] for s, r in results['joint'].items()},
                )
                for k in range(1, 11)
            ),
        ],
        [(*kept, 0), (joint10, random10, 0)],
    )
    new = {arm: e.ap(arm, digits.NEW) for arm in ('finetune', 'scratch', 'scratch_long')}
    metric = 'AP50, three names that pretraining never saw'
    e.add(
        'Pretraining on several datasets helps finetuning on another label space',
        f'{FINETUNE_ITERS} iterations on 60 images: higher AP50 than from scratch, also than from scratch with as many '
        'iterations as both stages have',
        [
            ('pretrained, finetuned', metric, new['finetune']),
            ('from scratch', metric, new['scratch']),
            ('control: from scratch, iterations of both stages', metric, new['scratch_long']),
        ],
        [(new['finetune'], new['scratch'], 0), (new['finetune'], new['scratch_long'], 0)],
    )
    return e.claims
