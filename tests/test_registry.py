"""Names: every table agrees with every other, every path can be imported, unknown names are helped along."""

from __future__ import annotations

import subprocess
import sys

import pytest

from paceline import cards, optimizer_cards, registry, strategy_cards
from paceline.errors import UsageError, nearest

EVERY_NAME = [(kind, name) for kind, table in registry.REGISTRY.items() for name in table]


def test_every_registered_contestant_has_a_card():
    assert set(registry.REGISTRY["optimizers"]) == set(optimizer_cards.OPTIMIZERS)
    assert set(registry.REGISTRY["strategies"]) == set(strategy_cards.STRATEGIES)
    assert set(registry.REGISTRY["workloads"]) == set(cards.WORKLOADS)


@pytest.mark.parametrize(("kind", "name"), EVERY_NAME)
def test_every_name_can_be_imported(kind, name):
    assert callable(registry.resolve(kind, name))


def test_an_unknown_name_is_refused_with_the_nearest_and_the_list():
    with pytest.raises(UsageError, match=r"unknown optimizer 'adamm': did you mean .adam.\? Allowed: adafactor"):
        registry.canonical("optimizers", "adamm")


@pytest.mark.parametrize("path", ["no_such_module:build", "paceline.registry:no_such_thing", "paceline.registry:"])
def test_what_cannot_be_imported_is_said_to_be_so(path):
    with pytest.raises(UsageError, match="cannot be imported"):
        registry.resolve("optimizers", path)


def test_nearest_lists_all_where_none_is_near():
    assert nearest("zzz", ["b", "a"]) == "allowed: a, b"


def test_the_tables_are_read_without_torch():
    """A study with built-in contestants is validated, expanded and named without importing torch, pandas or scipy."""
    code = (
        "import sys, paceline.study, paceline.trial, paceline.plan.run, paceline.job, paceline.summary, paceline.cli\n"
        "paceline.study.validate({'name': 'x', 'seeds': [0], 'max_epochs': 1, 'workloads': {'lenet5-mnist': {}},"
        " 'optimizers': {'adam': {}}, 'batch': {'rule': 'global', 'global_batch_size': 8}}, source='')\n"
        "print([name for name in ('torch', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
