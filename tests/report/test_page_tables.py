"""The page's tables say what the analysis found, with its certainty, and put what failed first."""

import pytest

from analysis.synthetic import make_run, make_study
from paceline.analysis.audit import CHECKS
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.analysis.tuning import tuning_beside
from paceline.report import page_tables, words
from report.test_figures import make_tuned


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    def outcome(trial):
        return "diverged" if trial.label == "lbfgs" and trial.seed < 5 else "completed"

    study = make_study(seeds=list(range(8)), aa_pair=True)
    return compare(load(make_run(tmp_path_factory.mktemp("runs"), study, outcome=outcome)))


def texts(table, column):
    return [line.fields[column].text for line in table.lines]


def test_failed_checks_stand_in_the_open_and_the_others_are_folded(comparison):
    failed, others = page_tables.audit(comparison)
    assert texts(failed, 0) == ["all values finite"]
    assert failed.title == "Audit: 1 check failed"
    assert not failed.folded
    assert others.folded
    assert sorted(texts(failed, 0) + texts(others, 0)) == sorted(check.name for check in CHECKS)
    counted = texts(others, 1).count("✓ passed")
    assert others.title.startswith(f"Audit: {counted} checks passed, {len(CHECKS) - 1 - counted} not applicable")
    assert texts(others, 1)[:counted] == ["✓ passed"] * counted, "what was passed stands before what does not apply"


def test_an_audit_without_a_failure_is_one_line(tmp_path):
    study = make_study(seeds=[0, 1, 2, 3, 4, 5], optimizers={"sgd": {}})
    (table,) = page_tables.audit(compare(load(make_run(tmp_path, study))))
    assert table.folded
    assert table.title.endswith("0 failed")


def test_a_comparison_has_its_ratio_its_interval_and_its_outcome(comparison):
    table = page_tables.comparisons(comparison, "digits")
    for line, one in zip(table.lines, comparison.contrasts, strict=True):
        _, _, outcome, ratio, adjusted, sooner, _ = line.fields
        assert ratio.text == words.factor(one.ratio.value)
        assert ratio.below == f"{words.factor(one.ratio.low)} to {words.factor(one.ratio.high)}"
        assert float(adjusted.text) == pytest.approx(one.adjusted_p_value, abs=5e-4)
        assert sooner.text == f"{100 * one.probability_of_improvement:.0f} %"
        assert outcome.text.startswith(one.outcome)
        assert (line.kind == "strong") == (one.outcome != "no claim")


def test_a_cell_that_most_seeds_miss_has_no_median_but_a_mean_and_an_expected_time(comparison):
    cell = next(cell for cell in comparison.cells if cell.label == "lbfgs")
    line = next(line for line in page_tables.arrivals(comparison.cells).lines if line.label == "lbfgs")
    own = cell.arrivals["time"]
    assert [field.text for field in line.fields] == [
        *("lbfgs", "38 %", words.MISSING),
        *(words.seconds(own.restricted_mean), words.seconds(own.expected), words.MISSING),
    ]
    assert line.fields[1].below == "3 of 8 seeds"
    other = next(line for line in page_tables.other_arrivals(comparison.cells).lines if line.label == "lbfgs")
    updates = cell.arrivals["updates"]
    assert other.fields[1].below == f"{words.count(updates.restricted_mean)} · {words.count(updates.expected)}"


def test_a_speedup_has_its_parts_and_what_communication_cost(comparison):
    table = page_tables.speedups(comparison, comparison.cells)
    assert len(table.lines) == len(comparison.speedups) == 3
    one, cell = comparison.speedups[0], comparison.cell(comparison.speedups[0].cell)
    shown = [field.text for field in table.lines[0].fields]
    assert shown[2:5] == [words.factor(ratio.value) for ratio in (one.total, one.statistical, one.hardware)]
    assert shown[5:] == [f"{100 * one.scaling_efficiency:.0f} %", f"{100 * cell.time_split['communication']:.0f} %"]
    spent = cell.time_split["communication"] * cell.mean_update_time_s
    assert table.lines[0].fields[-1].below == f"{words.seconds(spent)} an update"


def test_a_p_value_too_small_to_matter_is_not_spelled_out(comparison):
    shown = texts(page_tables.comparisons(comparison, "digits"), 6)
    assert "< 0.0001" in shown or all(float(text) >= 1e-4 for text in shown)
    assert page_tables._p(3e-9) == "< 0.0001"
    assert page_tables._p(0.0390625) == "0.0391"


def test_tuning_says_what_was_chosen_and_what_it_cost(tmp_path):
    run = load(make_tuned(tmp_path))
    comparison, tuning = compare(run), tuning_beside(run)
    table = page_tables.tuning(comparison, tuning, "digits")
    assert texts(table, 0) == ["sgd", "sgd", "adam", "adam", "lbfgs", "lbfgs"], "in the study's order"
    search = next(one for one in tuning.searches if (one.label, one.num_ranks) == ("adam", 2))
    line = table.lines[3]
    assert line.fields[0].below == "2 ranks, ddp"
    assert f"{search.chosen.hyperparameters['lr']:.4g}" in line.fields[1].text
    assert line.fields[2].text == words.seconds(search.chosen.score_s)
    assert [field.text for field in line.fields[4:]] == ["4 of 4", words.seconds(search.train_time_s)]
