"""Optimizers of libraries: of torch.optim, of pytorch_optimizer, and any class that is made as theirs are.

What differs between them is said here once; the update rules are theirs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer

from paceline.errors import UsageError, nearest

Build = Callable[[Iterable[Parameter], dict[str, Any]], Optimizer]

# Arguments that the card of a registered name leaves no choice about.
SETTLED: dict[str, dict[str, Any]] = {
    "sgd-nesterov": {"nesterov": True},
    # decay inside the trust ratio, as in the paper; the library's default step is divided by the correction of the
    # first moment only, so that it begins ten times too long
    "lamb": {"weight_decouple": False, "adam_debias": True},
}
# Hyperparameters are numbers, flags and words; these the libraries take as one tuple.
TUPLES = {"betas": ("beta1", "beta2", "beta3"), "eps": ("eps1", "eps2")}
# The quickest way to update many tensors that torch has; its own default on a CPU is a loop over them. Those of
# pytorch_optimizer take theirs by themselves.
KERNELS = ("fused", "foreach")


def adapt(optimizer: type[Optimizer], name: str) -> Build:
    """What builds such an optimizer from hyperparameters: as they are, ``"auto"`` for None.

    Args:
        name: by which it was asked for.
    Raises: UsageError if the class is no optimizer, or, of the builder, if it has no such hyperparameter.
    """
    if not issubclass(optimizer, Optimizer):
        raise UsageError(
            f"optimizer '{name}' is a class, but no torch.optim.Optimizer; give one that is, or a function "
            "build(parameters, hyperparameters)"
        )
    return partial(_build, optimizer, name)


def _build(
    optimizer: type[Optimizer], name: str, parameters: Iterable[Parameter], hyperparameters: dict[str, Any]
) -> Optimizer:
    accepted = dict(inspect.signature(optimizer).parameters)
    given = _gathered(hyperparameters, accepted)
    named = {key for key, one in accepted.items() if one.kind is not inspect.Parameter.VAR_KEYWORD} - {"params"}
    for key in given.keys() - named:  # many take whatever they are given, and make nothing of it
        raise UsageError(f"optimizer '{name}' has no hyperparameter '{key}'; {nearest(key, named)}")
    if optimizer.__module__.startswith("torch.optim.") and not given.keys() & set(KERNELS):
        kernels = [kernel for kernel in KERNELS if kernel in accepted]
        given |= dict.fromkeys(kernels[:1], True)
    try:
        return optimizer(parameters, **given, **SETTLED.get(name, {}))
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UsageError(
            f"optimizer '{name}' cannot be built of parameters and {given}: {error}. If it needs something else, name "
            "a function build(parameters, hyperparameters) that gives it that"
        ) from error


def _gathered(hyperparameters: dict[str, Any], accepted: dict[str, inspect.Parameter]) -> dict[str, Any]:
    """Hyperparameters as the constructor takes them; what is left out of a tuple is as in its default."""
    given = {key: None if value == "auto" else value for key, value in hyperparameters.items()}
    for whole, parts in TUPLES.items():
        default = accepted[whole].default if whole in accepted else None
        if isinstance(default, tuple) and given.keys() & set(parts):
            given[whole] = tuple(given.pop(part, value) for part, value in zip(parts, default, strict=False))
    return given
