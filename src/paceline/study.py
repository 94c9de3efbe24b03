"""Study files: TOML -> Study -> Trials.

A study is validated whole before anything runs: every mistake is reported at once, each with its path. Nothing here
imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paceline import registry
from paceline.cards import Frozen, Name, Search, Seed
from paceline.errors import UsageError, nearest
from paceline.optimizer_cards import hyperparameters_of, reduces
from paceline.strategy_cards import strategy_card
from paceline.study_tables import (
    CheckpointInterval,
    GlobalBatch,
    OptimizerEntry,
    Options,
    PerRankBatch,
    Scale,
    Schedule,
    StrategyEntry,
    WorkloadEntry,
)
from paceline.textfiles import text_file, toml
from paceline.tuning import FORMS, Tuning, resolve

SCHEMA_VERSION = 1


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:  # not by min_length, which also counts those refused for another reason
        raise PydanticCustomError("empty", "give at least one")
    if len(set(values)) < len(values):
        raise PydanticCustomError("repeated", "a value is given twice")
    return values


def _or_names(schema: dict[str, Any]) -> None:
    """A list of names may stand in place of tables."""
    table = {key: schema.pop(key) for key in ("type", "additionalProperties", "patternProperties", "propertyNames",
             "minProperties") if key in schema}  # fmt: skip
    schema["anyOf"] = [{"type": "array", "items": {"type": "string"}, "minItems": 1}, table]


_AT_LEAST_ONE = Field(json_schema_extra={"minItems": 1, "uniqueItems": True})


class Study(Frozen):
    """What is compared, on what, and by which rules."""

    name: Name = Field(description="names the run folder, ./runs/NAME")
    question: str = Field("", description="what the study is to answer; stands at the head of the report")
    seeds: Annotated[tuple[Seed, ...], _AT_LEAST_ONE, AfterValidator(_distinct)]
    max_epochs: PositiveInt
    max_train_time_s: PositiveFloat | Literal["unlimited"] = "unlimited"
    evaluate_every: PositiveInt | Literal["epoch"] = Field("epoch", description="training samples between evaluations")
    stop_at_target: bool = False
    scales: Annotated[tuple[Scale, ...], _AT_LEAST_ONE, AfterValidator(_distinct)] = (Scale(ranks_per_host=1),)
    strategies: dict[Name, StrategyEntry] = Field(
        {"auto": StrategyEntry(name="auto")}, min_length=1, json_schema_extra=_or_names
    )
    schedules: dict[Name, Schedule] = Field(
        default_factory=dict,
        json_schema_extra=_or_names,
        description="of the learning rate; every optimizer runs with each; left out: constant",
    )
    reproducible: bool | PositiveInt = Field(
        False,
        description="the same bits at every scale, by this many fixed microbatches an update, a power of two; true: as "
        "many as the largest scale has ranks",
    )
    threads_per_rank: PositiveInt | Literal["auto"] = Field(
        "auto", description="the same at every scale; 'auto': the cores of this host shared by the largest scale"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    checkpoint_every: CheckpointInterval = Field(
        "auto",
        description="'epoch', 'N updates' or 'N s'; 'auto': at ends of epochs, as often as takes a hundredth of the "
        "time of training, and after ten minutes; one is written at the end and when ranks leave in any case",
    )
    checkpoints_kept: int = Field(2, ge=2, description="of each trial")
    batch: Annotated[GlobalBatch | PerRankBatch, Field(discriminator="rule")]
    workloads: Annotated[dict[Name, WorkloadEntry], Field(min_length=1)]
    optimizers: Annotated[dict[Name, OptimizerEntry], Field(min_length=1)]
    options: Options = Options()
    baseline: str | Literal["auto"] = Field("auto", description="a cell, such as 'adam@1'; 'auto': the first one")
    comparisons: tuple[tuple[str, str], ...] | Literal["baseline"] = Field(
        "baseline", description="pairs of cells such as ['adam@2', 'adam@1']; 'baseline': every cell against it"
    )
    aa_pair: bool = Field(
        True,
        description="run the baseline twice with each seed: the noise of the machine, below which nothing is claimed",
    )
    retries: NonNegativeInt = Field(
        1, description="how often a trial that fails is tried again in the same run, from its newest checkpoint"
    )
    tuning: Tuning | None = Field(None, description="left out: hyperparameters are taken as they stand")

    @model_validator(mode="before")
    @classmethod
    def _one_label_a_schedule(cls, settings: Any) -> Any:  # noqa: ANN401
        """An optimizer with each of several schedules: ``adam-cosine``, ``adam-constant``."""
        match settings:
            case {"schedules": (Mapping() | list()) as schedules, "optimizers": Mapping() as optimizers} if schedules:
                labels = list(schedules)
                tables: dict[str, Any] = {}
                for label, table in optimizers.items():
                    if not isinstance(table, Mapping) or table.get("schedule"):
                        tables[label] = table
                        continue
                    for schedule in labels:
                        own = f"{label}-{schedule}" if len(labels) > 1 else label
                        tables[own] = {"name": label, **table, "schedule": schedule}
                return {**settings, "optimizers": tables}
        return settings

    @field_validator("workloads", "optimizers", "strategies", "schedules", mode="before")
    @classmethod
    def _default_name(cls, tables: Any) -> Any:  # noqa: ANN401
        if not isinstance(tables, Mapping):
            return tables
        return {
            label: {"name": label, **table} if isinstance(table, Mapping) else table for label, table in tables.items()
        }

    @field_validator("strategies", "schedules", mode="before")
    @classmethod
    def _from_names(cls, given: Any) -> Any:  # noqa: ANN401
        """A list of names stands for tables of nothing else. (Of such validators the last is called first.)"""
        if not isinstance(given, list | tuple):
            return given
        if not all(isinstance(name, str) for name in given):
            raise PydanticCustomError("names", "give a list of names, or a table each")
        return {name: {} for name in _distinct(tuple(given))}

    @field_validator("strategies")
    @classmethod
    def _labels_tell(cls, strategies: dict[str, StrategyEntry]) -> dict[str, StrategyEntry]:
        """A label is no other strategy's name, and what has no settings goes by its own name."""
        for label, entry in strategies.items():
            if label != entry.name and (label in registry.names("strategies") or not entry.settings):
                raise PydanticCustomError(
                    "label",
                    "'{label}' is a label for {name}: use '{name}' itself, or another word if it has settings",
                    {"label": label, "name": entry.name},
                )
        return strategies

    @field_validator("batch")
    @classmethod
    def _batch_fills_ranks(cls, batch: GlobalBatch | PerRankBatch, info: ValidationInfo) -> GlobalBatch | PerRankBatch:
        largest = max((scale.num_ranks for scale in info.data.get("scales", ())), default=1)
        if batch.at(largest) < largest:
            raise PydanticCustomError(
                "batch_below_ranks",
                "global_batch_size {batch} is smaller than the {ranks} ranks of the largest scale; "
                "raise it to at least {ranks}, or drop that scale",
                {"batch": batch.at(largest), "ranks": largest},
            )
        return batch

    @field_validator("tuning")
    @classmethod
    def _search_every_optimizer(cls, tuning: Tuning | None, info: ValidationInfo) -> Tuning | None:
        if tuning is None or not {"seeds", "optimizers"} <= info.data.keys():
            return tuning
        entries: dict[str, OptimizerEntry] = info.data["optimizers"]
        contestants = {label: (entry.name, entry.given) for label, entry in entries.items()}
        return resolve(tuning, seeds=info.data["seeds"], contestants=contestants)

    @model_validator(mode="after")
    def _strategies_fit_scales(self) -> Study:
        for scale in self.scales:
            if not self._named_at(scale):
                raise PydanticCustomError(
                    "strategy_scale",
                    "no strategy of {strategies} admits the scale {scale} ({ranks} ranks): {admitted}",
                    {
                        "strategies": ", ".join(self.strategies),
                        "scale": str(scale),
                        "ranks": scale.num_ranks,
                        "admitted": "; ".join(
                            f"{label} takes {strategy_card(entry.name).ranks}"
                            for label, entry in self.strategies.items()
                        ),
                    },
                )
        return self

    @model_validator(mode="after")
    def _labels_are_known(self) -> Study:
        for label, entry in self.optimizers.items():
            for kind, given, allowed in (
                ("schedule", (entry.schedule,) if entry.schedule else (), self.schedules),
                ("strategies", entry.strategies, self.strategies),
            ):
                for name in given:
                    if name not in allowed:
                        raise PydanticCustomError(
                            "label",
                            "[optimizers.{label}] asks for {kind} '{name}'; the study has {allowed}",
                            {"label": label, "kind": kind, "name": name, "allowed": ", ".join(allowed) or "none"},
                        )
        return self

    @model_validator(mode="after")
    def _strategies_admit_optimizers(self) -> Study:
        for label, entry in self.optimizers.items():
            for scale in self.scales:
                for name in self.strategies_at(scale, label):
                    reason = strategy_card(self.strategy(name).name).why_not(entry.name)
                    if reason:
                        raise PydanticCustomError(
                            "admission",
                            "{strategy} does not admit {label}: {reason}. Give [optimizers.{label}] the strategies "
                            "that it is to run with, strategies = [...]",
                            {"strategy": name, "label": label, "reason": reason},
                        )
        return self

    @model_validator(mode="after")
    def _gradients_can_be_clipped(self) -> Study:
        for label, entry in self.optimizers.items():
            if reduces(entry.name) and self.options_of(label).clip_grad_norm != "off":
                raise PydanticCustomError(
                    "clip",
                    "{label} adds up gradients itself, and clip_grad_norm would see one rank's only; switch it off in "
                    "[optimizers.{label}.options]",
                    {"label": label},
                )
        return self

    @model_validator(mode="after")
    def _reproducible_fits(self) -> Study:
        if not self.reproducible:
            return self
        if list(self.strategies) != ["auto"]:
            raise PydanticCustomError("reproducible", "reproducible is a strategy of its own; leave strategies out")
        if self.options.accumulation_steps > 1:
            raise PydanticCustomError(
                "reproducible", "reproducible has microbatches of its own; leave accumulation_steps out"
            )
        parts = self.num_microbatches
        for number in (parts, *(scale.num_ranks for scale in self.scales)):
            if number & (number - 1) or number > parts:
                raise PydanticCustomError(
                    "reproducible",
                    "the number of microbatches ({parts}) and that of ranks at each scale must be powers of two, the "
                    "first the largest; {number} is not",
                    {"number": number, "parts": parts},
                )
        smallest = min(self.batch_size(label, scale) for label in self.workloads for scale in self.scales)
        if smallest < parts:
            raise PydanticCustomError(
                "reproducible",
                "an update of {size} examples cannot be cut into {parts} microbatches",
                {"size": smallest, "parts": parts},
            )
        return self

    def batch_size(self, workload: str, scale: Scale) -> int:
        """The global batch size of a workload, by its label, at a scale."""
        own = self.workloads[workload].batch_size
        batch = self.batch if own == "auto" else self.batch.sized(own)
        return batch.at(scale.num_ranks)

    @property
    def num_microbatches(self) -> int:
        """In which an update is computed for the sake of equal bits; 0 where that is not asked for."""
        if self.reproducible is True:
            return max(scale.num_ranks for scale in self.scales)
        return int(self.reproducible)

    def strategies_at(self, scale: Scale, label: str) -> list[str]:
        """The strategies of an optimizer at a scale.

        ``auto`` is ``single`` at one rank and ``ddp`` above; an optimizer that adds up over ranks itself takes
        ``single`` and ``by-optimizer`` in place of those that would.
        """
        if self.reproducible:
            return ["reproducible"]
        entry = self.optimizers[label]
        if reduces(entry.name):
            return ["single" if scale.num_ranks == 1 else "by-optimizer"]
        return self._named_at(scale, entry.strategies)

    def strategy(self, label: str) -> StrategyEntry:
        """The strategy that a label of ``strategies_at`` stands for."""
        return self.strategies.get(label) or StrategyEntry(name=label)

    def schedule_of(self, label: str) -> Schedule | None:
        """That of an optimizer's label; None where its learning rate is constant."""
        schedule = self.schedules.get(self.optimizers[label].schedule)
        return None if schedule == Schedule(name="constant") else schedule

    def _named_at(self, scale: Scale, chosen: Sequence[str] = ()) -> list[str]:
        """Labels of the study's strategies, or of those ``chosen`` from them, that admit ``scale``."""
        auto = "single" if scale.num_ranks == 1 else "ddp"
        named = dict.fromkeys(
            auto if entry.name == "auto" else label
            for label, entry in self.strategies.items()
            if not chosen or label in chosen
        )
        return [label for label in named if strategy_card(self.strategy(label).name).admits(scale.num_ranks)]

    @property
    def num_cells(self) -> int:
        """Cells of each workload."""
        return sum(len(self.strategies_at(scale, label)) for label in self.optimizers for scale in self.scales)

    @property
    def repeats_baseline(self) -> bool:
        """Whether the baseline is run twice: nothing to compare, no noise to know."""
        return self.aa_pair and self.num_cells > 1

    def options_of(self, label: str) -> Options:
        """The study's options with the overrides of one optimizer."""
        return Options.model_validate(self.options.model_dump() | self.optimizers[label].options)


