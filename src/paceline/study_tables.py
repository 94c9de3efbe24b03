"""The tables of a study file, one class each; ``study`` puts them together. Nothing here imports torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paceline import registry
from paceline.cards import Frozen
from paceline.errors import UsageError
from paceline.optimizer_cards import OPTIMIZERS, hyperparameters_of
from paceline.strategy_cards import STRATEGIES, strategy_card


def known(kind: registry.Kind, name: str) -> str:
    """The name that ``registry`` goes by, for validation: an unknown one is a mistake that lists the others."""
    try:
        return registry.canonical(kind, name)
    except UsageError as error:
        raise PydanticCustomError("unknown_name", "{message}", {"message": str(error)}) from error


_MOST_RANKS = 65_536  # whose files are looked for one by one
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

    @model_validator(mode="after")
    def _is_of_this_world(self) -> Scale:
        if self.num_ranks > _MOST_RANKS:
            raise PydanticCustomError("scale", "a scale has at most {most} ranks", {"most": _MOST_RANKS})
        return self

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


_INTERVAL = r"(\d+) updates?|(\d+(?:\.\d+)?) s"


def checkpoint_interval(text: str) -> tuple[float, Literal["auto", "epoch", "updates", "s"]]:
    """A number and its unit, such as (600, "s"), of ``"600 s"``; 0 beside ``"auto"`` and ``"epoch"``."""
    if text in ("auto", "epoch"):
        return 0, text  # type: ignore[return-value] # it is one of these
    match = re.fullmatch(_INTERVAL, text)
    if not match or float(match[1] or match[2]) == 0:
        raise PydanticCustomError(
            "interval", "give 'auto', 'epoch', a number of updates such as '500 updates', or of seconds such as '600 s'"
        )
    return (int(match[1]), "updates") if match[1] else (float(match[2]), "s")


def _is_interval(text: str) -> str:
    checkpoint_interval(text)
    return text


CheckpointInterval = Annotated[
    str, AfterValidator(_is_interval), Field(json_schema_extra={"pattern": f"^(auto|epoch|{_INTERVAL})$"})
]


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

    ``given`` names those that the table gives: they are fixed, and tuning searches others only. ``schedule`` and
    ``strategies`` are labels of the study's; left out: all of them.
    """

    model_config = ConfigDict(json_schema_extra=_with_hyperparameters)

    name: str
    options: dict[str, Any] = Field(default_factory=dict, description="overrides the study's options")
    schedule: str = Field("", description="one of the study's schedules; left out: each of them")
    strategies: tuple[str, ...] = Field((), description="some of the study's strategies; left out: all of them")
    hyperparameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    given: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, Mapping) or "hyperparameters" in value:  # as in study.json
            return value
        own = {key: value[key] for key in ("name", "options", "schedule", "strategies") if key in value}
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


class Schedule(Frozen):
    """One ``[schedules.LABEL]`` table: how the learning rate goes over the updates of all ``max_epochs``.

    Where ``warmup`` and ``final`` are left out they are 0; for ``one-cycle`` 0.3 and 4e-6 (as torch's).
    """

    model_config = ConfigDict(json_schema_extra=_name_is_optional)

    name: Literal["constant", "cosine", "linear", "one-cycle", "step"]
    warmup: float | None = Field(None, ge=0, lt=1, description="share of the updates in which it rises to lr")
    final: float | None = Field(None, ge=0, le=1, description="share of lr at which cosine, linear and one-cycle end")
    drops: PositiveInt = Field(2, description="of step: how often it falls, at equal distances")
    factor: float = Field(0.1, gt=0, lt=1, description="of step: to what share it falls each time")


def _with_settings(schema: dict[str, Any]) -> None:
    """In the file, settings stand beside ``name``: show editors those of every built-in strategy."""
    _name_is_optional(schema)
    del schema["properties"]["settings"]
    for card in STRATEGIES.values():
        for key, field in card.settings.model_json_schema().get("properties", {}).items():
            schema["properties"].setdefault(key, {k: v for k, v in field.items() if k != "default"})
    schema["additionalProperties"] = True


class StrategyEntry(Frozen):
    """One ``[strategies.LABEL]`` table: ``name``, and the strategy's settings beside it."""

    model_config = ConfigDict(json_schema_extra=_with_settings)

    name: str
    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, value: Any) -> Any:  # noqa: ANN401
        if not isinstance(value, Mapping) or "settings" in value:  # as in study.json
            return value
        return {
            "name": value.get("name"),
            "settings": {key: item for key, item in value.items() if key != "name"},
        }

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        return name if name == "auto" else known("strategies", name)

    @field_validator("settings", mode="before")
    @classmethod
    def _settings(cls, given: Any, info: ValidationInfo) -> Any:  # noqa: ANN401
        name = info.data.get("name")
        return given if name is None else strategy_card(name).settings.model_validate(given).model_dump()


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
