"""What figures draw is what the analysis found, every one says how to read it, and none grows with the seeds."""

import dataclasses
import json
import math

import pytest
import vl_convert

from analysis.synthetic import make_run, make_study
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.analysis.tuning import tuning_beside
from paceline.plan.tune import tuning_study
from paceline.report import figures, figures_arrival, figures_ratios, figures_tuning
from paceline.report.pen import FILE, PAGE, Pen, ratio_ticks, standalone, thinned

TWO = {
    "digits": {"name": "lenet5-mnist", "dataset": "mnist-small", "target": 0.95},
    "letters": {"name": "lenet5-mnist", "dataset": "mnist-small", "target": 0.97},
}


def make_tuned(root, **changes):
    """A run with a tuning folder beside its trials."""
    study = make_study(tuning={"num_trials": 4, "seeds": [8, 9]}, **changes)
    folder = make_run(root, study)
    make_run(folder, tuning_study(study).model_copy(update={"name": "tuning"}))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Eight seeds, an A/A pair, and an L-BFGS of which one seed diverges."""

    def outcome(trial):
        return "diverged" if (trial.label, trial.seed) == ("lbfgs", 3) else "completed"

    study = make_study(seeds=list(range(8)), aa_pair=True)
    return load(make_run(tmp_path_factory.mktemp("runs"), study, outcome=outcome))


@pytest.fixture(scope="module")
def comparison(run):
    return compare(run)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Two workloads, three scales, both baselines, three seeds; L-BFGS never arrives on the letters."""

    def outcome(trial):
        return "diverged" if (trial.label, trial.workload) == ("lbfgs", "letters") else "completed"

    study = make_study(scales=[1, 2, 4], strategies=["single", "ddp"], workloads=TWO)
    return load(make_run(tmp_path_factory.mktemp("runs"), study, outcome=outcome))


def test_the_intervals_are_those_of_the_declared_comparisons(comparison):
    rows = figures_ratios.contrast_rows(comparison.cells, comparison.contrasts)
    assert len(rows) == len(comparison.contrasts) == 5
    for row, one in zip(rows, comparison.contrasts, strict=True):
        drawn = (row["ratio"], row["low"], row["high"])
        assert drawn == pytest.approx((one.ratio.value, one.ratio.low, one.ratio.high), rel=1e-4)
        assert row["claimed"] == (one.outcome != "no claim")
    assert {row["outcome"] for row in rows} == {"later", "no claim"}


def test_the_noise_floor_is_a_band_and_is_missing_where_it_was_not_measured(comparison):
    rows = figures_ratios.contrast_rows(comparison.cells, comparison.contrasts)
    with_noise = figures_ratios.intervals(Pen(comparison, PAGE), comparison, "digits", rows)
    floor = comparison.noise[0].floor
    assert f'{{"ratio": {1 / floor}, "to": {floor}}}' in json.dumps(with_noise.spec)
    assert "shaded band" in with_noise.reading
    silent = dataclasses.replace(comparison, noise=())
    without = figures_ratios.intervals(Pen(silent, PAGE), silent, "digits", rows)
    assert '"to":' not in json.dumps(without.spec)
    assert "shaded band" not in without.reading


def test_an_interval_that_nothing_bounds_is_left_out_and_the_figure_says_why(wide):
    comparison = compare(wide)
    rows = figures_ratios.contrast_rows(comparison.of("digits"), comparison.contrasts)
    assert rows
    assert all(row["low"] is row["high"] is None for row in rows)
    assert "(too few seeds for an interval)" in rows[0]["said"]
    figure = figures_ratios.intervals(Pen(comparison, PAGE), comparison, "digits", rows)
    assert "too few seeds" in figure.reading


def test_the_share_that_has_arrived_steps_up_with_each_seed_and_marks_those_that_gave_up(comparison):
    rows = figures_arrival.share_rows(comparison.cells)
    for cell in comparison.cells:
        own = [row for row in rows if (row["label"], row["place"]) == (cell.label, f"{cell.num_ranks} rank" + (
            "s, ddp" if cell.num_ranks > 1 else ""))]  # fmt: skip
        steps = {row["time"]: row["share"] for row in own if row["what"] == "step"}
        assert steps[0.0] == 0
        for trial in cell.trials:
            if trial.reached:
                sooner = sum(
                    other.reached and other.time_to_target_s <= trial.time_to_target_s for other in cell.trials
                )
                assert steps[float(f"{trial.time_to_target_s:.5g}")] == pytest.approx(sooner / 8, abs=1e-4)
        missed = [row for row in own if row["what"] == "missed"]
        horizon = cell.arrivals["time"].horizon
        if cell.label == "lbfgs":
            assert [(row["time"], row["share"]) for row in missed] == [(pytest.approx(horizon, rel=1e-4), 0.875)]
        else:
            assert missed == []
            assert steps[float(f"{horizon:.5g}")] == 1


def test_many_seeds_draw_no_more_rows_than_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(figures_arrival, "MAX_STEPS", 20)
    monkeypatch.setattr(figures_arrival, "MAX_DOTS", 30)
    study = make_study(seeds=list(range(60)), scales=[1], optimizers={"sgd": {}, "adam": {}})
    run = load(make_run(tmp_path, study))
    comparison = compare(run)
    rows = figures_arrival.share_rows(comparison.cells)
    for kind in ("step", "missed"):
        assert len([row for row in rows if (row["label"], row["what"]) == ("sgd", kind)]) <= 20
    dots = [row for row in figures_arrival.dot_rows(comparison.cells) if row["what"] != "median"]
    assert len(dots) == 30
    drawn = [row["time"] for row in dots if (row["label"], row["what"]) == ("sgd", "seed")]
    times = [trial.time_to_target_s for trial in comparison.cells[0].trials if trial.reached]
    assert min(drawn) == min(times), "the soonest is drawn"
    made = figures.figures(comparison, "digits", run.results, PAGE)
    assert "Of each cell's dots only some are drawn, spread evenly over its times." in made.left_out


