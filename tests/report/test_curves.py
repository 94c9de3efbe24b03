"""Curves are thinned for the page but never flattered."""

from analysis.synthetic import make_run, make_study
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.report import curves as module
from paceline.report.curves import curves


def drawn(folder):
    run = load(folder)
    return curves(compare(run).cells, run.results)


def test_a_line_for_each_seed_and_a_median_for_each_cell(tmp_path):
    made = drawn(make_run(tmp_path))
    lines = {(row["label"], row["place"], row["line"]) for row in made.rows}
    assert len(lines) == 6 * 4
    assert made.left_out == ()


def test_seed_lines_and_points_are_limited_and_the_page_says_so(tmp_path):
    study = make_study(
        seeds=list(range(42)), max_epochs=25, optimizers={"sgd": {}, "adam": {}, "lbfgs": {}}, scales=[1]
    )
    made = drawn(make_run(tmp_path, study, evaluations_per_epoch=5))
    seeds = {(row["label"], row["place"], row["line"]) for row in made.rows if not row["median"]}
    assert len(seeds) <= module.MAX_SEED_LINES
    assert len(made.rows) <= (module.MAX_SEED_LINES + 3) * module.MAX_POINTS
    assert made.left_out == (
        "Of each cell, thin lines show the first 40 seeds; the thick line is of all its seeds.",
        "Lines are thinned to at most 120 evaluations.",
    )


def test_many_cells_are_limited_to_the_best(tmp_path):
    optimizers = {f"sgd-{index}": {"name": "sgd", "lr": 0.01 + index / 100} for index in range(30)}
    made = drawn(make_run(tmp_path, make_study(seeds=[0], optimizers=optimizers, scales=[1])))
    assert len({row["label"] for row in made.rows}) == module.MAX_CELLS
    assert made.left_out == ("The figures show the 24 best of 30 cells; the table has all.",)


def test_a_median_does_not_rise_because_bad_seeds_ended(tmp_path):
    """Two of three seeds failed early: where they have no value they count as worst, and the median ends."""
    folder = make_run(tmp_path, outcome=lambda trial: "failed" if trial.seed else "completed")
    median = [row for row in drawn(folder).rows if row["median"] and row["label"] == "sgd" and "1 rank" in row["place"]]
    assert [row["score"] is None for row in median] == [False, False, True, True, True]


def test_values_that_are_not_finite_are_left_out(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "diverged")
    assert all(row["score"] is None or row["score"] == row["score"] for row in drawn(folder).rows)
