"""Runs that are damaged, odd or empty: every reading command ends clearly, and none shows what cannot be."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from analysis.synthetic import make_run, make_study
from paceline import records
from paceline.cli import main
from paceline.records import read_json, write_json

COMMANDS = {
    "report": ("report",),
    "report --json": ("report", "--json", "--no-html"),
    "status": ("status", "--json"),
    "export": ("export", "--to", "csv"),
}
Edit = Callable[[dict[str, Any]], dict[str, Any] | None]


@pytest.fixture
def folder(tmp_path):
    """Two seeds of two optimizers on one rank and on two."""
    return make_run(tmp_path, make_study(seeds=[0, 1], optimizers={"sgd": {}, "adam": {}}))


@pytest.fixture
def ask(capsys):
    """Runs a command on a run: its exit code, its output, what it said on standard error."""

    def ask(command: str, folder: Path) -> tuple[int, str, str]:
        name, *options = COMMANDS[command]
        code = main([name, str(folder), *options])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return ask


@pytest.fixture
def read(ask):
    """Runs all commands on a run that they can read; what they print, by command."""

    def read(folder: Path) -> dict[str, str]:
        found = {}
        for command, words in COMMANDS.items():
            code, found[command], err = ask(command, folder)
            assert code == 0, err
            if "--json" in words:
                json.loads(found[command], parse_constant=pytest.fail)
        return found

    return read


@pytest.fixture
def refuse(ask):
    """Runs all commands on a run that none can read; nothing on standard output, and one message, returned."""

    def refuse(folder: Path, code: int, commands: tuple[str, ...] = tuple(COMMANDS)) -> str:
        said = set()
        for command in commands:
            got, out, err = ask(command, folder)
            assert (got, out) == (code, ""), (command, err)
            said.add(err)
        (message,) = said
        assert message.startswith("paceline: ")
        return message

    return refuse


def edit(path: Path, change: Edit) -> None:
    """Change each record of a file; None leaves it out."""
    changed = (change(json.loads(line)) for line in path.read_text().splitlines())
    path.write_text("".join(json.dumps(record) + "\n" for record in changed if record is not None))


def file_of(folder: Path, trial: str = "adam_ddp_1x2_seed1", rank: int = 0) -> Path:
    (found,) = folder.glob(f"*_{trial}_*/rank-{rank:04d}.jsonl")
    return found


def cells(found: dict[str, str]) -> dict[str, dict[str, Any]]:
    return {cell["name"].partition("/")[2]: cell for cell in json.loads(found["report --json"])["cells"]}


@pytest.mark.parametrize("num_bytes", [1, 150, 900])
def test_a_torn_last_line_is_left_out(folder, read, num_bytes):
    """The end is lost, the time to the target is not; cut deeper, the last epoch is lost as well."""
    before = cells(read(folder))["adam+ddp@1x2"]["trials"][1]
    path = file_of(folder)
    path.write_bytes(path.read_bytes()[:-num_bytes])
    after = cells(read(folder))["adam+ddp@1x2"]["trials"][1]
    assert after["time_to_target_s"] == before["time_to_target_s"]
    assert (before["test"] != {}, after["test"]) == (True, {})
    assert (after["train_time_s"] == before["train_time_s"]) is (num_bytes < 900)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_reach_no_target_and_enter_no_mean(folder, read, value):
    """As paceline writes them and as Python's json does, from the first evaluation on."""
    edit(file_of(folder), lambda record: record | {
        split: dict.fromkeys(record[split], value) for split in ("train", "validation", "test") if split in record
    })  # fmt: skip
    found = read(folder)
    cell = cells(found)["adam+ddp@1x2"]
    assert [row["time_to_target_s"] is None for row in cell["trials"]] == [False, True]
    assert cell["final_validation"]["accuracy"]["num_trials"] == 1
    assert not re.search(r"\b(nan|inf)\b", found["report"], re.IGNORECASE)


@pytest.mark.parametrize("value", ["NaN", "Infinity", -0.5])
def test_training_times_that_no_clock_shows_are_refused_by_file_and_line(folder, refuse, value):
    path = file_of(folder)
    edit(path, lambda record: record | ({"train_time_s": value} if record["kind"] == "evaluation" else {}))
    assert f"{path}, line 2 is no record of paceline: train_time_s: Input should be" in refuse(folder, 1)


def test_a_missing_rank_is_named(folder, read):
    file_of(folder, rank=1).unlink()
    found = read(folder)
    assert "Records are missing of rank 1 in 1 trial" in " ".join(found["report"].split())
    assert cells(found)["adam+ddp@1x2"]["num_reached"] == 2


def test_a_trial_whose_first_rank_is_missing_has_not_reached_the_target(folder, read):
    """It alone evaluates."""
    file_of(folder, rank=0).unlink()
    found = read(folder)
    assert "Records are missing of rank 0 in 1 trial" in " ".join(found["report"].split())
    assert cells(found)["adam+ddp@1x2"]["num_reached"] == 1


