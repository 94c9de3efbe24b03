"""Progress of trials that run side by side: a bar for each, and counts that only rise."""

import io

import pytest
from rich.console import Console

from analysis.synthetic import make_run, make_study
from paceline.analysis.load import load
from paceline.cli import progress
from paceline.cli.progress import BarWatcher, PlainWatcher, describe
from paceline.records import Exit


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    study = make_study(seeds=[0, 1], scales=[1], optimizers={"sgd": {}, "adam": {}})
    return load(make_run(tmp_path_factory.mktemp("runs"), study)).results


def play(watcher, results, run_dir, *, after_each=lambda: None):
    """Two groups: the trials of seed 0 on one, of seed 1 on the other, which is twice as fast."""
    trials = [result.trial for result in results]
    watcher.planned(run_dir, trials, 0, [])
    slow, fast = ([result for result in results if result.trial.seed == seed] for seed in (0, 1))
    for result in slow:
        watcher.recorded(result.trial, result.starts[0])
        watcher.recorded(result.trial, result.evaluations[0])
        if fast:
            both, fast = fast, []
            for other in both:
                watcher.recorded(other.trial, other.starts[0])
                watcher.recorded(other.trial, other.evaluations[0])
                after_each()
                watcher.ended(other.trial, Exit(status="completed"))
        after_each()
        watcher.ended(result.trial, Exit(status="completed"))
    after_each()
    watcher.close()


def test_lines_count_trials_that_are_over(results, tmp_path, capsys):
    play(PlainWatcher(), results, tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    ends = [line.partition(" ")[0] for line in lines if line.endswith(": completed")]
    assert ends == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]
    counts = [int(line[1]) for line in lines]
    assert counts == sorted(counts)
    assert len(lines) == 8


def test_each_running_trial_has_a_bar_of_its_own_while_it_runs(results, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "console", lambda stderr: Console(file=io.StringIO(), force_terminal=True))
    watcher, seen = BarWatcher(), []

    def look():
        seen.append([task.description for task in watcher._progress.tasks])

    play(watcher, results, tmp_path, after_each=look)
    for bars in seen:
        assert bars[0] == "trials"
        assert "starting the ranks" not in bars
    assert [len(bars) for bars in seen] == [3, 3, 2, 2, 1]
    slow = next(result.trial for result in results if result.trial.seed == 0)
    assert seen[0][1].startswith(f"{describe(slow)}: accuracy 0.")


def test_the_study_proper_begins_with_bars_of_its_own_after_its_tuning(results, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "console", lambda stderr: Console(file=io.StringIO(), force_terminal=True))
    watcher = BarWatcher()
    watcher.planned(tmp_path, [result.trial for result in results], 0, [])
    watcher.recorded(results[0].trial, results[0].starts[0])
    watcher.planned(tmp_path, [result.trial for result in results], 3, ["a remark"])
    assert [task.description for task in watcher._progress.tasks] == ["trials", "starting the ranks"]
    watcher.ended(results[0].trial, Exit(status="failed", cause="rank 1"))
    assert [(task.description, task.completed) for task in watcher._progress.tasks] == [("trials", 4)]
    watcher.close()
