"""The ``[tuning]`` table: mistakes are named with their paths, spaces are written out, budgets cannot be unequal."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import jsonschema
import pytest

from paceline.cards import Search
from paceline.errors import UsageError
from paceline.optimizer_cards import OPTIMIZERS
from paceline.study import Study, json_schema, validate
from paceline.tuning import num_configurations

SETTINGS: dict[str, Any] = {
    "name": "small",
    "seeds": [0, 1],
    "max_epochs": 3,
    "scales": [1, 2],
    "batch": {"rule": "global", "global_batch_size": 64},
    "workloads": {"lenet5-mnist": {}},
    "optimizers": {"adam": {}, "sgd": {"lr": 0.1}, "quasi": {"name": "lbfgs"}},
}


def study_of(tuning: Any, **changes: Any) -> Study:
    return validate(SETTINGS | {"tuning": tuning} | changes, source="study.toml")


MISTAKES = {
    "unknown key": ({"num_trial": 3}, "tuning.num_trial: unknown key; did you mean 'num_trials'?"),
    "no number": ({}, "tuning.num_trials: Field required"),
    "a seed of the study": ({"seeds": [1, 7]}, "tuning.seeds: [1] are seeds of the study too"),
    "a seed twice": ({"seeds": [7, 7]}, "tuning.seeds: a value is given twice"),
    "unknown label": (
        {"search": {"adma": {}}},
        "tuning.search.adma: no optimizer has this label; did you mean 'adam'?",
    ),
    "unknown hyperparameter": (
        {"search": {"adam": {"beta": [0.8, 0.9]}}},
        "tuning.search.adam.beta: adam has no such hyperparameter; did you mean 'beta2'?",
    ),
    "out of its range": (
        {"search": {"adam": {"beta1": {"low": 0.9, "high": 1.5}}}},
        "tuning.search.adam.beta1: Input should be less than 1 (given: 1.5)",
    ),
    "a choice out of its range": (
        {"search": {"quasi": {"line_search": ["fixed", "wolfe"]}}},
        "tuning.search.quasi.line_search: Input should be 'weak_wolfe', 'strong_wolfe', 'armijo' or 'fixed' "
        "(given: 'wolfe')",
    ),
    "half a whole number": (
        {"search": {"quasi": {"max_iter": {"low": 1.5, "high": 3}}}},
        "tuning.search.quasi.max_iter: Input should be a valid integer",
    ),
    "a range of flags": (
        {"search": {"adam": {"amsgrad": {"low": 0, "high": 1}}}},
        "tuning.search.adam.amsgrad: takes no range; give a list of choices",
    ),
    "one choice": ({"search": {"adam": {"lr": [0.1]}}}, "tuning.search.adam.lr: give two or more different choices"),
    "the same choice": ({"search": {"adam": {"lr": [1, 1.0]}}}, "tuning.search.adam.lr: give two or more different"),
    "searched and given": (
        {"search": {"sgd": {"lr": {"low": 0.1, "high": 1.0}}}},
        "tuning.search.sgd.lr: is given a value beside its optimizer too; remove that, or this search",
    ),
    "upside down": ({"search": {"adam": {"lr": {"low": 1, "high": 0.1}}}}, "tuning.search.adam.lr: low is below high"),
    "the logarithm of 0": (
        {"search": {"adam": {"weight_decay": {"low": 0, "high": 1, "log": True}}}},
        "tuning.search.adam.weight_decay: a range on a logarithmic scale starts above 0",
    ),
    "half a range": ({"search": {"adam": {"lr": {"low": 1}}}}, "tuning.search.adam.lr.high: Field required"),
    "a misspelt bound": (
        {"search": {"adam": {"lr": {"low": 1, "high": 2, "hihg": 3}}}},
        "tuning.search.adam.lr.hihg: unknown key; did you mean 'high'? Allowed: high, log, low",
    ),
    "a number for a range": (
        {"search": {"adam": {"lr": 0.1}}},
        "tuning.search.adam.lr: give { low = ..., high = ... }",
    ),
    "too few configurations": (
        {"num_trials": 4, "search": {"adam": {"lr": [0.1, 0.2, 0.3]}}},
        "tuning.search.adam: 3 different configurations are fewer than num_trials = 4",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named_with_its_path(case):
    tuning, expected = MISTAKES[case]
    with pytest.raises(UsageError) as caught:
        study_of(({"num_trials": 2} if case != "no number" else {}) | tuning)
    assert expected in str(caught.value)


def test_every_mistake_is_reported_at_once():
    with pytest.raises(UsageError, match=r"study\.toml: 4 mistakes"):
        study_of(
            {
                "num_trials": 2,
                "seeds": [0],
                "search": {"x": {}, "adam": {"lr": [1], "eps": ["a", "b"], "beta1": [0, 0.5]}},
            },
            optimizers={"adam": {}},
        )


def test_an_optimizer_without_anything_to_search_is_refused_with_a_way_out():
    """Its budget would not be equal to the others'."""
    with pytest.raises(UsageError, match=r"tuning.search.sgd: nothing is left .*: of lr, momentum leave one without"):
        study_of({"num_trials": 2}, optimizers={"adam": {}, "sgd": {"lr": 0.1, "momentum": 0.0}})
    with pytest.raises(UsageError, match=r"tuning.search.mine: nothing is left .*: no default space is known, or name"):
        study_of({"num_trials": 2}, optimizers={"mine": {"name": "a.b:build", "lr": 0.1}})


