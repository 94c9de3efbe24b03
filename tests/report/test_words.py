"""Numbers in words have units, and three digits."""

import pytest

from analysis.synthetic import make_run, make_study
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.report import words


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


def test_growing_batches_are_said(tmp_path):
    study = make_study(batch={"rule": "per_rank", "rank_batch_size": 32, "lr_rule": "linear"})
    comparison = compare(load(make_run(tmp_path, study)))
    assert "grows in proportion" in words.rules(comparison)


def test_no_line_breaks_between_a_number_and_its_unit():
    assert words.tied("95.00 % in 2.1 s on 2 ranks") == "95.00\u00a0% in 2.1\u00a0s on 2\u00a0ranks"
