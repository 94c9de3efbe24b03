"""Names of contestants, each with the ``module:attribute`` that builds it.

Literal tables of strings: they can be searched with grep and checked without importing torch. A third party writes
``"theirpackage.module:build"`` in the study file, or registers an entry point in the group ``paceline.KIND``.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from paceline.errors import UsageError, nearest

Kind = Literal["optimizers", "strategies", "workloads", "launchers"]

REGISTRY: dict[Kind, dict[str, str]] = {
    "optimizers": {
        "adam": "paceline.optimizers.adam:build_adam",
        "adamw": "paceline.optimizers.adam:build_adamw",
        "lbfgs": "paceline.optimizers.lbfgs:build",
        "lbfgs-torch": "paceline.optimizers.lbfgs_torch:build",
        "lbfgs-torch-allreduce": "paceline.optimizers.lbfgs_torch:build_with_all_reduce",
        "sgd": "paceline.optimizers.sgd:build",
    },
    "strategies": {
        "by-optimizer": "paceline.strategies.by_optimizer:ByOptimizer",
        "ddp": "paceline.strategies.ddp:Ddp",
        "reproducible": "paceline.strategies.reproducible:Reproducible",
        "single": "paceline.strategies.single:Single",
    },
    "workloads": {
        "lenet5-fashion-mnist": "paceline.workloads.lenet5_fashion_mnist:build",
        "lenet5-imagenet32": "paceline.workloads.lenet5_imagenet32:build",
        "lenet5-imagenet64": "paceline.workloads.lenet5_imagenet64:build",
        "lenet5-mnist": "paceline.workloads.lenet5_mnist:build",
        "logreg-mnist": "paceline.workloads.logreg_mnist:build",
        "resnet20-imagenet32": "paceline.workloads.resnet20_imagenet32:build",
    },
    "launchers": {
        "local": "paceline.launch.local:LocalLauncher",
        "slurm": "paceline.launch.slurm:SlurmLauncher",
        "ssh": "paceline.launch.ssh:SshLauncher",
    },
}


def names(kind: Kind) -> list[str]:
    """Every name that ``kind`` answers to without a colon: built in, or an entry point."""
    return sorted({*REGISTRY[kind], *(point.name for point in entry_points(group=f"paceline.{kind}"))})


def canonical(kind: Kind, name: str) -> str:
    """The name as it is, unless nobody registered it.

    Raises: UsageError with the nearest match and the list of names.
    """
    if ":" in name or name in REGISTRY[kind] or name in names(kind):
        return name
    raise UsageError(
        f"unknown {_one_of(kind)} '{name}': {nearest(name, names(kind))}, or 'module:attribute' for one of your own"
    )


def _one_of(kind: Kind) -> str:
    return "strategy" if kind == "strategies" else kind.removesuffix("s")


def resolve(kind: Kind, name: str) -> Any:  # noqa: ANN401 - what a third party registers has no common type
    """Import what ``name`` stands for.

    Raises: UsageError if the name is unknown, or its module or attribute cannot be imported.
    """
    name = canonical(kind, name)
    path = REGISTRY[kind].get(name, name)
    if ":" not in path:
        return next(point for point in entry_points(group=f"paceline.{kind}") if point.name == name).load()
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"{_one_of(kind)} '{name}' cannot be imported: {error}. "
            "Is its package installed, and its folder on PYTHONPATH?"
        ) from error
    return found
