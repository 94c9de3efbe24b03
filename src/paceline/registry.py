"""Names of contestants, each with the ``module:attribute`` that builds it.

Literal tables of strings: they can be searched with grep and checked without importing torch. A third party writes
``"theirpackage.module:build"`` in the study file, or registers an entry point in the group ``paceline.KIND``. An
optimizer may be a class of torch's kind: ``"pytorch_optimizer:Ranger21"``.
"""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points
from typing import Any, Literal

from paceline.errors import UsageError, nearest

Kind = Literal["optimizers", "strategies", "workloads", "launchers"]

REGISTRY: dict[Kind, dict[str, str]] = {
    "optimizers": {
        "adafactor": "torch.optim:Adafactor",
        "adagrad": "torch.optim:Adagrad",
        "adam": "torch.optim:Adam",
        "adamw": "torch.optim:AdamW",
        "lamb": "pytorch_optimizer:Lamb",
        "lars": "pytorch_optimizer:LARS",
        "lbfgs": "paceline.optimizers.lbfgs:build",
        "lbfgs-torch": "paceline.optimizers.lbfgs_torch:build",
        "lbfgs-torch-allreduce": "paceline.optimizers.lbfgs_torch:build_with_all_reduce",
        "lion": "pytorch_optimizer:Lion",
        "muon": "paceline.optimizers.muon:build",
        "nadam": "torch.optim:NAdam",
        "rmsprop": "torch.optim:RMSprop",
        "schedule-free-adamw": "pytorch_optimizer:ScheduleFreeAdamW",
        "schedule-free-sgd": "pytorch_optimizer:ScheduleFreeSGD",
        "sgd": "torch.optim:SGD",
        "sgd-nesterov": "torch.optim:SGD",
        "shampoo": "pytorch_optimizer:Shampoo",
        "soap": "pytorch_optimizer:SOAP",
    },
    "strategies": {
        "bf16": "paceline.strategies.half:Bf16",
        "by-optimizer": "paceline.strategies.by_optimizer:ByOptimizer",
        "ddp": "paceline.strategies.ddp:Ddp",
        "diloco": "paceline.strategies.diloco:Diloco",
        "flat": "paceline.strategies.flat:Flat",
        "fp16": "paceline.strategies.half:Fp16",
        "local-sgd": "paceline.strategies.local_sgd:LocalSgd",
        "post-local-sgd": "paceline.strategies.post_local_sgd:PostLocalSgd",
        "powersgd": "paceline.strategies.powersgd:PowerSgd",
        "reproducible": "paceline.strategies.reproducible:Reproducible",
        "sign-sgd": "paceline.strategies.sign_sgd:SignSgd",
        "single": "paceline.strategies.single:Single",
        "top-k": "paceline.strategies.top_k:TopK",
        "zero1": "paceline.strategies.zero1:Zero1",
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

OF_CLASSES = "paceline.optimizers.library:adapt"  # makes a builder of a class of optimizers
EXTRAS = {"pytorch_optimizer": "optimizers"}  # which extra of paceline installs a module
OF_OWN = "Is its package installed, and its folder on PYTHONPATH?"


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
    """Import what ``name`` stands for; where that is a class of optimizers, what builds one from hyperparameters.

    Raises: UsageError if the name is unknown, or its module or attribute cannot be imported.
    """
    name = canonical(kind, name)
    path = REGISTRY[kind].get(name, name)
    if ":" in path:
        found = _imported(path, f"{_one_of(kind)} '{name}'")
    else:
        found = next(point for point in entry_points(group=f"paceline.{kind}") if point.name == name).load()
    if kind == "optimizers" and isinstance(found, type):
        return _imported(OF_CLASSES, "")(found, name)
    return found


def _imported(path: str, wanted: str) -> Any:  # noqa: ANN401
    """What ``module:attribute`` names; ``wanted`` is how errors call it."""
    module, _, attribute = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        extra = EXTRAS.get(error.name or "") if isinstance(error, ModuleNotFoundError) else None
        todo = f"Install it: pip install 'paceline[{extra}]'" if extra else OF_OWN
        raise UsageError(f"{wanted} cannot be imported: {error}. {todo}") from error
    return found
