"""The tables for export hold every trial and every evaluation."""

from analysis.synthetic import make_run
from paceline.analysis.compare import compare
from paceline.analysis.frames import evaluations_frame, trials_frame
from paceline.analysis.load import load


def test_a_row_for_each_trial_with_misses_left_empty(tmp_path):
    run = load(make_run(tmp_path, outcome=lambda trial: "failed" if trial.seed == 1 else "completed"))
    frame = trials_frame(compare(run))
    assert len(frame) == 18
    failed = frame[frame.seed == 1]
    assert set(failed.status) == {"failed"}
    assert failed[failed.label == "adam"].time_to_target_s.isna().all()
    assert frame.trial.is_unique


def test_a_row_for_each_evaluation_split_and_metric(tmp_path):
    frame = evaluations_frame(load(make_run(tmp_path)))
    assert len(frame) == 18 * 5 * 4
    assert set(frame.split) == {"train", "validation"}
    assert set(frame.metric) == {"accuracy", "loss"}


def test_trials_that_never_began_still_have_their_row(tmp_path):
    run = load(make_run(tmp_path, outcome=lambda trial: "waiting"))
    assert len(trials_frame(compare(run))) == 18
    assert evaluations_frame(run).empty
