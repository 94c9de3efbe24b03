"""What ships beside the package works: studies, the example of a workload of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import CommandLine
from paceline.study import load

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_that_ships_is_valid_and_named_after_its_file(path: Path):
    assert load(path).name == path.stem


def test_a_workload_that_is_not_about_images_learns_to_guess_characters(paceline: CommandLine):
    done = paceline(
        "run", ROOT / "studies" / "own-workload.toml", "--json", "--set", "max_epochs=1", "--set", "seeds=[0]",
        PYTHONPATH=str(ROOT / "examples"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert len(cells) == 4
    majority = 0.15  # the share of the commonest character, the blank
    assert all(cell["final_validation_accuracy"] > majority + 0.1 for cell in cells)
