"""Study files: every mistake at once, each with its path and the nearest allowed name; what is valid round-trips."""

from __future__ import annotations

import copy
import json
import math
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.errors import UsageError
from paceline.study import Study, json_schema, load, validate
from paceline.study_tables import Scale

STUDIES = sorted((Path(__file__).parents[1] / "studies").glob("*.toml"))


def minimal(**changes: Any) -> dict[str, Any]:
    return {
        "name": "small",
        "seeds": [0, 1],
        "max_epochs": 3,
        "scales": [1, 2],
        "batch": {"rule": "global", "global_batch_size": 64},
        "workloads": {"lenet5-mnist": {}},
        "optimizers": {"adam": {}, "sgd": {"lr": 0.1}},
    } | changes


def message_of(**changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        validate(minimal(**changes), source="study.toml")
    return str(caught.value)


def test_every_mistake_is_reported_at_once():
    message = message_of(
        max_epoch=3,
        max_epochs=0,
        scales=["2y4"],
        strategies=["dpp"],
        batch={"rule": "global", "global_batch_size": -64},
        workloads={"lenet": {}},
        optimizers={"adam": {"learning_rate": 0.1, "beta1": 1.5}, "sgd": {"lr": 0}},
        options={"autocast": "fp8"},
    )
    for expected in (
        "study.toml: 10 mistakes",
        "max_epoch: unknown key; did you mean 'max_epochs'?",
        "max_epochs: Input should be greater than 0 (given: 0)",
        "scales.0: a scale is a number of ranks",
        "strategies.dpp.name: unknown strategy 'dpp': did you mean 'ddp'?",
        "batch.global_batch_size: Input should be greater than 0 (given: -64)",
        "workloads.lenet.name: unknown workload 'lenet': allowed: lenet5-fashion-mnist,",
        "optimizers.adam.learning_rate: unknown key;",
        "optimizers.adam.beta1: Input should be less than 1 (given: 1.5)",
        "optimizers.sgd.lr: Input should be greater than 0",
        "options.autocast: Input should be 'off' or 'bf16' (given: 'fp8')",
    ):
        assert expected in message, f"{expected!r} is not in:\n{message}"


MISTAKES = {
    "batch below ranks": (
        {"scales": [1, 4], "batch": {"rule": "global", "global_batch_size": 3}},
        "batch: global_batch_size 3 is smaller than the 4 ranks of the largest scale; raise it to at least 4",
    ),
    "strategy does not admit the scale": (
        {"strategies": ["single"]},
        "no strategy of single admits the scale 1x2 (2 ranks): single takes exactly 1",
    ),
    "a strategy's setting that it has not": (
        {"strategies": {"ddp": {"period": 3}}},
        "strategies.ddp.period: unknown key",
    ),
    "a label that is another strategy's name": (
        {"strategies": {"single": {"name": "ddp"}}},
        "strategies: 'single' is a label for ddp: use 'ddp' itself",
    ),
    "a strategy twice": ({"strategies": ["ddp", "ddp"]}, "strategies: a value is given twice"),
    "a schedule that there is not": (
        {"schedules": ["cosinus"]},
        "schedules.cosinus.name: Input should be 'constant', 'cosine', 'linear', 'one-cycle' or 'step'",
    ),
    "an unknown schedule of one optimizer": (
        {"optimizers": {"adam": {"schedule": "cosine"}}},
        "[optimizers.adam] asks for schedule 'cosine'; the study has none",
    ),
    "warm-up that never ends": ({"schedules": {"cosine": {"warmup": 1.0}}}, "schedules.cosine.warmup: "),
    "an optimizer that a strategy does not admit": (
        {"strategies": ["fp16"], "optimizers": {"lbfgs-torch": {}}, "scales": [2]},
        "fp16 does not admit lbfgs-torch: it compares several evaluations of one objective",
    ),
    "unknown optimizer": ({"optimizers": {"adma": {}}}, "optimizers.adma.name: unknown optimizer 'adma': did you mean"),
    "seed twice": ({"seeds": [1, 1]}, "seeds: a value is given twice"),
    "seed below 0": ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0"),
    "no seed": ({"seeds": []}, "seeds: "),
    "no optimizer": ({"optimizers": {}}, "optimizers: "),
    "no hosts": ({"scales": ["0x2"]}, "Input should be greater than 0"),
    "a scale that is true": ({"scales": [True]}, "scales.0: a scale is a number of ranks"),
    "batch without rule": ({"batch": {"global_batch_size": 3}}, "batch: Unable to extract tag using discriminator"),
    "per_rank without lr_rule": ({"batch": {"rule": "per_rank", "rank_batch_size": 3}}, "batch.lr_rule: Field req"),
    "key of the other rule": (
        {"batch": {"rule": "global", "global_batch_size": 3, "lr_rule": "none"}},
        "batch.lr_rule: unknown key; did you mean 'rule'? Allowed: global_batch_size, rule",
    ),
    "unknown option of one optimizer": (
        {"optimizers": {"adam": {"options": {"clip_grad_nrm": 1.0}}}},
        "optimizers.adam.options.clip_grad_nrm: unknown key; did you mean 'clip_grad_norm'?",
    ),
    "infinite budget by number": ({"max_train_time_s": math.inf}, "max_train_time_s: "),
    "infinite lr": ({"optimizers": {"adam": {"lr": math.inf}}}, "optimizers.adam.lr: "),
    "name that is a path": ({"name": "../up"}, "name: "),
    "a table that is none": ({"optimizers": {"adam": 3}}, "optimizers.adam: "),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_named_with_its_path(case):
    changes, expected = MISTAKES[case]
    assert expected in message_of(**changes)


def test_every_optimizer_runs_with_every_schedule():
    """Several schedules make labels of their own, one makes none; an optimizer may ask for one of them."""
    study = validate(
        minimal(
            schedules={"constant": {}, "warm": {"name": "cosine", "warmup": 0.1}},
            optimizers={"adam": {}, "sgd": {"schedule": "warm"}},
        ),
        source="test",
    )
    assert {label: entry.schedule for label, entry in study.optimizers.items()} == {
        "adam-constant": "constant", "adam-warm": "warm", "sgd": "warm",
    }  # fmt: skip
    assert study.schedule_of("adam-constant") is None
    assert study.schedule_of("sgd").warmup == 0.1
    assert validate(study.model_dump(mode="json"), source="again") == study
    one = validate(minimal(schedules=["cosine"], optimizers={"adam": {}}), source="test")
    assert list(one.optimizers) == ["adam"]
    assert one.schedule_of("adam").name == "cosine"


def test_strategies_are_names_or_tables():
    study = validate(
        minimal(
            strategies={"ddp": {}, "local-4": {"name": "local-sgd", "period": 4}},
            optimizers={"adam": {}, "sgd": {"strategies": ["ddp"]}, "lbfgs": {}},
            scales=[1, 2],
        ),
        source="test",
    )
    two = study.scales[1]
    assert study.strategies_at(two, "adam") == ["ddp", "local-4"]
    assert study.strategies_at(two, "sgd") == ["ddp"]
    assert study.strategies_at(two, "lbfgs") == ["by-optimizer"]
    some = {"adam": {"strategies": ["auto"]}, "sgd": {}}
    chosen = validate(minimal(strategies=["auto", "fp16"], optimizers=some, scales=[2]), source="test")
    assert [chosen.strategies_at(chosen.scales[0], label) for label in some] == [["ddp"], ["ddp", "fp16"]]
    assert study.strategy("local-4").settings == {"period": 4}
    assert validate(study.model_dump(mode="json"), source="again") == study


JUNK = [None, True, -1, 0, 3, 1.5, math.nan, "x", "", "adam", [], [1], {}, {"name": 3}, {"x": {"y": 1}}]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_whatever_stands_in_a_study_it_is_valid_or_a_usage_error(data):
    """No other exception, wherever junk is put."""
    given = copy.deepcopy(
        minimal(
            options={"clip_grad_norm": 1.0},
            strategies=["auto"],
            comparisons=[["adam@1", "sgd@1"]],
            workloads={"lenet5-mnist": {"name": "lenet5-mnist", "options": {}, "target": 0.5}},
            optimizers={"lbfgs": {"options": {"accumulation_steps": 2}, "max_eval": 3}, "mine:build": {"x": 1}},
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = given
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from([*keys, *(["junk"] if isinstance(place, dict) else [])] or ["junk"]))
            inside = place[key] if not isinstance(place, dict) or key in place else None
            if isinstance(inside, dict | list) and inside and data.draw(st.booleans()):
                place = inside
                continue
            place[key] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
            break
    try:
        assert isinstance(validate(given, source="s"), Study)
    except UsageError as error:
        assert "mistake" in str(error)


def test_overrides_reach_any_setting_and_are_typed(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('name = "a"\nseeds = [0]\nmax_epochs = 3\nbatch = {rule = "global", global_batch_size = 8}\n'
                    "[workloads.logreg-mnist]\n[optimizers.sgd]\nlr = 0.5\n")  # fmt: skip
    study = load(path, ["max_epochs=1", "optimizers.sgd.lr=0.25", "optimizers.adam.beta1=0.5", "scales=[1, 2]",
                        "question=which one", "workloads.logreg-mnist.dataset=mnist-small", "name=b"])  # fmt: skip
    assert (study.max_epochs, study.name, study.question) == (1, "b", "which one")
    assert study.optimizers["sgd"].hyperparameters["lr"] == 0.25
    assert study.optimizers["adam"].hyperparameters["beta1"] == 0.5
    assert [scale.num_ranks for scale in study.scales] == [1, 2]
    assert study.workloads["logreg-mnist"].dataset == "mnist-small"


@pytest.mark.parametrize("override", ["max_epochs", "=3", "a..b=1", "max_epochs.deep=3", "optimizers.sgd.lr=fast"])
def test_an_override_that_makes_no_sense_is_refused(tmp_path, override):
    path = tmp_path / "s.toml"
    path.write_text('name = "a"\nseeds = [0]\nmax_epochs = 3\nbatch = {rule = "global", global_batch_size = 8}\n'
                    "[workloads.logreg-mnist]\n[optimizers.sgd]\n")  # fmt: skip
    with pytest.raises(UsageError):
        load(path, [override])


@pytest.mark.parametrize("content", [None, b"name = ", b"\xff\xfe"])
def test_a_file_that_is_no_study_is_named(tmp_path, content):
    path = tmp_path / "s.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"s\.toml"):
        load(path)


def test_there_are_studies_to_check():
    assert STUDIES


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_the_json_schema_accepts_the_shipped_studies(path):
    """And so does the program."""
    jsonschema.validate(tomllib.loads(path.read_text()), json_schema())
    load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_epochs": 0},
        {"max_epoch": 3},
        {"seeds": []},
        {"scales": ["2y4"]},
        {"scales": [0]},
        {"batch": {"rule": "both"}},
        {"optimizers": {"sgd": {"lr": 0}}},
    ],
)
def test_the_json_schema_refuses_what_the_program_refuses(changes):
    jsonschema.validate(minimal(), json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(minimal(**changes), json_schema())
    message_of(**changes)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.name)
def test_a_resolved_study_validates_to_itself(path):
    """``study.json`` holds everything: read back, it is the same study."""
    study = load(path)
    assert validate(json.loads(json.dumps(study.model_dump(mode="json"))), source="study.json") == study


def test_a_scale_is_written_in_several_ways():
    scales = validate(minimal(scales=[1, "3", "2x4", {"num_hosts": 2, "ranks_per_host": 1}]), source="").scales
    assert [str(scale) for scale in scales] == ["1x1", "1x3", "2x4", "2x1"]
    assert scales[2] == Scale(num_hosts=2, ranks_per_host=4)
    assert scales[2].num_ranks == 8


def test_options_of_one_optimizer_override_those_of_the_study():
    study = validate(
        minimal(options={"clip_grad_norm": 1.0, "accumulation_steps": 2},
                optimizers={"adam": {"options": {"clip_grad_norm": "off"}}, "sgd": {}}),
        source="",
    )  # fmt: skip
    assert study.options_of("adam").clip_grad_norm == "off"
    assert study.options_of("adam").accumulation_steps == 2
    assert study.options_of("sgd").clip_grad_norm == 1.0
