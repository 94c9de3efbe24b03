"""The tables fit their page, right-aligned, and nothing in them is markup."""

import io

import pytest
from rich.console import Console

from analysis.synthetic import make_run, make_study
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.report import tables


def printed(comparison, width):
    file = io.StringIO()
    Console(file=file, width=width).print(tables.terminal_table(comparison, "digits", width=width))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits(tmp_path, width):
    text = printed(compare(load(make_run(tmp_path))), width)
    assert all(len(line) <= width for line in text.splitlines())
    assert "…" not in text
    rows = [line.split() for line in text.splitlines() if " ddp " in line]
    assert len(rows) == 3
    assert rows[0][:4] == ["sgd", "ddp", "2", "3/3"]


def test_a_long_label_is_folded_not_cut(tmp_path):
    label = "an-optimizer-with-a-rather-long-label-for-a-terminal"
    text = printed(compare(load(make_run(tmp_path, make_study(optimizers={label: {"name": "sgd"}})))), 80)
    assert "".join(line.split(" ")[0] for line in text.splitlines()[4:]).startswith("an-optimizer-with")
    assert all(len(line) <= 80 for line in text.splitlines())


def test_a_median_that_does_not_exist_is_a_dash(tmp_path):
    folder = make_run(tmp_path, outcome=lambda trial: "diverged" if trial.label == "lbfgs" else "completed")
    row = next(line.split() for line in printed(compare(load(folder)), 80).splitlines() if line.startswith("lbfgs"))
    assert row[3:6] == ["0/3", "–", "–"]


def test_markdown_has_the_answer_the_table_and_no_markup_of_others(tmp_path):
    study = make_study(question="<b>Does | it `pay`?</b>")
    text = tables.markdown(compare(load(make_run(tmp_path, study))))
    assert "&lt;b&gt;Does \\| it \\`pay\\`?&lt;/b&gt;" in text
    assert "| enough seeds | fail | 3 seeds finished in every cell; 5 comparisons need 8 |" in text
    table = [line for line in text.partition("## How sure")[0].splitlines() if line.startswith("|")]
    assert len(table) == 2 + 6
    assert len({line.count("|") for line in table}) == 1
    assert "No claim: 5 declared comparisons" in text


def test_columns_on_sharing_work_are_left_out_where_none_is_shared(tmp_path):
    alone = compare(load(make_run(tmp_path / "alone", make_study(scales=[1]))))
    shared = compare(load(make_run(tmp_path / "shared")))
    heads = [{column.head for column in tables.page_columns(one)} for one in (alone, shared)]
    assert heads[1] - heads[0] == {"Speedup", "Comm.", "Sent"}