def load(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read and validate a study file.

    Args:
        path: a TOML file.
        overrides: settings such as ``max_epochs=1`` or ``optimizers.adam.lr=0.01``; values are TOML, or bare words.
    Raises: UsageError that lists every mistake with its path.
    """
    settings = read_settings(path)
    for override in overrides:
        apply_override(settings, override)
    return validate(settings, source=str(path))


def read_settings(path: Path) -> dict[str, Any]:
    """The plain settings of a study file.

    Raises: UsageError if it cannot be read, or is not TOML.
    """
    try:
        settings = toml(text_file(path))
    except OSError as error:
        raise UsageError(f"study file {path} cannot be read: {error.strerror}; `paceline init` writes one") from error
    except ValueError as error:
        raise UsageError(f"study file {path} is not TOML: {error}") from error
    settings.pop("cluster", None)  # where it runs is no part of what it is: see paceline.cluster
    return settings


def validate(settings: Mapping[str, Any], *, source: str) -> Study:
    """Make a Study of plain settings; ``source`` names them in errors."""
    try:
        return Study.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"{source}: {explain(error, settings)}") from error


def explain(error: ValidationError, settings: Mapping[str, Any]) -> str:
    """Every mistake of a ValidationError, a line each, with its path and the nearest allowed key."""
    items = error.errors()
    lines = [f"  {_path(item['loc'])}: {_message(item, settings)}" for item in items[:_MOST_MISTAKES]]
    lines += [f"  and {len(items) - _MOST_MISTAKES} more"] if len(items) > _MOST_MISTAKES else []
    return f"{len(items)} mistake{'s' if len(items) > 1 else ''}\n" + "\n".join(lines)


_MOST_MISTAKES = 50  # that are told
_MOST_SHOWN = 200  # characters of what was given
_UNION_TAGS = {"global", "per_rank", "hyperparameters", "settings", *FORMS}


def _path(loc: tuple[int | str, ...]) -> str:
    shown = [
        str(part)[:_MOST_SHOWN]
        for part in loc
        if part not in _UNION_TAGS and not str(part).startswith(("literal[", "constr"))
    ]
    return ".".join(shown) or "study"


def _message(item: Any, settings: Mapping[str, Any]) -> str:  # noqa: ANN401
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key; {nearest(str(item['loc'][-1]), _keys_beside(item['loc'], settings))}"
    quiet = item["type"] in ("unknown_name", "missing", "batch_below_ranks") or isinstance(item["input"], Mapping)
    return str(item["msg"]) if quiet else f"{item['msg']} (given: {_shortened(repr(item['input']))})"


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]} ..."


def _keys_beside(loc: tuple[int | str, ...], settings: Mapping[str, Any]) -> list[str]:
    """The keys that are allowed where ``loc`` points."""
    kind = next((word for word in ("hyperparameters", "options") if word in loc), loc[0])
    match kind:
        case "hyperparameters":
            optimizer = _name_of(settings["optimizers"], str(loc[1]))
            beside = [key for key in OptimizerEntry.model_fields if key not in ("hyperparameters", "given")]
            return [*beside, *hyperparameters_of(optimizer).model_fields]
        case "options":
            return list(Options.model_fields)
        case "tuning" if len(loc) > 2:
            return [field.name for field in fields(Search)]
        case "strategies":
            return ["name", *strategy_card(_name_of(settings["strategies"], str(loc[1]))).settings.model_fields]
    batch = GlobalBatch if "global" in loc else PerRankBatch
    tables: dict[str, Any] = {"tuning": Tuning, "schedules": Schedule, "batch": batch}
    table: type[BaseModel] = tables.get(str(kind), WorkloadEntry if len(loc) > 1 else Study)
    return list(table.model_fields)


def _name_of(tables: Mapping[str, Any], label: str) -> str:
    """The name of the contestant with a label, which may be that of its table and one of several schedules."""
    fitting = [own for own in tables if label == own or label.startswith(f"{own}-")]
    own = max(fitting, key=len)
    return str(tables[own].get("name", own))


def apply_override(settings: dict[str, Any], override: str) -> None:
    """Set one ``a.b=c`` in plain settings, in place.

    Raises: UsageError if it is no assignment, or leads through something that is no table.
    """
    path, separator, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not separator or not all(keys):
        raise UsageError(f"--set {_shortened(override)}: give KEY=VALUE, such as optimizers.adam.lr=0.01")
    try:
        value = toml(f"value = {text}")["value"]
    except ValueError:
        value = text
    table = settings
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {_shortened(override)}: '{_shortened(key)}' is a value, not a table")
    table[keys[-1]] = value


def json_schema() -> dict[str, Any]:
    """JSON Schema of a study file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "paceline study"} | (
        Study.model_json_schema(mode="validation")
    )