def test_a_speedup_is_the_product_of_its_two_factors(comparison):
    rows = figures_ratios.speedup_rows(comparison.cells, comparison)
    assert [row["part"] for row in rows] == ["total", "statistical", "hardware"] * 3
    for total, statistical, hardware in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        assert total["ratio"] == pytest.approx(statistical["ratio"] * hardware["ratio"], rel=1e-3)
        assert total["ideal"] == 2


def test_strong_and_weak_scaling_have_titles_of_their_own(comparison, tmp_path):
    weak = compare(
        load(make_run(tmp_path, make_study(batch={"rule": "per_rank", "rank_batch_size": 32, "lr_rule": "none"})))
    )
    titles = []
    for one in (comparison, weak):
        rows = figures_ratios.speedup_rows(one.cells, one)
        titles.append(figures_ratios.decomposition(Pen(one, PAGE), one, rows).title)
    assert "strong scaling" in titles[0]
    assert "weak scaling" in titles[1]


def test_scaling_is_drawn_from_three_numbers_of_ranks_on(comparison, wide):
    assert figures_ratios.scaling_rows(comparison.cells, comparison) == []
    three = compare(wide)
    rows = figures_ratios.scaling_rows(three.of("digits"), three)
    assert [(row["label"], row["ranks"], row["ideal"]) for row in rows[:3]] == [("sgd", n, n) for n in (1, 2, 4)]
    total = next(one.total for one in three.speedups if one.cell == "digits/sgd+ddp@1x4")
    assert [row["ratio"] for row in rows[:3]][0::2] == [1, pytest.approx(total.value, rel=1e-4)]


def test_the_profile_says_how_often_each_is_within_a_factor_of_the_best(comparison, wide):
    assert figures.overview(comparison, PAGE).figures == (), "one workload has no profile"
    several = compare(wide)
    rows = figures_arrival.profile_rows(several)
    assert figures.overview(several, PAGE).rows["profile"] == rows
    for cell in several.of("digits"):
        own = {row["factor"]: row["share"] for row in rows if (row["label"], row["place"]) == _who(cell)}
        within = []
        for workload in several.workloads:
            means = {_who(one): one.arrivals["time"].restricted_mean for one in several.of(workload) if one.num_reached}
            within.append(means.get(_who(cell), math.inf) / min(means.values()))
        for factor, share in own.items():
            assert share == sum(value <= factor * (1 + 1e-4) for value in within) / 2
    assert max(row["share"] for row in rows if row["label"] == "lbfgs") == 0.5, "it never arrived on one of two"


def _who(cell):
    return cell.label, f"{cell.num_ranks} rank{'s' * (cell.num_ranks > 1)}, {cell.strategy}"


def test_score_against_budget_is_the_best_of_the_configurations_so_far(tmp_path):
    run = load(make_tuned(tmp_path))
    comparison, tuning = compare(run), tuning_beside(run)
    rows = figures_tuning.budget_rows(tuning, "digits", comparison.cells)
    assert len(rows) == 6 * 4
    for search in tuning.searches:
        place = f"{search.num_ranks} rank" + ("s, ddp" if search.num_ranks > 1 else "")
        own = [row for row in rows if (row["label"], row["place"]) == (search.label, place)]
        assert [row["tried"] for row in own] == [1, 2, 3, 4]
        assert [row["score"] for row in own] == pytest.approx(search.best_score_s, rel=1e-4)
        assert own[-1]["score"] == pytest.approx(search.chosen.score_s, rel=1e-4)


@pytest.mark.parametrize("style", [PAGE, FILE], ids=["page", "file"])
def test_every_figure_is_valid_and_says_how_to_read_it(wide, tmp_path, style):
    comparison, tuned = compare(wide), load(make_tuned(tmp_path))
    sets = [figures.overview(comparison, style)]
    sets += [figures.figures(comparison, workload, wide.results, style) for workload in comparison.workloads]
    sets.append(figures.of_tuning(compare(tuned), tuning_beside(tuned), "digits", style))
    made = [(figure, one.rows[figure.data]) for one in sets for figure in one.figures]
    assert len(made) == 1 + 2 * 10 + 1
    for figure, rows in made:
        vl_convert.vegalite_to_vega(standalone(figure, rows))
        assert rows, figure.name
        assert len(figure.reading) > 60
        assert figure.reading.endswith(".")


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.95, 1.05), (0.97, 1.3), (0.5, 1.9), (0.26, 1.02), (0.98, 3.9), (0.1, 4.4), (0.01, 3), (1e-5, 2)],
)
def test_ratios_have_a_handful_of_round_ticks_and_1_is_one(low, high):
    ticks = ratio_ticks(low, high)
    assert 1 in ticks
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(ticks)
    assert low <= ticks[0] < ticks[-1] <= high


def test_thinning_keeps_the_ends():
    assert thinned(range(1000), 3) == [0, 500, 999]
    assert thinned([1, 2], 3) == [1, 2]
    assert thinned([1, 2], 1) == [1]
