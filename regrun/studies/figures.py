"""What can be measured of a study's runs: a number for each arm and seed, from the tables and the weights they left.

A run that diverged has answered nothing rightly: its error is 1.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from regrun import ensembling
from regrun.studies import cocktails, equivalents, histories, paths, probes, trends, units
from regrun.studies.probes import error, outputs
from regrun.studies.runs import Run

if TYPE_CHECKING:
    from torch import nn


def scale_per_layer(run: Run) -> float:
    """By what a hidden layer multiplies the scale (root mean square) of activations before training, mean of all."""
    scales = [float(row["activation_rms"]) for row in run.tables.layers[run.cells["run_id"]][:-1]]
    return (scales[-1] / scales[0]) ** (1 / (len(scales) - 1)) if scales[-1] > 0 else 0.0


def unit_difference(run: Run) -> float:
    """The largest difference between weights of two units of a hidden layer to the same input, after training."""
    parameters = run.network().named_parameters()
    weights = [w.detach() for name, w in parameters if name.endswith("weight") and w.dim() > 1]
    return max(float((w - w[:1]).abs().max()) for w in weights[:-1])


def weight_norm(run: Run) -> float:
    """Norm of the last weights, biases and norms aside."""
    return math.sqrt(math.fsum(float(w.detach().square().sum()) for w in run.network().parameters() if w.dim() > 1))


def gain_scale(run: Run) -> float:
    """Root mean square of the gains of all norms after training; they start at 1."""
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.LayerNorm, torch.nn.GroupNorm)
    gains = torch.cat([norm.weight.detach() for norm in run.network().modules() if isinstance(norm, norms)])
    return float(gains.double().square().mean().sqrt())


def calibration_error(run: Run) -> float:
    """Expected calibration error on test by the last weights, 15 bins (Guo et al. 2017)."""
    log_p = outputs(run, run.network()).log_softmax(1).double().numpy()
    return ensembling.calibration_error(log_p, run.source.targets[run.source.test].numpy())


def lesioned_error(run: Run) -> float:
    """Test error without one of the blocks, mean over which."""
    return float(np.mean([error(run, outputs(run, one)) for one in paths.lesioned(run.network())]))


def train_mode_excess_error(run: Run) -> float:
    """By how much test error is higher where nobody has called eval()."""
    torch.manual_seed(int(run.cells["seed"]))
    return error(run, outputs(run, run.network().train())) - error(run, outputs(run, run.network()))


def train_mode_change(run: Run) -> float:
    """Share of test images that two evaluations without eval() class differently."""
    return _change(run, lambda: run.network().train())


def eval_mode_change(run: Run) -> float:
    """The largest difference between the logits of two evaluations in eval mode."""
    network = run.network()
    return float((outputs(run, network) - outputs(run, network)).abs().max())


def _change(run: Run, network: Callable[[], "nn.Module"]) -> float:
    torch.manual_seed(int(run.cells["seed"]))
    first, second = (outputs(run, network()).argmax(1) for _ in range(2))
    return float((first != second).double().mean())


ONE: dict[str, Callable[[Run], float]] = {
    "test_error": lambda run: run.error("test", "last"),
    "val_error": lambda run: run.error("val", "last"),
    "train_error": lambda run: run.error("train", "last"),
    "stopped_error": lambda run: run.error("test", "best"),
    "stopping_gain": lambda run: run.error("test", "last") - run.error("test", "best"),
    "kept_error": lambda run: run.error("test", "best" if run.stops else "last"),  # of the weights that one keeps
    "mc_gain": lambda run: run.error("test", "best") - (1 - run.number("test_accuracy_mc")),
    "mc_loss_ratio": lambda run: run.number("test_loss_mc") / run.number("test_loss_best"),
    "best_epoch": lambda run: run.number("best_epoch"),
    "best_epoch_share": lambda run: run.number("best_epoch") / run.number("trainer.epochs"),
    "trained_share": lambda run: run.number("last_epoch") / run.number("trainer.epochs"),
    "gap_loss": lambda run: run.number("test_loss_last") - run.number("train_loss_last"),
    "val_loss_rise": lambda run: run.number("val_loss_last") / run.number("val_loss_best"),
    "val_error_change": lambda run: run.error("val", "last") - run.error("val", "best"),
    "oscillation": lambda run: run.number("oscillation"),
    "test_loss": lambda run: run.number("test_loss_last"),
    "gap": trends.gap,
    "diverged": lambda run: float(not run.is_ok),
    "parameters": lambda run: run.number("num_parameters"),
    "zero_weights": lambda run: run.number("zero_weights"),
    "share_left_out": lambda run: run.number("acted.stochastic_depth"),
    "unique_share": lambda run: run.number("train_unique"),
    "weight_norm": weight_norm,
    "gain_scale": gain_scale,
    "lesioned_error": lesioned_error,
    "scale_per_layer": scale_per_layer,
    "unit_difference": unit_difference,
    "calibration_error": calibration_error,
    "train_mode_excess_error": train_mode_excess_error,
    "train_mode_change": train_mode_change,
    "eval_mode_change": eval_mode_change,
    **probes.ONE,
    **histories.ONE,
    **units.ONE,
}


def highest_lr(runs: Sequence[Run]) -> float:
    """The highest learning rate whose lowest val error is below 10 %; a third of the lowest one tried if none is."""
    rates = {run.number("optimizer.lr"): run.error("val", "best") for run in runs}
    return max((lr for lr, lowest in rates.items() if lowest < histories.GOOD), default=min(rates) / 3)


def lowest_on_val(runs: Sequence[Run]) -> Run:
    """The run with the lowest val error after the last epoch, the first of several."""
    return min(runs, key=lambda run: run.error("val", "last"))


def optimism(runs: Sequence[Run]) -> float:
    """Test error minus val error of the run that val chooses."""
    own = lowest_on_val(runs)
    return own.error("test", "last") - own.error("val", "last")


def spread_of_tuned_error(runs: Sequence[Run]) -> float:
    """The largest minus the smallest `tuned_error` of the values of the setting that runs vary beside lr."""
    by_setting: dict[float, list[Run]] = defaultdict(list)
    for at, run in zip(trends.ladder(runs), runs, strict=True):
        by_setting[at].append(run)
    errors = [cocktails.tuned_error(own) for own in by_setting.values()]
    return max(errors) - min(errors)


def weight_distance(runs: Sequence[Run]) -> float:
    """Distance between the last weights of the first two runs, relative to the first one's norm."""
    return equivalents.distance(runs[0].network(), runs[1].network())


