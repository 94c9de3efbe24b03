"""``paceline list``."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

from cyclopts import Parameter

Listed = Literal["workloads", "optimizers", "strategies"]


def list_names(kind: str, *, json: Annotated[bool, Parameter(negative=())] = False) -> None:
    """List what a study file can name.

    Parameters
    ----------
    kind:
        workloads, optimizers or strategies.
    json:
        Print one JSON object.
    """
    from paceline.cli.output import print_json
    from paceline.errors import UsageError, nearest

    if kind not in get_args(Listed):
        raise UsageError(f"unknown list '{kind}': {nearest(kind, get_args(Listed))}")
    entries = entries_of(cast("Listed", kind))
    if json:
        print_json({"schema_version": 1, kind: entries})
    else:
        _print(kind, entries)


def entries_of(kind: Listed) -> list[dict[str, Any]]:
    """Every name of a kind, with what its card says: one of an installed package has no card here."""
    from paceline import registry

    describe = {"workloads": _workload, "optimizers": _optimizer, "strategies": _strategy}[kind]
    entries = []
    for name in registry.names(kind):
        told = describe(name) if name in registry.REGISTRY[kind] else {"summary": "of an installed package"}
        entries.append({"name": name, **told})
    return entries


def _workload(name: str) -> dict[str, Any]:
    from paceline.cards import WORKLOADS

    card = WORKLOADS.get(name)
    if card is None:
        return {"summary": ""}
    targets = {dataset: target[0] for dataset, target in card.targets.items()}
    return {"summary": card.summary, "datasets": list(card.datasets), "metric": card.metric, "targets": targets}


def _optimizer(name: str) -> dict[str, Any]:
    from paceline.optimizer_cards import OPTIMIZERS

    table = OPTIMIZERS.get(name)
    if table is None:
        return {"summary": ""}
    defaults = {key: field.default for key, field in table.model_fields.items()}
    return {"summary": (table.__doc__ or "").strip().partition("\n")[0], "hyperparameters": defaults}


def _strategy(name: str) -> dict[str, Any]:
    from paceline.strategy_cards import STRATEGIES

    card = STRATEGIES.get(name)
    return {"summary": card.summary, "ranks": card.ranks, "exact": card.exact} if card else {"summary": ""}


def _print(kind: str, entries: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from paceline.cli.output import console

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column(kind, no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for entry in entries:
        lines = [entry["summary"]]
        if entry.get("hyperparameters"):
            lines.append(", ".join(f"{key}={value}" for key, value in entry["hyperparameters"].items()))
        if entry.get("targets"):
            goals = ", ".join(f"{value} on {dataset}" for dataset, value in entry["targets"].items())
            lines.append(f"target {entry['metric']}: {goals}")
        if entry.get("ranks"):
            lines.append(f"ranks: {entry['ranks']}")
        table.add_row(Text(entry["name"], style="bold"), Text("\n".join(lines)))
    console().print(table)
