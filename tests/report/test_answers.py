"""The verdict in words says what the numbers say, and no more."""

import pytest

from analysis.synthetic import CHARACTER, make_run, make_study
from analysis.test_audit import edit, leave_checks
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.report import answers, words


def told(folder):
    comparison = compare(load(folder))
    (answer,) = answers.answers(comparison)
    return comparison, answer


def eight_seeds(**changes):
    return make_study(**({"seeds": list(range(8)), "aa_pair": True} | changes))


def test_the_first_line_names_the_fastest_cell_and_how_sure_that_is(tmp_path):
    """sgd is far ahead of adam; its two scales cannot be told apart."""
    comparison, answer = told(make_run(tmp_path, eight_seeds(optimizers={"sgd": {}, "adam": {}})))
    best = min(comparison.cells, key=lambda cell: cell.time_to_target_s)
    assert answer.verdict.startswith(f"{words.who(best)} reached")
    assert words.seconds(best.time_to_target_s) in answer.verdict
    assert answer.verdict.endswith("but sgd on 1 rank may be as fast. The other 2 cells are slower.")
    assert answer.measured == ""
    slower = next(one for one in comparison.contrasts if one.cell == "digits/adam+single@1x1")
    shown = words.factor(1 / slower.ratio.value)
    assert f"Sure: adam on 1 rank takes {shown} as long as sgd on 1 rank" in " ".join(answer.sentences)


def test_a_sole_winner_is_called_the_fastest(tmp_path):
    study = eight_seeds(optimizers={"sgd": {}, "lbfgs": {"lr": 0.5}}, scales=[1])
    comparison, answer = told(make_run(tmp_path, study))
    assert answer.verdict.startswith("sgd on 1 rank is the fastest of 2 cells to")
    assert answers.sureness(comparison).startswith(
        "1 claim: of 1 declared comparison, by 8 seeds that pair, 1 was told"
    )


def test_few_seeds_make_no_claim_and_the_first_line_says_so(tmp_path):
    comparison, answer = told(make_run(tmp_path))
    assert answer.verdict == ("No verdict, for want of seeds: 3 seeds finished in every cell; 5 comparisons need 8.")
    assert answer.measured.startswith("Measured, but not concluded: sgd on 2 ranks (ddp) reached")
    assert answers.sureness(comparison).startswith("No claim: 5 declared comparisons need 8 finished seeds")
    assert not any(sentence.startswith("Sure") for sentence in answer.sentences)


def test_a_failed_check_withholds_the_verdict_in_the_first_line(tmp_path):
    folder = make_run(tmp_path, eight_seeds())
    leave_checks(folder, shuffled_label_probe="a model learned no more from the labels than from shuffled ones")
    comparison, answer = told(folder)
    assert answer.verdict.startswith(
        "Verdict withheld: the check “shuffled-label probe” failed: a model learned no more"
    )
    assert answers.sureness(comparison) == (
        "No claim: the audit failed. The numbers are what was measured here, no more."
    )


def test_chance_level_withholds_the_verdict(tmp_path):
    folder = make_run(tmp_path, eight_seeds())
    edit(folder, "*", kind="evaluation", validation={"loss": 2.3, "accuracy": 0.1})
    _, answer = told(folder)
    assert answer.verdict.startswith("Verdict withheld: the check “better than chance” failed: no cell scored better")
    assert answer.measured.startswith("Measured, but not concluded: no cell reached")


def test_without_an_a_a_pair_nothing_is_claimed(tmp_path):
    comparison, _ = told(make_run(tmp_path, eight_seeds(aa_pair=False)))
    assert "machine's own noise is not known" in answers.sureness(comparison)
    assert {answers.outcome(one) for one in comparison.contrasts} <= {
        "no claim: the machine's noise is not known",
        "no claim: may be chance",
    }


def test_one_scale_says_nothing_of_distributing(tmp_path):
    _, answer = told(make_run(tmp_path / "one", make_study(scales=[1])))
    assert "same number of ranks" in answer.distributing


def test_distributing_that_pays_is_said_with_its_interval(tmp_path, monkeypatch):
    """Long updates: a second rank saves more than communication costs."""
    monkeypatch.setitem(CHARACTER, "sgd", (0.55, 0.985, 0.1, 1))
    _, answer = told(make_run(tmp_path, eight_seeds(optimizers={"sgd": {}})))
    assert answer.distributing.startswith("Distributing pays, from 2 ranks on: sgd on 2 ranks (ddp) is 1.5")
    assert "(95 %: 1." in answer.distributing


def test_distributing_that_does_not_pay_is_said(tmp_path, monkeypatch):
    """Updates so short that communication outweighs what a second rank saves."""
    monkeypatch.setitem(CHARACTER, "sgd", (0.55, 0.985, 0.003, 1))
    _, answer = told(make_run(tmp_path, eight_seeds(optimizers={"sgd": {}})))
    assert answer.distributing.startswith("Distributing does not pay: every cell on more ranks is slower")
    assert "takes 1." in answer.distributing


def test_a_difference_within_the_noise_is_called_so(tmp_path):
    _, answer = told(make_run(tmp_path, eight_seeds(optimizers={"sgd": {}})))
    assert answer.distributing.startswith("Whether distributing pays is open. At their best, sgd on 2 ranks")


def test_no_ratio_is_made_up_where_several_ranks_never_arrived(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "completed" if trial.num_ranks == 1 else "diverged")
    _, answer = told(folder)
    assert answer.distributing.endswith("on 1 rank has a median time to the target; no cell on more ranks has.")


def test_no_winner_is_made_up_where_nobody_arrived(tmp_path):
    study = eight_seeds(workloads={"digits": {"name": "lenet5-mnist", "target": 0.999}})
    _, answer = told(make_run(tmp_path, study))
    assert answer.verdict.startswith("No cell reached a validation accuracy of 99.90 % or more in the median")
    assert answer.sentences[0].startswith("0 of 48 trials reached it")


def test_misses_are_named_with_what_became_of_them(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "diverged" if trial.seed == 1 else "completed")
    _, answer = told(folder)
    assert any("sgd on 1 rank in 1 of 3 (1 diverged)" in sentence for sentence in answer.sentences)


def test_what_would_settle_it_is_said(tmp_path):
    """A comparison that nobody declared takes a study that does."""
    study = eight_seeds(optimizers={"sgd": {}, "adam": {}, "lbfgs": {"lr": 0.5}}, comparisons=[["lbfgs@1", "sgd@1"]])
    _, answer = told(make_run(tmp_path, study))
    settling = " ".join(sentence for sentence in answer.sentences if sentence.startswith("Measured, but not compared"))
    assert "declares such comparisons, as ['sgd+ddp@1x2', '" in settling


def test_speedups_are_split_in_words(tmp_path):
    _, answer = told(make_run(tmp_path, make_study(strategies=["single", "ddp"])))
    line = next(sentence for sentence in answer.sentences if sentence.startswith("lbfgs on 2 ranks (ddp): "))
    assert "the speed of 1 rank without a wrapper = 1.00× by updates × " in line
    assert "the speed of 1 rank in ddp = " in line
    assert "scaling efficiency" in line


@pytest.mark.parametrize("name", ["adam+ddp@1x2", "adam@2"])
def test_cells_are_named_as_study_files_name_them(tmp_path, name):
    """What the report says to declare can be declared."""
    study = eight_seeds(comparisons=[[name, "sgd@1"]])
    comparison, _ = told(make_run(tmp_path, study))
    assert answers.short_name(comparison.contrasts[0].cell) == "adam+ddp@1x2"
