"""Study files: TOML -> Study -> Trials.

A study is validated whole before anything runs: every mistake is reported at once, each with its path. Nothing here
imports torch.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paceline import registry
from paceline.cards import OPTIMIZERS, Frozen, Name, Search, Seed, hyperparameters_of, reduces, strategy_card
from paceline.errors import UsageError, nearest
from paceline.tuning import FORMS, Tuning, resolve

SCHEMA_VERSION = 1


def known(kind: registry.Kind, name: str) -> str:
    """The name that ``registry`` goes by, for validation: an unknown one is a mistake that lists the others."""
    try:
        return registry.canonical(kind, name)
    except UsageError as error:
        raise PydanticCustomError("unknown_name", "{message}", {"message": str(error)}) from error


_SCALE = r"(?:(\d+)x)?(\d+)"


def _with_short_forms(schema: dict[str, Any]) -> None:
    table = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_SCALE}$"}, table]


class Scale(Frozen):
    """A number of hosts times a number of ranks on each, written ``"2x4"``, or ``4`` for four ranks on one host."""

    model_config = ConfigDict(json_schema_extra=_with_short_forms)

    num_hosts: PositiveInt = 1
    ranks_per_host: PositiveInt

    @property
    def num_ranks(self) -> int:
        """World size."""
        return self.num_hosts * self.ranks_per_host

    def __str__(self) -> str:
        return f"{self.num_hosts}x{self.ranks_per_host}"

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, bool):
            raise PydanticCustomError("scale", "a scale is a number of ranks, or 'HOSTSxRANKS' such as '2x4'")
        if isinstance(value, int):
            return {"num_hosts": 1, "ranks_per_host": value}
        if isinstance(value, str):
            match = re.fullmatch(_SCALE, value)
            if not match:
                raise PydanticCustomError("scale", "a scale is a number of ranks, or 'HOSTSxRANKS' such as '2x4'")
            return {"num_hosts": int(match[1] or 1), "ranks_per_host": int(match[2])}
        return value


class Options(Frozen):
    """What changes how any trial computes, whatever its optimizer."""

    clip_grad_norm: PositiveFloat | Literal["off"] = Field(
        "off", description="scale the reduced gradient so that its 2-norm is at most this"
    )
    accumulation_steps: PositiveInt = Field(1, description="micro-batches in which a rank computes its part")
    autocast: Literal["off", "bf16"] = Field("off", description="forward pass in bfloat16, parameters in float32")
    compile: bool = Field(False, description="compile the model by torch.compile before the first update")


def _name_is_optional(schema: dict[str, Any]) -> None:
    schema["required"] = [key for key in schema.get("required", []) if key != "name"]


def _with_hyperparameters(schema: dict[str, Any]) -> None:
    """In the file, hyperparameters stand beside ``name``: show editors those of every built-in optimizer."""
    _name_is_optional(schema)
    del schema["properties"]["hyperparameters"], schema["properties"]["given"]
    for table in OPTIMIZERS.values():
        for key, field in table.model_json_schema()["properties"].items():
            schema["properties"].setdefault(key, {k: v for k, v in field.items() if k != "default"})
    schema["additionalProperties"] = True


class WorkloadEntry(Frozen):
    """One ``[workloads.LABEL]`` table."""

    model_config = ConfigDict(json_schema_extra=_name_is_optional)

    name: str = Field(description="a registered workload or 'module:attribute'; the table's own name if left out")
    dataset: str = Field("auto", description="which data set, where the workload can use several")
    augmentation: Literal["none", "crop", "crop-flip"] = "none"
    target: float | Literal["auto"] = Field("auto", description="value of the workload's metric to reach")
    batch_size: PositiveInt | Literal["auto"] = Field("auto", description="in place of the size in [batch]")
    options: dict[str, bool | int | float | str] = Field(
        default_factory=dict, description="passed on to a workload of your own"
    )

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        return known("workloads", name)


class OptimizerEntry(Frozen):
    """One ``[optimizers.LABEL]`` table: ``name``, ``options``, and the hyperparameters beside them.

    ``given`` names those that the table gives: they are fixed, and tuning searches others only.
    """

    model_config = ConfigDict(json_schema_extra=_with_hyperparameters)

    name: str
    options: dict[str, Any] = Field(default_factory=dict, description="overrides the study's options")
    hyperparameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    given: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, Mapping) or "hyperparameters" in value:  # as in study.json
            return value
        own = {key: value[key] for key in ("name", "options") if key in value}
        given = {key: item for key, item in value.items() if key not in own}
        return own | {"hyperparameters": given, "given": tuple(given)}

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        return known("optimizers", name)

    @field_validator("options")
    @classmethod
    def _options(cls, options: dict[str, Any]) -> dict[str, Any]:
        Options.model_validate(options)
        return options

    @field_validator("hyperparameters", mode="before")
    @classmethod
    def _hyperparameters(cls, given: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        name = info.data.get("name")
        return given if name is None else hyperparameters_of(name).model_validate(given).model_dump()


class GlobalBatch(Frozen):
    """Strong scaling: the same examples in each update at every scale, only time may differ."""

    rule: Literal["global"]
    global_batch_size: PositiveInt = Field(description="examples per update, summed over ranks")

    def sized(self, size: int) -> GlobalBatch:
        """The same rule with another size."""
        return self.model_copy(update={"global_batch_size": size})

    def at(self, num_ranks: int) -> int:
        """The global batch size at a number of ranks."""
        del num_ranks
        return self.global_batch_size

    def lr_factor(self, num_ranks: int) -> float:
        """By how much the learning rate grows: not at all."""
        del num_ranks
        return 1.0


class PerRankBatch(Frozen):
    """Weak scaling: the global batch grows with the ranks, the learning rate by a stated rule."""

    rule: Literal["per_rank"]
    rank_batch_size: PositiveInt = Field(description="examples per update on each rank")
    lr_rule: Literal["none", "linear", "sqrt"] = Field(description="how lr grows with the number of ranks")

    def sized(self, size: int) -> PerRankBatch:
        """The same rule with another size."""
        return self.model_copy(update={"rank_batch_size": size})

    def at(self, num_ranks: int) -> int:
        """The global batch size at a number of ranks."""
        return self.rank_batch_size * num_ranks

    def lr_factor(self, num_ranks: int) -> float:
        """By how much the learning rate grows from one rank to ``num_ranks``."""
        return {"none": 1.0, "linear": float(num_ranks), "sqrt": math.sqrt(num_ranks)}[self.lr_rule]


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:  # not by min_length, which also counts those refused for another reason
        raise PydanticCustomError("empty", "give at least one")
    if len(set(values)) < len(values):
        raise PydanticCustomError("repeated", "a value is given twice")
    return values


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
    strategies: Annotated[tuple[str, ...], _AT_LEAST_ONE, AfterValidator(_distinct)] = ("auto",)
    reproducible: bool | PositiveInt = Field(
        False,
        description="the same bits at every scale, by this many fixed microbatches an update, a power of two; true: as "
        "many as the largest scale has ranks",
    )
    threads_per_rank: PositiveInt | Literal["auto"] = Field(
        "auto", description="the same at every scale; 'auto': the cores of this host shared by the largest scale"
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
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
    tuning: Tuning | None = Field(None, description="left out: hyperparameters are taken as they stand")

    @field_validator("workloads", "optimizers", mode="before")
    @classmethod
    def _default_name(cls, tables: Any) -> Any:  # noqa: ANN401
        if not isinstance(tables, Mapping):
            return tables
        return {
            label: {"name": label, **table} if isinstance(table, Mapping) else table for label, table in tables.items()
        }

    @field_validator("strategies")
    @classmethod
    def _known_strategies(cls, strategies: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name if name == "auto" else known("strategies", name) for name in strategies)

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
                        "strategies": list(self.strategies),
                        "scale": str(scale),
                        "ranks": scale.num_ranks,
                        "admitted": "; ".join(f"{name} takes {strategy_card(name).ranks}" for name in self.strategies),
                    },
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
        if self.strategies != ("auto",):
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
        ``by-optimizer`` in place of those that would.
        """
        if self.reproducible:
            return ["reproducible"]
        if scale.num_ranks > 1 and reduces(self.optimizers[label].name):
            return ["by-optimizer"]
        return self._named_at(scale)

    def _named_at(self, scale: Scale) -> list[str]:
        """The study's strategies that admit ``scale``."""
        named = [("single" if scale.num_ranks == 1 else "ddp") if name == "auto" else name for name in self.strategies]
        return [name for name in dict.fromkeys(named) if strategy_card(name).admits(scale.num_ranks)]

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
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"study file {path} cannot be read: {error.strerror}; `paceline init` writes one") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"study file {path} is not TOML: {error}") from error
    settings.pop("cluster", None)  # where it runs is no part of what it is: see paceline.cluster
    for override in overrides:
        apply_override(settings, override)
    return validate(settings, source=str(path))


