"""``paceline list``: every name that a study file can use, with what it is."""

import json

import pytest

from paceline import registry
from paceline.cli import main


@pytest.mark.parametrize("kind", ["workloads", "optimizers", "strategies"])
def test_every_name_is_listed_with_a_summary(kind, capsys):
    assert main(["list", kind, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[kind]
    assert [entry["name"] for entry in found] == registry.names(kind)
    assert all(entry["summary"] for entry in found)


def test_defaults_are_told(capsys):
    assert main(["list", "optimizers", "--json"]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["optimizers"]}
    assert found["adam"]["hyperparameters"]["beta1"] == 0.9
    assert main(["list", "optimizers"]) == 0
    assert "beta1=0.9" in capsys.readouterr().out.replace("\n", "")


def test_an_unknown_word_gets_the_nearest(capsys):
    assert main(["list", "optimisers"]) == 2
    assert "did you mean 'optimizers'?" in capsys.readouterr().err
