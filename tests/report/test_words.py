"""The answer in words says what the numbers say, and no more."""

import pytest

from analysis.synthetic import CHARACTER, make_run, make_study
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.report import words


def told(folder):
    comparison = compare(load(folder))
    (answer,) = words.answers(comparison)
    return comparison, answer


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("inf"), "–"),
        (0.0, "0 s"),
        (2.5e-6, "2.50 µs"),
        (0.0123, "12.3 ms"),
        (1.234, "1.23 s"),
        (119.0, "119 s"),
        (121.0, "2.02 min"),
        (86_400.0, "24.0 h"),
    ],
)
def test_times_have_three_digits_and_a_unit(value, shown):
    assert words.seconds(value) == shown


def test_other_numbers_have_units_too():
    assert [words.memory(value) for value in (None, 12, 215_000_000, 3e13)] == ["–", "12 B", "215 MB", "30.0 TB"]
    assert [words.rate(value) for value in (None, 0.5, 12345.6)] == ["–", "0.500", "12,346"]
    assert words.score("accuracy", 0.98765) == "98.77 %"
    assert words.score("top5_accuracy", 0.5) == "50.00 %"
    assert words.score("perplexity", 12.3456) == "12.35"
    assert words.score("accuracy", float("nan")) == "–"


def test_the_headline_names_the_cell_with_the_least_median(tmp_path):
    comparison, answer = told(make_run(tmp_path))
    best = min(comparison.cells, key=lambda cell: cell.time_to_target_s)
    assert answer.headline.startswith(f"{best.label} on {words.ranks(best)} ({best.strategy}) reached")
    assert words.seconds(best.time_to_target_s) in answer.headline
    assert answer.sentences[0] == "All its 3 seeds reached the target."


def test_few_seeds_make_no_claim(tmp_path):
    comparison, _ = told(make_run(tmp_path))
    assert words.sureness(comparison).startswith("No claim: 5 comparisons need 8 finished seeds")


def test_enough_seeds_still_make_no_claim_without_a_test(tmp_path):
    comparison, _ = told(make_run(tmp_path, make_study(seeds=list(range(8)))))
    assert words.sureness(comparison).startswith("No claim yet: 8 seeds in every cell suffice")


def test_distributing_is_answered(tmp_path):
    _, answer = told(make_run(tmp_path / "two"))
    assert answer.distributing.startswith("At their best, 2 ranks were ")
    _, answer = told(make_run(tmp_path / "one", make_study(scales=[1])))
    assert "same number of ranks" in answer.distributing


def test_no_ratio_is_made_up_where_several_ranks_never_arrived(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "completed" if trial.num_ranks == 1 else "diverged")
    _, answer = told(folder)
    assert answer.distributing.endswith(
        "on 1 rank (single) has a median time to the target; no cell on more ranks has."
    )
    assert any("no ratio to 1 rank without a wrapper" in sentence for sentence in answer.sentences)


def test_slower_ranks_are_called_slower(tmp_path, monkeypatch):
    """Updates so short that communication outweighs what a second rank saves."""
    monkeypatch.setitem(CHARACTER, "sgd", (0.55, 0.985, 0.004, 1))
    _, answer = told(make_run(tmp_path, make_study(optimizers={"sgd": {}})))
    assert answer.distributing.startswith("At their best, 2 ranks were slower than 1 rank, taking 1.")
    assert any("slower than 1 rank without a wrapper" in sentence for sentence in answer.sentences)


def test_no_winner_is_made_up_where_nobody_arrived(tmp_path):
    study = make_study(workloads={"digits": {"name": "lenet5-mnist", "target": 0.999}})
    _, answer = told(make_run(tmp_path, study))
    assert answer.headline.startswith("No cell reached a validation accuracy of 99.90 % or more in the median")
    assert answer.sentences[0].startswith("0 of 18 trials reached it")


def test_misses_are_named_with_what_became_of_them(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "diverged" if trial.seed == 1 else "completed")
    _, answer = told(folder)
    assert any("sgd on 1 rank (single) in 1 of 3 (1 diverged)" in sentence for sentence in answer.sentences)


def test_growing_batches_are_said(tmp_path):
    study = make_study(batch={"rule": "per_rank", "rank_batch_size": 32, "lr_rule": "linear"})
    comparison, _ = told(make_run(tmp_path, study))
    assert "grows in proportion" in words.rules(comparison)


def test_no_line_breaks_between_a_number_and_its_unit():
    assert words.tied("95.00 % in 2.1 s on 2 ranks") == "95.00\u00a0% in 2.1\u00a0s on 2\u00a0ranks"
