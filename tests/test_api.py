"""What ``import paceline`` offers, as a notebook uses it."""

import subprocess
import sys

import altair as alt
import pandas as pd
import pytest

import paceline
from analysis.synthetic import make_run, make_study


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    study = make_study(seeds=list(range(8)), aa_pair=True, optimizers={"sgd": {}, "adam": {}})
    return paceline.Results(make_run(tmp_path_factory.mktemp("api"), study))


def test_importing_it_loads_next_to_nothing():
    code = "import paceline, sys; print([m for m in ('torch', 'pandas', 'scipy', 'pydantic') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_name_that_it_offers_is_there():
    assert all(hasattr(paceline, name) for name in paceline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Studies'"):
        paceline.Studies  # noqa: B018


def test_the_verdict_is_the_reports(results):
    assert results.verdict.startswith("sgd on ")
    assert results.verdict in repr(results)


def test_frames_have_a_row_a_trial_and_a_row_an_evaluation(results, tmp_path):
    trials = results.to_pandas()
    assert len(trials) == 2 * 2 * 8
    assert trials.time_to_target_s.notna().any()
    assert set(results.evaluations().trial) >= set(trials.trial)
    written = {path.name: pd.read_parquet(path) for path in results.to_parquet(tmp_path)}
    pd.testing.assert_frame_equal(written["trials.parquet"], trials)


@pytest.mark.parametrize(
    "draw",
    [
        lambda plot: plot.curves(),
        lambda plot: plot.curves(of="loss", against="updates"),
        lambda plot: plot.time_to_target(),
        lambda plot: plot.comparisons("digits"),
        lambda plot: plot.figure("time-split"),
    ],
)
def test_figures_are_charts_with_their_data(results, draw):
    chart = draw(results.plot)
    assert isinstance(chart, alt.Chart | alt.LayerChart)
    assert any(rows for rows in chart.to_dict()["datasets"].values())


@pytest.mark.parametrize(
    ("name", "workload", "says"), [("pie", None, "no figure 'pie'"), ("time-split", "cats", "digits")]
)
def test_what_a_run_does_not_have_is_refused_with_what_it_has(results, name, workload, says):
    with pytest.raises(paceline.PacelineError, match=says):
        results.plot.figure(name, workload)


def test_a_notebook_shows_the_verdict_and_a_table_and_no_markup_of_others(tmp_path):
    folder = make_run(tmp_path)
    for path in folder.glob("*/trial.json"):
        path.write_text(path.read_text().replace('"label": "sgd"', '"label": "<img src=x onerror=alert(1)>"'))
    shown = paceline.Results(folder)._repr_html_()
    assert "<img" not in shown
    assert "&lt;img src=x" in shown
    assert shown.count("<tr>") == 1 + 6


def test_settings_are_checked_as_a_file_is_and_left_alone():
    settings = {
        "name": "mine", "seeds": [0], "max_epochs": 1, "workloads": {"logreg-mnist": {}}, "optimizers": {"adam": {}},
        "batch": {"rule": "global", "global_batch_size": 50},
    }  # fmt: skip
    study = paceline.Study(settings, overrides=["optimizers.adam.lr=0.5"])
    assert study.settings.optimizers["adam"].hyperparameters["lr"] == 0.5
    assert settings["optimizers"] == {"adam": {}}
    with pytest.raises(paceline.PacelineError, match="did you mean 'adam'"):
        paceline.Study(settings | {"optimizers": {"adma": {}}})


@pytest.mark.runs
@pytest.mark.timeout(240)
def test_a_study_runs_on_one_process_and_on_two_ranks(tmp_path, capsys):
    study = paceline.Study(
        {
            "name": "mine", "seeds": [0], "scales": [1, 2], "max_epochs": 1, "aa_pair": False, "threads_per_rank": 1,
            "workloads": {"logreg-mnist": {"dataset": "mnist-small"}}, "optimizers": {"sgd": {}},
            "batch": {"rule": "global", "global_batch_size": 100},
        }
    )  # fmt: skip
    results = study.run(runs=tmp_path, check=False)
    assert list(results.to_pandas().num_ranks) == [1, 2]
    assert set(results.to_pandas().status) == {"completed"}
    assert capsys.readouterr().err.count("completed") == 2
    assert study.results(runs=tmp_path).verdict == results.verdict
    assert results.report().read_text().startswith("<!doctype html>")
