"""``paceline show``: the card of each contestant, and the pages of docs that are made of the cards."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from pydantic import Field, PositiveInt

from paceline.cards import Choices, Hyperparameters, Search
from paceline.cli import main
from paceline.errors import UsageError
from paceline.optimizer_cards import OPTIMIZERS
from paceline.report import contestants
from paceline.strategy_cards import STRATEGIES
from paceline.study import Scale, validate

KINDS = get_args(contestants.Shown)
EVERY = [(kind, name) for kind in KINDS for name in contestants.names(kind)]
DOCS = Path(__file__).parents[2] / "docs"


def said(capsys, *arguments: str) -> str:
    assert main(["show", *arguments]) == 0
    return capsys.readouterr().out


def solid(text: str) -> str:
    """Without line breaks and room."""
    return "".join(text.split())


@pytest.mark.parametrize("kind", ["optimizer", "strategy"])
def test_the_page_in_docs_is_what_the_tables_give(kind):
    command = contestants.remake_command(kind)
    page = DOCS / command.rpartition("/")[2]
    assert page.read_text() == contestants.page(kind), f"docs are out of date; run: {command}"


@pytest.mark.parametrize("kind", KINDS)
def test_markdown_without_a_name_is_the_page(kind, capsys):
    assert said(capsys, kind, "--markdown") == contestants.page(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_section_of_the_page_is_the_markdown_of_its_card(kind, capsys):
    page = contestants.page(kind)
    assert all(said(capsys, kind, name, "--markdown") in page for name in contestants.names(kind))


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_card_has_all_that_is_known_within_80_columns(kind, name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    (card,) = json.loads(said(capsys, kind, name, "--json"))["cards"]
    text = said(capsys, kind, name)
    assert max(map(len, text.splitlines())) <= 80
    told = solid(text)
    parts = [card["summary"], *card["notes"], card["update_rule"], *card["facts"], *card["facts"].values()]
    partners = min(card["goes_with"], card["refuses"], key=len)
    assert all(solid(part) in told for part in [*parts, *partners, *card["refuses"].values()])
    assert all(f"\n{one['name']} " in text for one in card["hyperparameters"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_tells_its_rule_its_memory_its_source_and_all_hyperparameters(name):
    card = contestants.card_of("optimizer", name)
    assert card.summary
    assert card.update_rule
    assert all(card.facts[heading] for heading in ("memory", "communication", "source", "code"))
    assert {one.name: one.default for one in card.hyperparameters} == OPTIMIZERS[name]().model_dump()
    assert any(one.searched for one in card.hyperparameters)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_tells_what_it_promises_what_it_sends_and_all_settings(name):
    card = contestants.card_of("strategy", name)
    expected = {"ranks", "evaluates", "sends", "code"} | ({"promises"} if name != "single" else set())
    assert expected <= card.facts.keys()
    assert {one.name: one.default for one in card.hyperparameters} == STRATEGIES[name].settings().model_dump()
    assert all(one.description for one in card.hyperparameters)


def accepts(optimizer: str, strategy: str) -> bool:
    """Whether a study runs this optimizer with this strategy where it asks for both."""
    scale = Scale(ranks_per_host=1 if strategy == "single" else 2)
    settings = {
        "name": "pair",
        "seeds": [0],
        "max_epochs": 1,
        "scales": [str(scale)],
        "batch": {"rule": "global", "global_batch_size": 64},
        "workloads": {"logreg-mnist": {}},
        "optimizers": {optimizer: {}},
    } | ({"reproducible": True} if strategy == "reproducible" else {"strategies": [strategy]})
    try:
        return validate(settings, source="test").strategies_at(scale, optimizer) == [strategy]
    except UsageError as error:
        assert "does not admit" in str(error)
        return False


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_cards_of_both_kinds_say_which_pairs_a_study_accepts(strategy):
    admitted = [optimizer for optimizer in OPTIMIZERS if accepts(optimizer, strategy)]
    card = contestants.card_of("strategy", strategy)
    assert list(card.goes_with) == admitted
    assert {*card.goes_with, *card.refuses} == {*OPTIMIZERS}
    cards = {optimizer: contestants.card_of("optimizer", optimizer) for optimizer in OPTIMIZERS}
    assert [optimizer for optimizer, own in cards.items() if strategy in own.goes_with] == admitted
    assert {optimizer: own.refuses[strategy] for optimizer, own in cards.items() if strategy in own.refuses} == (
        card.refuses
    )


def test_ranges_and_searches_in_words():
    class Table(Hyperparameters):
        lr: Annotated[float, Field(gt=0), Search(low=1e-5, high=3e-2, log=True)] = 1e-8
        share: Annotated[float, Field(ge=0, lt=1), Search(low=0.5, high=1.0)] = 0.999
        free: float = 2.0
        steps: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = "auto"
        count: PositiveInt = 10_000
        search: Annotated[Literal["wolfe", "fixed"], Choices(values=("wolfe", "fixed"))] = "wolfe"
        flag: bool = False

    schemas = Table.model_json_schema()["properties"]
    found = {
        name: (contestants.value_in_words(schema["default"]), contestants.allowed_in_words(schema))
        for name, schema in schemas.items()
    }
    assert found == {
        "lr": ("1e-8", "> 0"),
        "share": ("0.999", "≥ 0, < 1"),
        "free": ("2", "any number"),
        "steps": ("auto", "integer ≥ 1, ≤ 10,000 or auto"),
        "count": ("10,000", "integer > 0"),
        "search": ("wolfe", "wolfe, fixed"),
        "flag": ("false", "true, false"),
    }
    assert contestants.searched_in_words(Search(low=1e-5, high=3e-2, log=True)) == "1e-5 to 0.03, log"
    assert contestants.searched_in_words(Search(low=1, high=20)) == "1 to 20"
    assert contestants.searched_in_words(("wolfe", True)) == "wolfe, true"
    assert contestants.searched_in_words(None) == ""


def test_json_has_ranges_and_searches_as_values(capsys):
    (card,) = json.loads(said(capsys, "optimizer", "adamw", "--json"))["cards"]
    (lr,) = [one for one in card["hyperparameters"] if one["name"] == "lr"]
    assert lr["default"] == 1e-3
    assert lr["allowed"] == {"type": "number", "exclusiveMinimum": 0}
    assert lr["searched"] == {"low": 1e-4, "high": 3e-2, "log": True}


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_name_all_are_listed(kind, capsys):
    text = said(capsys, kind)
    assert [line.split()[0] for line in text.splitlines() if line[0] != " "] == contestants.names(kind)
    assert [card["name"] for card in json.loads(said(capsys, kind, "--json"))["cards"]] == contestants.names(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_one_from_outside_is_said_to_be_so(kind, capsys):
    text = said(capsys, kind, "theirs.module:build")
    assert "theirs.module:build" in text
    assert "from outside" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("optimizer", "adamm"), "unknown optimizer 'adamm': did you mean 'adam'? Allowed: "),
        (("strategy", "powersdg"), "unknown strategy 'powersdg': did you mean 'powersgd'? Allowed: "),
        (
            ("optimizers",),
            "unknown kind 'optimizers': did you mean 'optimizer'? Allowed: optimizer, strategy, workload",
        ),
        (("optimizer", "adam", "--json", "--markdown"), "give one of them"),
    ],
)
def test_wrong_use_is_told_with_the_way_out(arguments, message, capsys):
    assert main(["show", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_card_is_shown_without_importing_torch():
    code = (
        "import sys; from paceline.cli import main; main(['show', 'optimizer', 'adam'])\n"
        "print([name for name in ('torch', 'numpy', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
