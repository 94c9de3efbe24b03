"""A study written back as TOML is the same study."""

import tomllib

from analysis.synthetic import make_study
from paceline.report.settings import flat, study_toml
from paceline.study import validate


def test_the_listing_is_a_study_file_of_the_same_study():
    study = make_study(
        question='A "quoted" question\nover two lines, with an é',
        scales=[1, "2x4"],
        options={"clip_grad_norm": 1.5},
        optimizers={"a.dotted-label": {"name": "adam", "options": {"autocast": "bf16"}}, "sgd": {}},
        comparisons=[["sgd@1", "a.dotted-label@1"]],
        workloads={"digits": {"name": "theirs.package:build", "options": {"size": 3}, "target": 0.5}},
    )
    assert validate(tomllib.loads(study_toml(study)), source="listing") == study


def test_the_listing_of_a_tuned_study_leaves_free_what_was_searched():
    study = make_study(optimizers={"adam": {"beta1": 0.95}, "sgd": {}}, tuning={"num_trials": 4})
    listing = study_toml(study)
    assert validate(tomllib.loads(listing), source="listing") == study
    assert "\nbeta1 = 0.95" in listing
    assert "\n# lr = 0.001" in listing


def test_nested_settings_become_lines():
    assert list(flat({"a": {"b": 1, "c": {}}, "d": [1, "x"], "e": "text"})) == [
        ("a.b", "1"),
        ("a.c", "{}"),
        ("d", '[1, "x"]'),
        ("e", "text"),
    ]
