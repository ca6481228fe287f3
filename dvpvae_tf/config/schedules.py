"""Schedules that depend on the length of a run: the learning rate, and the momentum of the averaged weights."""

import math


def learning_rate_at(
    epoch: int, *, epochs: int, warmup_epochs: int, learning_rate: float, end_learning_rate: float
) -> float:
    """Learning rate of a whole epoch: linear warm-up, then a cosine counted from epoch 0 (Table 7).

    Args:
        epoch: the epoch, counted from 0.
        epochs: epochs in all.
        warmup_epochs: epochs of warm-up; 0 for none.
        learning_rate: the largest rate, reached in the last epoch of the warm-up.
        end_learning_rate: the rate that the cosine approaches.

    Returns:
        The learning rate.
    """
    if epoch < warmup_epochs:
        return learning_rate * (epoch + 1) / warmup_epochs
    cosine = (1 + math.cos(math.pi * epoch / epochs)) / 2
    return end_learning_rate + (learning_rate - end_learning_rate) * cosine


def ema_momentum_for(steps: int, momentum: float = 0.999) -> float:
    """Momentum of the weights' average: 0.999 as in Table 7, or less where the run is too short for it.

    Args:
        steps: training steps of the whole run.
        momentum: the momentum of a long run.

    Returns:
        `min(momentum, 1 - 10 / steps)`, and 0 (no averaging) below ten steps.
    """
    return max(0.0, min(momentum, 1 - 10 / steps))