def validate(settings: Mapping[str, Any], *, source: str) -> Study:
    """Make a Study of plain settings; ``source`` names them in errors."""
    try:
        return Study.model_validate(settings)
    except ValidationError as error:
        raise UsageError(f"{source}: {explain(error, settings)}") from error


def explain(error: ValidationError, settings: Mapping[str, Any]) -> str:
    """Every mistake of a ValidationError, a line each, with its path and the nearest allowed key."""
    lines = [f"  {_path(item['loc'])}: {_message(item, settings)}" for item in error.errors()]
    return f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}\n" + "\n".join(lines)


_UNION_TAGS = {"global", "per_rank", "hyperparameters", *FORMS}


def _path(loc: tuple[int | str, ...]) -> str:
    shown = [str(part) for part in loc if part not in _UNION_TAGS and not str(part).startswith(("literal[", "constr"))]
    return ".".join(shown) or "study"


def _message(item: Any, settings: Mapping[str, Any]) -> str:  # noqa: ANN401
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key; {nearest(str(item['loc'][-1]), _keys_beside(item['loc'], settings))}"
    quiet = item["type"] in ("unknown_name", "missing", "batch_below_ranks") or isinstance(item["input"], Mapping)
    return str(item["msg"]) if quiet else f"{item['msg']} (given: {item['input']!r})"