def member_error(runs: Sequence[Run]) -> float:
    """Mean test error of the runs."""
    return float(np.mean([run.error("test", "last") for run in runs]))


def ensemble_error(runs: Sequence[Run]) -> float:
    """Test error of the mean of the runs' probabilities, by their last weights."""
    p = torch.stack([outputs(run, run.network()).softmax(1) for run in runs]).mean(0)
    return error(runs[0], p)


SEVERAL: dict[str, Callable[[Sequence[Run]], float]] = {
    "highest_lr": highest_lr,
    "tuned_error": cocktails.tuned_error,
    "single_gain": cocktails.single_gain,
    "cocktail_gain": cocktails.cocktail_gain,
    "cocktail_wins": cocktails.cocktail_wins,
    "weight_distance": weight_distance,
    "chosen_error": lambda runs: lowest_on_val(runs).error("test", "last"),
    "chosen_optimism_gap": optimism,
    "fewest_epochs_to_target": lambda runs: min(map(histories.epochs_to_target, runs)),
    "chosen_setting": trends.chosen,
    "spread_of_test_error": trends.spread(lambda run: run.error("test", "last")),
    "spread_of_tuned_error": spread_of_tuned_error,
    "slope_of_train_error": trends.slope(lambda run: run.error("train", "last")),
    "slope_of_test_error": trends.slope(lambda run: run.error("test", "last")),
    "slope_of_gap": trends.slope(trends.gap),
    "largest_rise_of_test_error": trends.largest_rise(lambda run: run.error("test", "last")),
    "largest_rise_of_train_error": trends.largest_rise(lambda run: run.error("train", "last")),
    "member_error": member_error,
    "ensemble_error": ensemble_error,
    "ensembling_gain": lambda runs: member_error(runs) - ensemble_error(runs),
}


def is_known(figure: str) -> bool:
    """Whether it is measured of runs; others are computed without any."""
    return figure in ONE or figure in SEVERAL


def measured(figure: str, runs: Sequence[Run]) -> float:
    """A figure of an arm's runs of one seed; of the first one where it is a figure of one run."""
    return SEVERAL[figure](runs) if figure in SEVERAL else ONE[figure](runs[0])