def test_what_is_given_is_not_searched():
    study = study_of({"num_trials": 2})
    assert study.tuning is not None
    assert study.optimizers["sgd"].given == ("lr",)
    assert {label: list(space) for label, space in study.tuning.search.items()} == {
        "adam": ["lr", "beta1"], "sgd": ["momentum"], "quasi": ["lr", "max_iter", "line_search"],
    }  # fmt: skip


def test_a_table_of_ones_own_replaces_the_default_space():
    study = study_of({"num_trials": 2, "search": {"adam": {"lr": {"low": 1, "high": 2}}}})
    assert study.tuning is not None
    assert study.tuning.search["adam"] == {"lr": Search(low=1.0, high=2.0)}
    assert isinstance(study.tuning.search["adam"]["lr"].low, float), "bounds are of the hyperparameter's own type"
    assert isinstance(study.tuning.search["quasi"]["max_iter"].low, int)


def test_an_optimizer_from_outside_is_searched_where_told():
    space = {"steps": {"low": 1, "high": 4}, "lr": {"low": 0.1, "high": 1}, "mode": ["a", "b"]}
    study = study_of(
        {"num_trials": 2, "search": {"mine": space}}, optimizers={"mine": {"name": "a.b:build", "damping": 0.1}}
    )
    assert study.tuning is not None
    assert study.tuning.search["mine"] == {
        "steps": Search(low=1, high=4), "lr": Search(low=0.1, high=1.0), "mode": ("a", "b"),
    }  # fmt: skip


def test_a_resolved_study_validates_to_itself():
    """Spaces and what was given survive; so a study that was written out is the same study."""
    study = study_of({"num_trials": 2, "search": {"quasi": {"max_iter": [1, 2, 4]}}})
    assert validate(json.loads(json.dumps(study.model_dump(mode="json"))), source="study.json") == study


def test_a_study_written_before_there_was_tuning_still_loads():
    fields = json.loads(json.dumps(validate(SETTINGS, source="").model_dump(mode="json")))
    del fields["tuning"]
    for entry in fields["optimizers"].values():
        del entry["given"]
    study = validate(fields, source="study.json")
    assert study.tuning is None
    assert study.optimizers["sgd"].hyperparameters["lr"] == 0.1


def test_every_optimizer_has_a_default_space_within_its_own_ranges():
    study = study_of({"num_trials": 16}, optimizers={name: {} for name in OPTIMIZERS})
    assert study.tuning is not None
    for name, space in study.tuning.search.items():
        assert "lr" in space
        assert num_configurations(space) == float("inf")
        assert study.optimizers[name].given == ()


def test_the_schema_knows_the_table():
    text = """
    num_trials = 4
    [search.adam]
    lr = { low = 1e-4, high = 3e-2, log = true }
    beta1 = [0.8, 0.9]
    """
    jsonschema.validate(SETTINGS | {"tuning": tomllib.loads(text)}, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SETTINGS | {"tuning": {"num_trials": 0}}, json_schema())