@pytest.mark.parametrize(("version", "advice"), [(2, "upgrade paceline"), (0, "read it with the paceline that")])
@pytest.mark.parametrize("name", ["rank-0001.jsonl", "exit.json"])
def test_a_schema_version_that_cannot_be_read_is_refused_by_name(folder, refuse, name, version, advice):
    """Newer or older, in one trial among others of this version."""
    path = file_of(folder).with_name(name)
    if name == "exit.json":
        write_json(path, read_json(path) | {"schema_version": version})
    else:
        edit(path, lambda record: record | ({"schema_version": version} if "schema_version" in record else {}))
    message = refuse(folder, 1)
    assert str(path) in message
    assert f"schema version {version}" in message
    assert advice in message


def test_two_schema_versions_that_can_both_be_read_stand_in_one_run(folder, read, monkeypatch):
    before = cells(read(folder))
    edit(file_of(folder), lambda record: record | ({"schema_version": 2} if record["kind"] == "start" else {}))
    monkeypatch.setattr(records, "SCHEMA_VERSION", 2)
    assert cells(read(folder)) == before


def jumps_back(field: str, by: float) -> Edit:
    """From the third epoch on a clock shows less."""
    return lambda record: record | ({field: record[field] - by} if record.get("epoch", 0) >= 3 else {})


@pytest.mark.parametrize(("field", "by"), [("time", 86_400.0), ("train_time_s", 1.9)])
def test_clocks_that_jump_back_are_named_and_no_time_is_negative(folder, read, capsys, field, by):
    edit(file_of(folder), jumps_back(field, by))
    found = read(folder)
    assert not re.search(r"(?<![\w.])-\d[\d.,]* (µs|ms|s|min|h)\b", found["report"])
    for cell in cells(found).values():
        times = [cell["time_to_target_s"], *(row[key] for row in cell["trials"] for key in row if key.endswith("_s"))]
        assert all(time is None or time >= 0 for time in times)
    assert main(["audit", str(folder)]) == 1
    assert re.search(r"fail +clocks monotonic", capsys.readouterr().out)


def test_a_running_trial_whose_clock_is_ahead_was_not_last_heard_of_in_the_future(tmp_path, ask):
    folder = make_run(tmp_path, make_study(seeds=[0]), outcome=lambda trial: "running")
    edit(file_of(folder, "adam_ddp_1x2_seed0"), lambda record: record | {"time": record["time"] + 1e6})
    code, out, _ = ask("status", folder)
    assert code == 0
    assert all(trial["last_record_age_s"] >= 0 for trial in json.loads(out)["running"])


@pytest.mark.parametrize(
    ("field", "value"), [("processor", "Other CPU"), ("torch_version", "2.9.0"), ("num_threads", 7)]
)
def test_trials_from_unlike_machines_are_not_compared_but_counted(folder, refuse, ask, field, value):
    edit(file_of(folder), lambda record: record | ({field: value} if field in record else {}))
    message = refuse(folder, 2, ("report", "report --json", "export"))
    assert f"{field} differs" in message
    assert str(value) in message
    code, out, _ = ask("status", folder)
    assert (code, json.loads(out)["num_over"]) == (0, 8)


def test_a_target_that_nobody_reached_leaves_blanks_not_numbers(folder, read):
    settings = read_json(folder / "study.json")
    settings["workloads"]["digits"]["target"] = 0.9999
    write_json(folder / "study.json", settings)
    found = read(folder)
    assert "no cell reached a validation accuracy of 99.99 % or more" in " ".join(found["report"].split())
    for cell in cells(found).values():
        assert (cell["num_reached"], cell["time_to_target_s"]) == (0, None)
    with (folder / "export" / "csv" / "trials.csv").open(newline="") as file:
        assert {row["time_to_target_s"] for row in csv.DictReader(file)} == {""}


def test_one_seed_is_shown_and_nothing_is_claimed(tmp_path, read):
    found = read(make_run(tmp_path, make_study(seeds=[0])))
    assert "No claim: 5 declared comparisons need 8 finished seeds" in " ".join(found["report"].split())
    assert all(cell["num_trials"] == 1 and cell["time_to_target_s"] for cell in cells(found).values())


def test_a_run_without_a_trial_is_refused_with_advice(folder, refuse):
    for path in folder.glob("*/trial.json"):
        path.unlink()
    assert "has no trial yet; start it with `paceline run`" in refuse(folder, 2)


def test_a_run_whose_trials_have_not_begun_is_shown_as_such(tmp_path, read):
    found = read(make_run(tmp_path, make_study(seeds=[0]), outcome=lambda trial: "waiting"))
    assert "0 of 6 trials are over" in " ".join(found["report"].split())
    assert json.loads(found["status"])["states"]["waiting"] == 6


@pytest.mark.parametrize("line", ["\x00\x00\x00", '{"kind": "evaluation"}', "<<<<<<< HEAD"])
def test_a_damaged_line_in_the_middle_is_refused_by_file_and_line(folder, refuse, line):
    path = file_of(folder)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], line, *lines[3:]]) + "\n")
    assert f"{path}, line 4 is no record of paceline" in refuse(folder, 1)
