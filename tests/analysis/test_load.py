"""Reading run folders: what is there is read, what is wrong is said with its path and what to do."""

import json
import math

import pytest

from analysis.synthetic import make_run, make_study
from paceline.analysis.columns import Columns, Gathering
from paceline.analysis.load import load
from paceline.errors import DataError, UsageError
from paceline.records import Epoch, Evaluation, RecordFile, Resumed, rank_file, read_records, write_json


def test_every_trial_of_a_run_is_read(tmp_path):
    run = load(make_run(tmp_path))
    assert run.name == "synthetic"
    assert len(run.results) == run.num_planned == 18
    result = next(result for result in run.results if result.trial.num_ranks == 2)
    assert result.status == "completed"
    assert [rank.rank for rank in result.ranks] == [0, 1]
    assert len(result.evaluations) == 5
    assert result.end is not None and "accuracy" in result.end.test


def test_states_are_told_apart(tmp_path):
    states = {0: "running", 1: "waiting", 2: "failed"}
    run = load(make_run(tmp_path, outcome=lambda trial: states[trial.seed]))
    assert {result.trial.seed: result.status for result in run.results} == states
    assert {result.cause for result in run.results if result.status == "failed"} == {
        "rank 1 on node-b: exit 137 (killed)"
    }


def test_a_diverged_trial_has_the_reason_of_its_rank_as_cause(tmp_path):
    run = load(make_run(tmp_path, outcome=lambda trial: "diverged"))
    assert {result.cause for result in run.results} == {"loss is nan at update 170"}
    assert math.isnan(run.results[0].evaluations[-1].validation["accuracy"])


def test_a_folder_of_bare_trials_is_a_run(tmp_path):
    folder = make_run(tmp_path)
    (folder / "study.json").unlink()
    (folder / "environment.json").unlink()
    run = load(folder)
    assert run.study is None
    assert run.name == "synthetic"
    assert run.num_planned == 18


def test_the_target_is_that_of_the_study_now(tmp_path):
    folder = make_run(tmp_path)
    settings = json.loads((folder / "study.json").read_text())
    settings["workloads"]["digits"]["target"] = 0.5
    write_json(folder / "study.json", settings)
    assert {result.trial.target_value for result in load(folder).results} == {0.5}


def test_a_torn_last_line_is_left_out(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "running")
    path = rank_file(load(folder).results[0].folder, 0)
    before = len(load(folder).results[0].evaluations)
    path.write_bytes(path.read_bytes() + b'{"kind": "evaluation", "epo')
    assert len(load(folder).results[0].evaluations) == before


def test_columns_give_back_the_very_records_that_were_written(tmp_path):
    """Every field of every kind that is kept as columns, NaN and infinities too."""
    for result in load(make_run(tmp_path, outcome=lambda trial: "diverged")).results:
        for rank in result.ranks:
            written = read_records(rank_file(result.folder, rank.rank))
            assert list(rank.epochs) == [one for one in written if isinstance(one, Epoch)]
            if rank.rank == 0:
                assert repr(list(result.evaluations)) == repr([one for one in written if isinstance(one, Evaluation)])


def test_columns_are_a_sequence(tmp_path):
    result = load(make_run(tmp_path, make_study(max_epochs=7))).results[0]
    own, listed = result.evaluations, list(result.evaluations)
    assert (len(own), own[0], own[-1], own[-7]) == (7, listed[0], listed[6], listed[0])
    assert list(own[2:5]) == listed[2:5] and list(reversed(own)) == listed[::-1]
    with pytest.raises(IndexError):
        own[7]
    times = own.column("train_time_s")
    assert (times.dtype, times.tolist()) == (float, [one.train_time_s for one in listed])
    assert own[3:].column("validation", "accuracy").tolist() == [one.validation["accuracy"] for one in listed[3:]]
    assert own.column("epoch_end").all() and own.column("num_updates").dtype == int
    with pytest.raises(ValueError, match="several scores in each record: give one of loss, accuracy"):
        own.column("validation")
    with pytest.raises(KeyError):
        own.column("speed")
    assert len(Columns(Epoch).column("time")) == len(list(Columns(Evaluation))) == 0


