"""The ``[tuning]`` table of a study: how many configurations each optimizer may try, and from which space.

Budgets are equal by construction: every optimizer gets ``num_trials`` configurations at every scale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from paceline.cards import Choices, Frozen, Name, Search, Seed
from paceline.errors import nearest
from paceline.optimizer_cards import hyperparameters_of

Value = bool | int | float | str
LONGEST_LABEL = 56  # leaves room for the number of a configuration in a name of 64 characters


def _form(explored: Any) -> str | None:  # noqa: ANN401
    if isinstance(explored, Search | Mapping):
        return "a range"
    return "a list" if isinstance(explored, list | tuple) else None


FORMS = ("a range", "a list")  # pydantic puts them into the path of an error
Explored = Annotated[
    Annotated[Search, Tag("a range")] | Annotated[tuple[Value, ...], Tag("a list")],
    Discriminator(
        _form, custom_error_type="search", custom_error_message="give { low = ..., high = ... } or a list of choices"
    ),
]
Space = dict[str, Explored]


class Tuning(Frozen):
    """Each optimizer's hyperparameters are chosen at each scale from equally many, before the study's own trials."""

    num_trials: PositiveInt = Field(description="configurations for each optimizer at each scale")
    seeds: tuple[Seed, ...] = Field((1000,), min_length=1, description="of the tuning trials; none of the study's own")
    sobol_seed: Seed = Field(0, description="scrambles the sequence of configurations")
    max_epochs: PositiveInt | Literal["auto"] = Field("auto", description="'auto': the study's own")
    max_train_time_s: PositiveFloat | Literal["unlimited", "auto"] = Field(
        "auto", description="'auto': the study's own"
    )
    search: dict[Name, Space] = Field(
        default_factory=dict,
        description="by optimizer label and hyperparameter: { low, high, log } or a list of choices; "
        "an optimizer left out has its default space, without the hyperparameters that are given",
    )


def resolve(
    tuning: Tuning, *, seeds: tuple[int, ...], contestants: Mapping[str, tuple[str, tuple[str, ...]]]
) -> Tuning:
    """The table with the whole search space of every optimizer written out, bounds in the hyperparameters' own types.

    Args:
        seeds: the study's own.
        contestants: by label: the optimizer's name, and the hyperparameters that the study file gives.
    Raises: pydantic's ValidationError with every mistake and its path.
    """
    mistakes = _Mistakes()
    shared = sorted(set(tuning.seeds) & set(seeds))
    if shared:
        mistakes.add(
            ("seeds",), f"{shared} are seeds of the study too: choose others, or tuning saw what it is judged by"
        )
    if len(set(tuning.seeds)) < len(tuning.seeds):
        mistakes.add(("seeds",), "a value is given twice")
    for label in tuning.search.keys() - contestants.keys():
        mistakes.add(("search", label), f"no optimizer has this label; {nearest(label, contestants)}")
    spaces: dict[str, Space] = {}
    for label, (name, given) in contestants.items():
        mistakes.path = ("search", label)
        if len(label) > LONGEST_LABEL:
            mistakes.add((), f"a label that is tuned has at most {LONGEST_LABEL} characters")
        asked = tuning.search.get(label)
        spaces[label] = default_space(name, given) if asked is None else _checked(name, given, asked, mistakes)
        if asked is None or len(spaces[label]) == len(asked):
            _refuse_too_small(spaces[label], name, tuning.num_trials, mistakes)
    mistakes.raise_any()
    return tuning.model_copy(update={"search": spaces})


class _Mistakes:
    """Collects what is wrong, each with its path below ``path``."""

    def __init__(self) -> None:
        self.path: tuple[str, ...] = ()
        self._found: list[InitErrorDetails] = []

    def add(self, below: tuple[str, ...], message: str) -> None:
        error = PydanticCustomError("tuning", "{message}", {"message": message})
        # a mapping as input keeps the message from being followed by what was given
        self._found.append(InitErrorDetails(type=error, loc=(*self.path, *below), input={}))

    def raise_any(self) -> None:
        if self._found:
            raise ValidationError.from_exception_data("tuning", self._found)


def num_configurations(space: Space) -> float:
    """How many different configurations a space holds; infinite where it holds a range of real numbers."""
    return math.prod(
        len(explored) if isinstance(explored, tuple)
        else explored.high - explored.low + 1 if isinstance(explored.low, int)
        else math.inf
        for explored in space.values()
    )  # fmt: skip


def default_space(name: str, given: tuple[str, ...] = ()) -> Space:
    """What the optimizer's card says is worth searching, less what is given."""
    space: Space = {}
    for key, field in hyperparameters_of(name).model_fields.items():
        for worth in field.metadata:
            if isinstance(worth, Search | Choices) and key not in given:
                space[key] = worth.values if isinstance(worth, Choices) else _typed(name, key, worth)
    return space


def _checked(name: str, given: tuple[str, ...], asked: Space, mistakes: _Mistakes) -> Space:
    table, space = hyperparameters_of(name), {}
    for key, explored in asked.items():
        if key not in table.model_fields and table.model_config.get("extra") != "allow":
            mistakes.add((key,), f"{name} has no such hyperparameter; {nearest(key, table.model_fields)}")
        elif key in given:
            mistakes.add((key,), "is given a value beside its optimizer too; remove that, or this search")
        else:
            try:
                space[key] = _typed(name, key, explored)
            except ValidationError as error:
                for item in error.errors():
                    mistakes.add((key,), f"{item['msg']} (given: {item['input']!r})")
            except ValueError as error:
                mistakes.add((key,), str(error))
    return space


def _typed(name: str, key: str, explored: Search | tuple[Value, ...]) -> Search | tuple[Value, ...]:
    """The same with its values checked and converted as the hyperparameter's own.

    Raises: ValidationError or ValueError if a value is none that the hyperparameter takes, or makes no search.
    """

    def own(value: Value) -> Any:  # noqa: ANN401
        return getattr(hyperparameters_of(name).model_validate({key: value}), key)

    if isinstance(explored, tuple):
        values = tuple(own(value) for value in explored)
        if len(set(values)) < max(2, len(values)):
            raise ValueError("give two or more different choices; a single value stands beside its optimizer")
        return values
    low, high = own(explored.low), own(explored.high)
    if isinstance(low, bool | str) or isinstance(high, bool | str):
        raise ValueError("takes no range; give a list of choices")
    if isinstance(low, int) != isinstance(high, int):
        low, high = float(low), float(high)
    return Search(low=low, high=high, log=explored.log)


def _refuse_too_small(space: Space, name: str, num_trials: int, mistakes: _Mistakes) -> None:
    """Equal budgets need ``num_trials`` different configurations of everyone."""
    if not space:
        worth = ", ".join(default_space(name))
        why = f"of {worth} leave one without a value" if worth else "no default space is known"
        mistakes.add(
            (), f"nothing is left to search for {name}, and budgets would be unequal: {why}, or name ranges here"
        )
    elif num_configurations(space) < num_trials:
        mistakes.add(
            (),
            f"{num_configurations(space):.0f} different configurations are fewer than num_trials = {num_trials}; "
            "search more, or lower num_trials",
        )
