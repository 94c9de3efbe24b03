"""``paceline status``: how many trials are where, what runs, what failed."""

import json

from analysis.synthetic import make_run, make_study
from paceline.cli import main

STATES = {0: "completed", 1: "running", 2: "failed", 3: "waiting"}


def test_trials_by_state_with_epoch_and_cause(tmp_path, capsys):
    study = make_study(seeds=list(STATES), optimizers={"sgd": {}})
    folder = make_run(tmp_path, study, outcome=lambda trial: STATES[trial.seed])
    assert main(["status", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "synthetic: 4 of 8 trials over" in out
    assert "epoch 2 of 5, accuracy 9" in out
    assert "exit 137 (killed)" in out

    assert main(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["states"] == {
        **{"completed": 2, "diverged": 0, "failed": 2, "degraded": 0, "stopped": 0, "running": 2, "waiting": 2},
    }
    assert {trial["epoch"] for trial in found["running"]} == {2}
    assert {trial["cause"] for trial in found["failures"]} == {"rank 1 on node-b: exit 137 (killed)"}


def test_a_trial_that_changed_size_is_named(tmp_path, capsys):
    folder = make_run(tmp_path, make_study(seeds=[0], scales=[2], optimizers={"sgd": {}}))
    (path,) = folder.glob("*/rank-0001.jsonl")
    path.write_text(path.read_text().replace('"world_size":2', '"world_size":3'))
    assert main(["status", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["states"]["degraded"] == found["num_over"] == 1
    assert found["failures"][0]["cause"] == "it ran on 2, then on 3, and was to run on 2 ranks"


def test_trials_that_are_not_laid_out_yet_are_waiting(tmp_path, capsys):
    folder = make_run(tmp_path, make_study(seeds=[0, 1], optimizers={"sgd": {}}))
    for path in folder.glob("*seed1*/trial.json"):
        path.unlink()
    assert main(["status", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["states"]["waiting"] == 2


def test_no_run_is_wrong_use(tmp_path, capsys):
    assert main(["status", str(tmp_path / "nothing")]) == 2
    assert "there is no folder" in capsys.readouterr().err
