"""Are refined scores calibrated on images that the curves were not fitted on? All detectors, and their fusion."""

import numpy as np

from experiments.frame.claims import Claim, Found, Row
from experiments.frame.tasks import Context
from experiments.frame.verdict import Comparison
from experiments.prae.data import load
from mmplugins.prae import fit, fit_config
from mmplugins.prae.calibration.reliability import ece
from mmplugins.prae.tuning.folds import pick
from mmplugins.prae.tuning.held_out import Held, calibrate_fused, hold_out

RESAMPLES = 200


def calibration(arm: str, seed: int, context: Context) -> dict:
    """Find calibration errors of all detectors and of their fusion, by curves of other images."""
    gt, tables = load(context.data)
    if context.quick:
        gt, tables = pick(gt, tables, np.arange(100))
    held = hold_out(tables, gt, fit_config())
    _, fused = calibrate_fused(fit(tables, gt), held, gt)
    resamples = 5 if context.quick else RESAMPLES
    return {
        name: dict(errors=one.errors(gt), interval=gain_interval(one, len(gt.dataset), resamples))
        for name, one in {**held, 'fused': fused}.items()
    }


def gain_interval(held: Held, num_images: int, resamples: int) -> tuple[float, float]:
    """Find the 95 % interval of ECE after minus ECE before, bootstrapped over images."""
    use = np.flatnonzero(held.counts & np.isfinite(held.score))
    generator, found = np.random.default_rng(0), []
    for _ in range(resamples):
        times = np.bincount(generator.integers(0, num_images, num_images), minlength=num_images)
        rows = np.repeat(use, times[held.table.image[use]])
        before, after = (ece(score[rows], held.value[rows]) for score in (held.table.score, held.score))
        found.append(after - before)
    return tuple(np.quantile(found, (0.025, 0.975)).tolist())


def calibration_claim(found: Found) -> Claim:
    """Errors fall on images that the curves were not fitted on."""
    every = found.first('calibration', 'E')
    every = {name: value for name, value in every.items() if isinstance(value, dict)}
    judged, shown = [], []
    for name, one in every.items():
        for measure, (raw, refined) in one['errors'].items():
            shown += [Row(f'{name}, raw', measure, {0: raw}), Row(f'{name}, refined', measure, {0: refined})]
        raw, refined = one['errors']['ECE']
        what = f'{name}, refined minus raw', 'ECE', {0: refined - raw}
        judged.append(Comparison(*what, below=0, interval=tuple(one['interval']), unit='images'))
    text = 'ECE lower after refinement, of each detector and of the fused boxes'
    return Claim('Scores are calibrated on images that were held out', 'ours', text, judged, shown)
