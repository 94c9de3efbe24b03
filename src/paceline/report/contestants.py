"""What the tables know of a contestant, in words: the cards of ``paceline show``, and the pages of docs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from pydantic import BaseModel

from paceline import registry
from paceline.cards import WORKLOADS, Search, WorkloadCard
from paceline.errors import UsageError, nearest
from paceline.optimizer_cards import OPTIMIZERS, OptimizerTable
from paceline.strategy_cards import STRATEGIES, StrategyCard
from paceline.tuning import Explored, Space, default_space

Shown = Literal["optimizer", "strategy", "workload"]

_PLURAL: dict[Shown, registry.Kind] = {"optimizer": "optimizers", "strategy": "strategies", "workload": "workloads"}
_PARTNERS = {"optimizer": "strategies", "strategy": "optimizers"}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


@dataclass(frozen=True, kw_only=True)
class Hyperparameter:
    """One of a contestant: ``allowed`` is its JSON Schema, ``searched`` what tuning explores unless told otherwise."""

    name: str
    default: bool | int | float | str
    allowed: dict[str, Any]
    searched: Explored | None
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """A contestant: only what is known.

    ``notes`` are paragraphs, ``update_rule`` lines of formulas, ``facts`` by heading. Of optimizers and strategies:
    with which of the others a study takes them, and why not with the rest.
    """

    kind: Shown
    name: str
    summary: str
    notes: tuple[str, ...] = ()
    update_rule: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    hyperparameters: tuple[Hyperparameter, ...] = ()
    goes_with: tuple[str, ...] = ()
    refuses: dict[str, str] = field(default_factory=dict)


def kind_of(word: str) -> Shown:
    """The kind that a word stands for.

    Raises: UsageError with the nearest match and the list.
    """
    if word not in get_args(Shown):
        raise UsageError(f"unknown kind '{word}': {nearest(word, get_args(Shown))}")
    return cast("Shown", word)


def names(kind: Shown) -> list[str]:
    """Every name that a study can use for it, built in or of an installed package."""
    return registry.names(_PLURAL[kind])


def card_of(kind: Shown, name: str) -> Card:
    """The card of one contestant; of one from outside next to nothing is known before ranks import it.

    Raises: UsageError if nobody registered the name.
    """
    path = registry.REGISTRY[_PLURAL[kind]].get(registry.canonical(_PLURAL[kind], name))
    if path is None:
        return _from_outside(kind, name)
    if kind == "optimizer":
        return _optimizer(name, OPTIMIZERS[name], path)
    if kind == "strategy":
        return _strategy(name, STRATEGIES[name], path)
    return _workload(name, WORKLOADS[name], path)


def _optimizer(name: str, table: type[OptimizerTable], path: str) -> Card:
    summary, *notes = (" ".join(part.split()) for part in inspect.cleandoc(table.__doc__ or "").split("\n\n"))
    reasons = {strategy: card.why_not(name) for strategy, card in STRATEGIES.items()}
    return Card(
        kind="optimizer",
        name=name,
        summary=summary,
        notes=tuple(note.replace("``", "`") for note in notes),
        update_rule=table.update_rule,
        facts={
            "memory": table.memory,
            "communication": table.communication,
            "source": table.source,
            "code": _builder(path),
        },
        hyperparameters=_hyperparameters(table, default_space(name)),
        goes_with=tuple(strategy for strategy, reason in reasons.items() if not reason),
        refuses={strategy: reason for strategy, reason in reasons.items() if reason},
    )


def _builder(path: str) -> str:
    extra = registry.EXTRAS.get(path.partition(":")[0])
    return f"{path}, which pip install 'paceline[{extra}]' brings" if extra else path


def _strategy(name: str, card: StrategyCard, path: str) -> Card:
    reasons = {optimizer: card.why_not(optimizer) for optimizer in OPTIMIZERS}
    facts = {
        "ranks": card.ranks,
        "promises": "" if card.max_ranks == 1 else _promise(card),
        "evaluates": card.evaluates,
        "sends": card.sends,
        "source": card.source,
        "code": path,
    }
    return Card(
        kind="strategy",
        name=name,
        summary=card.summary,
        facts={heading: text for heading, text in facts.items() if text},
        hyperparameters=_hyperparameters(card.settings, {}),
        goes_with=tuple(optimizer for optimizer, reason in reasons.items() if not reason),
        refuses={optimizer: reason for optimizer, reason in reasons.items() if reason},
    )


def _promise(card: StrategyCard) -> str:
    exact = (
        "exact: one rank and N ranks agree but for rounding"
        if card.exact
        else "approximate: one rank and N ranks end at different parameters"
    )
    replicas = "have the same parameters after each update" if card.keeps_replicas else "differ until they meet"
    return f"{exact}; ranks {replicas}"


def _workload(name: str, card: WorkloadCard, path: str) -> Card:
    targets = (f"{card.target_on(dataset).value:g} on {dataset}" for dataset in card.targets)
    facts = {
        "data": ", ".join(card.datasets) + (" (the first one found)" if len(card.datasets) > 1 else ""),
        "target": f"validation {card.metric} of {', '.join(targets)}",
        "code": path,
    }
    return Card(kind="workload", name=name, summary=card.summary, facts=facts)


def _from_outside(kind: Shown, name: str) -> Card:
    return Card(
        kind=kind,
        name=name,
        summary="from outside" if ":" in name else "of an installed package",
        notes=("Nothing is known of it before ranks import it, which `paceline check` has them do.",),
    )


def _hyperparameters(table: type[BaseModel], space: Space) -> tuple[Hyperparameter, ...]:
    """Those of a table, in its order."""
    told = table.model_json_schema().get("properties", {})
    return tuple(
        Hyperparameter(
            name=name,
            default=schema["default"],
            allowed={key: value for key, value in schema.items() if key not in ("title", "default", "description")},
            searched=space.get(name),
            description=schema.get("description", ""),
        )
        for name, schema in told.items()
    )


def value_in_words(value: bool | int | float | str) -> str:
    """A value: ``true``, ``10,000``, ``1e-8``, a string as it is."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return re.sub(r"e\+?(-?)0?", r"e\1", f"{value:g}")
    return f"{value:,}" if isinstance(value, int) else value


