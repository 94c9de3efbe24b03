"""``paceline export`` prints the paths that it wrote."""

import json
from pathlib import Path

from analysis.synthetic import make_run, make_study
from paceline.cli import main


def test_paths_are_printed(tmp_path, capsys):
    folder = make_run(tmp_path, make_study(seeds=[0]))
    assert main(["export", str(folder), "--to", "csv"]) == 0
    assert [Path(line).exists() for line in capsys.readouterr().out.splitlines()] == [True, True]
    assert main(["export", str(folder), "--to", "markdown", "--json", "--out", str(tmp_path / "a.md")]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [str(tmp_path / "a.md")]


def test_an_unknown_format_is_wrong_use(tmp_path, capsys):
    folder = make_run(tmp_path, make_study(seeds=[0]))
    assert main(["export", str(folder), "--to", "cvs"]) == 2
    assert "did you mean 'csv'?" in capsys.readouterr().err