def test_scores_and_counts_of_any_kind_survive_in_columns(tmp_path):
    """Records whose scores have not the same names, and the largest count that records may have."""
    first = load(make_run(tmp_path)).results[0].evaluations[0]
    other = first.model_copy(update={"validation": {"loss": 1.0, "top5_accuracy": 0.5}, "bytes_sent": 2**63 - 1})
    gathered = Gathering(Evaluation)
    for record in (first, other):
        gathered.add(record)
    columns = gathered.columns()
    assert list(columns) == [first, other]
    assert columns.names("validation") == ["loss", "accuracy", "top5_accuracy"]
    known, missing = columns.column("validation", "accuracy").tolist()
    assert known == first.validation["accuracy"] and math.isnan(missing)


def test_what_a_resumed_trial_did_again_is_read_once(tmp_path):
    folder = make_run(tmp_path, make_study(seeds=[0]))
    result = load(folder).results[0]
    path = rank_file(result.folder, 0)
    evaluation, again, last = result.evaluations[1], *result.evaluations[2:4]
    file = RecordFile(path)
    for record in (Resumed(rank=0, num_updates=evaluation.num_updates), again, result.ranks[0].epochs[2], last):
        file.append(record)
    file.close()
    resumed = load(folder).results[0]
    assert list(resumed.evaluations) == list(result.evaluations)[:4]
    assert list(resumed.ranks[0].epochs) == list(result.ranks[0].epochs)[:3]
    assert resumed.end is None


def test_missing_files_of_ranks_are_named(tmp_path):
    folder = make_run(tmp_path)
    result = next(result for result in load(folder).results if result.trial.num_ranks == 2)
    rank_file(result.folder, 1).unlink()
    again = next(one for one in load(folder).results if one.trial.id == result.trial.id)
    assert again.missing_ranks == [1]


def test_trials_that_are_planned_but_not_laid_out_are_counted(tmp_path):
    folder = make_run(tmp_path, make_study(seeds=[0]))
    settings = json.loads((folder / "study.json").read_text())
    write_json(folder / "study.json", settings | {"seeds": [0, 1, 2, 3]})
    run = load(folder)
    assert (len(run.results), run.num_planned) == (6, 24)


def test_what_is_no_run_is_refused_with_advice(tmp_path):
    with pytest.raises(UsageError, match=r"there is no folder .*paceline run"):
        load(tmp_path / "nothing")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file; give the folder of a run"):
        load(tmp_path / "file")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no run of paceline"):
        load(foreign)
    (foreign / "study.json").write_text(json.dumps(make_study().model_dump(mode="json")))
    with pytest.raises(UsageError, match="has no trial yet"):
        load(foreign)


def test_a_folder_of_runs_and_a_single_trial_lead_to_the_run(tmp_path):
    folder = make_run(tmp_path)
    trial = next(path for path in folder.iterdir() if (path / "trial.json").exists())
    with pytest.raises(UsageError, match=f"single trial; give the folder of its run: {folder}"):
        load(trial)
    (tmp_path / "runs").mkdir()
    folder.rename(tmp_path / "runs" / "synthetic")
    for path in (tmp_path / "runs" / "synthetic").glob("*/trial.json"):
        path.unlink()
    with pytest.raises(UsageError, match=r"holds runs \(synthetic\)"):
        load(tmp_path / "runs")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("study.json", "{"),
        ("study.json", '{"name": "x"}'),
        ("environment.json", "[1]"),
        ("trial.json", "[]"),
        ("trial.json", '{"seed": 1}'),
        ("trial.json", "no json"),
        ("exit.json", '{"status": "happy"}'),
        ("rank-0000.jsonl", '{"kind": "start"}\n'),
        ("rank-0000.jsonl", "\x00\n"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    folder = make_run(tmp_path, make_study(seeds=[0]))
    at = folder if name in ("study.json", "environment.json") else next(folder.glob("*/trial.json")).parent
    (at / name).write_text(content)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        load(folder)
