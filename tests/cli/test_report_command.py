"""``paceline report``: the table on standard output, the page beside the run, one JSON object for programs."""

import json

import pytest

from analysis.synthetic import make_run, make_study
from analysis.test_groups import two_groups
from paceline.cli import main

KEYS = {
    *("workload", "label", "optimizer", "strategy", "num_ranks", "num_hosts", "ranks_per_host", "global_batch_size"),
    *("hyperparameters", "num_trials", "num_reached", "time_to_target_s", "updates_to_target"),
    *("final_validation_accuracy", "examples_per_s"),
}


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path, make_study(seeds=[0, 1], optimizers={"sgd": {}, "adam": {}}))


def test_the_table_goes_to_standard_output_and_the_path_to_standard_error(folder, capsys):
    assert main(["report", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "Optimizer Strategy Ranks Reached" in out
    assert "No claim: 3 declared comparisons need 7 finished seeds" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert err.strip() == f"report: {folder / 'report.html'}"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


def test_json_is_one_object_with_the_promised_keys(folder, capsys):
    assert main(["report", str(folder), "--json", "--no-html"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert not (folder / "report.html").exists()
    found = json.loads(out)
    assert found["schema_version"] == 1
    assert found["study"] == "synthetic"
    assert len(found["cells"]) == 4
    assert found["groups"] is None
    assert all(cell.keys() >= KEYS for cell in found["cells"])
    assert found["cells"][0]["num_reached"] == 2


def test_groups_of_hosts_are_in_the_table_and_in_json(tmp_path, capsys):
    folder = two_groups(tmp_path)
    assert main(["report", str(folder), "--no-html"]) == 0
    assert "2 groups of hosts shared the seeds" in capsys.readouterr().out
    assert main(["report", str(folder), "--json", "--no-html"]) == 0
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [one["hosts"] for one in groups["groups"]] == [["node1", "node2"], ["node3", "node4"]]
    assert groups["num_cells"] == 4
    assert all(one["speed"]["low"] < one["speed"]["value"] < one["speed"]["high"] for one in groups["groups"])


def test_json_of_a_run_that_diverged_is_still_json(tmp_path, capsys):
    folder = make_run(tmp_path, outcome=lambda trial: "diverged")
    assert main(["report", str(folder), "--json", "--no-html"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert {cell["time_to_target_s"] for cell in found["cells"]} == {None}


def test_the_page_goes_where_it_is_asked_to(folder, tmp_path, capsys):
    path = tmp_path / "pages" / "mine.html"
    assert main(["report", str(folder), "--out", str(path)]) == 0
    assert path.stat().st_size > 500_000
    assert main(["report", str(folder), "--out", str(tmp_path)]) == 2
    assert main(["report", str(folder), "--out", str(path), "--no-html"]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_what_is_no_run_is_wrong_use(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert main(["report", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "there is no folder" in err
    assert "is no run of paceline" in err


def test_a_damaged_record_is_a_failure(folder, capsys):
    next(folder.glob("*/rank-0000.jsonl")).write_text("{}\n")
    assert main(["report", str(folder)]) == 1
    assert "line 1 is no record" in capsys.readouterr().err