def allowed_in_words(schema: Mapping[str, Any]) -> str:
    """The values that a JSON Schema of a scalar allows: ``≥ 0, < 1``; ``integer ≥ 1 or auto``."""
    if "anyOf" in schema:
        return " or ".join(allowed_in_words(one) for one in schema["anyOf"])
    if "const" in schema:
        return value_in_words(schema["const"])
    if "enum" in schema:
        return ", ".join(map(value_in_words, schema["enum"]))
    bounds = ", ".join(f"{sign} {value_in_words(schema[key])}" for key, sign in _BOUNDS.items() if key in schema)
    words = {"boolean": "true, false", "integer": "integer", "number": "" if bounds else "any number", "string": "text"}
    return f"{words[schema['type']]} {bounds}".strip()


def searched_in_words(explored: Explored | None) -> str:
    """What tuning explores: ``0.0001 to 0.03, log``; ``weak_wolfe, fixed``; empty where it does not."""
    if explored is None:
        return ""
    if isinstance(explored, Search):
        between = f"{value_in_words(explored.low)} to {value_in_words(explored.high)}"
        return f"{between}, log" if explored.log else between
    return ", ".join(map(value_in_words, explored))


_PAGES = {
    "optimizer": (
        "Optimizers",
        "Of parameters w (as a matrix W) with gradient g (G) in update t. Memory is what it keeps beside parameters "
        "and gradients, on each rank. Hyperparameters stand in `[optimizers.LABEL]` of a study file; a `[tuning]` "
        "table searches what the last column says, unless it names ranges of its own.",
    ),
    "strategy": (
        "Strategies",
        "How ranks share one optimization. W is the number of ranks; what is sent leaves one rank. Settings stand in "
        "`[strategies.LABEL]` of a study file.",
    ),
    "workload": ("Workloads", "What is trained. docs/workloads.md tells of the runs that reached the targets."),
}


def remake_command(kind: Literal["optimizer", "strategy"]) -> str:
    """How the page of a kind in docs is made anew."""
    return f"paceline show {kind} --markdown > docs/{_PLURAL[kind]}.md"


def page(kind: Shown) -> str:
    """All built-in contestants of a kind as one Markdown page."""
    cards = [card_of(kind, name) for name in registry.REGISTRY[_PLURAL[kind]]]
    title, introduction = _PAGES[kind]
    made = f"`paceline show {kind} NAME` prints one of them."
    if kind != "workload":
        made = f"Made of the program's own tables by `{remake_command(kind)}`; {made}"
    rows = [(f"[`{card.name}`](#{card.name})", card.summary) for card in cards]
    parts = [f"# {title}", introduction, made, _table((kind, "what it is"), *rows), *(markdown(card) for card in cards)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def markdown(card: Card) -> str:
    """One card as a section of Markdown."""
    parts = [f"## {card.name}", card.summary, *card.notes]
    if card.update_rule:
        parts.append(f"```text\n{card.update_rule}\n```")
    facts = card.facts | partners_in_words(card)
    parts.append("\n".join(f"- **{heading}**: {text.replace(chr(10), '; ')}" for heading, text in facts.items()))
    if card.hyperparameters:
        parts.append(_table(*hyperparameter_table(card)))
    return "\n\n".join(part for part in parts if part) + "\n"


def partners_in_words(card: Card) -> dict[str, str]:
    """Two more facts, the first by name: with which strategies an optimizer goes, and with which not, and why.

    Or a strategy with which optimizers. The shorter list is written out; of a workload there is none.
    """
    if card.kind not in _PARTNERS or not (card.goes_with or card.refuses):
        return {}
    few = len(card.goes_with) <= len(card.refuses)
    rest = "all but those below" if card.refuses else "all"
    told = {_PARTNERS[card.kind]: ", ".join(card.goes_with) if few else rest}
    names_by_reason: dict[str, list[str]] = {}
    for name, reason in card.refuses.items():
        names_by_reason.setdefault(reason, []).append(name)
    others = few and len(names_by_reason) == 1
    lines = [f"{'all others' if others else ', '.join(names)}: {reason}" for reason, names in names_by_reason.items()]
    return told | ({"not with": "\n".join(lines)} if lines else {})


def hyperparameter_table(card: Card) -> list[tuple[str, ...]]:
    """Rows, the first one of heads; a column where no row has anything is left out."""
    heads = (
        "setting" if card.kind == "strategy" else "hyperparameter",
        "default",
        "allowed",
        "tuning searches",
        "what it is",
    )
    rows = [
        (
            one.name,
            value_in_words(one.default),
            allowed_in_words(one.allowed),
            searched_in_words(one.searched),
            one.description,
        )
        for one in card.hyperparameters
    ]
    columns = [(head, *column) for head, column in zip(heads, zip(*rows, strict=True), strict=True) if any(column)]
    return list(zip(*columns, strict=True))


def _table(heads: tuple[str, ...], *rows: tuple[str, ...]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
