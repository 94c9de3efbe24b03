"""The optimizers that the documentation shows, as they stand there, train; so does one of a library by its name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from command_line import CommandLine
from paceline.records import exit_of, read_json, trial_dirs

PAGE = (Path(__file__).parents[2] / "docs" / "your-own-optimizer.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Those in this language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.runs
def test_the_pages_study_runs_on_one_rank_and_on_two(paceline: CommandLine):
    (signum, decay), (study, table) = blocks("python"), blocks("toml")
    (paceline.folder / "signum.py").write_text(signum)
    (paceline.folder / "decay.py").write_text(decay)
    (paceline.folder / "signum.toml").write_text(study + table)
    path = f"{paceline.folder}:{paceline.environment['PYTHONPATH']}"
    done = paceline("run", "signum.toml", "--no-check", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    accuracy: dict[str, list[float]] = {}
    for folder in trial_dirs(paceline.folder / "runs" / "signum"):
        ended = exit_of(folder)
        assert ended.status == "completed", ended
        trial = read_json(folder / "trial.json")
        accuracy.setdefault(trial["label"], []).append(json.loads(_end(folder))["test"]["accuracy"])
    assert sorted(accuracy) == ["adabelief", "adam", "adamw-of-weights", "signum"]
    for one_rank, two_ranks in accuracy.values():
        assert one_rank > 0.7
        assert abs(one_rank - two_ranks) < 0.01


def _end(folder: Path) -> str:
    return (folder / "rank-0000.jsonl").read_text().splitlines()[-1]