def _keys_beside(loc: tuple[int | str, ...], settings: Mapping[str, Any]) -> list[str]:
    """The keys that are allowed where ``loc`` points."""
    if "hyperparameters" in loc:
        label = str(loc[1])
        optimizer = registry.canonical("optimizers", settings["optimizers"][label].get("name", label))
        return ["name", "options", *hyperparameters_of(optimizer).model_fields]
    if "options" in loc:
        return list(Options.model_fields)
    if loc[0] == "tuning":
        return list(Tuning.model_fields) if len(loc) == 2 else [field.name for field in fields(Search)]
    if loc[0] == "batch":
        return list((GlobalBatch if "global" in loc else PerRankBatch).model_fields)
    return list((WorkloadEntry if len(loc) > 1 else Study).model_fields)


def apply_override(settings: dict[str, Any], override: str) -> None:
    """Set one ``a.b=c`` in plain settings, in place.

    Raises: UsageError if it is no assignment, or leads through something that is no table.
    """
    path, separator, text = override.partition("=")
    keys = [key.strip() for key in path.split(".")]
    if not separator or not all(keys):
        raise UsageError(f"--set {override}: give KEY=VALUE, such as optimizers.adam.lr=0.01")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = settings
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {override}: '{key}' is a value, not a table")
    table[keys[-1]] = value


def json_schema() -> dict[str, Any]:
    """JSON Schema of a study file, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "paceline study"} | (
        Study.model_json_schema(mode="validation")
    )
