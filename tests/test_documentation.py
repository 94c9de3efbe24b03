"""Pages for users say what the program does."""

from pathlib import Path

from paceline.analysis.audit import CHECKS
from paceline.analysis.checks_of_study import LOUDEST
from paceline.analysis.inference import seeds_needed

METHODOLOGY = (Path(__file__).parents[1] / "docs" / "methodology.md").read_text()


def rows_after(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    lines = METHODOLOGY.partition(heading)[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_every_check_of_the_audit_is_explained():
    assert [row[0] for row in rows_after("## The audit")[2:]] == [check.name for check in CHECKS]


def test_the_table_of_seeds_is_right():
    comparisons, _, seeds = rows_after("With few seeds")
    assert [seeds_needed(int(number)) for number in comparisons[1:]] == [int(number) for number in seeds[1:]]


def test_the_limit_of_noise_is_the_one_that_is_used():
    assert f"at most {100 * (LOUDEST - 1):.0f} %" in METHODOLOGY
