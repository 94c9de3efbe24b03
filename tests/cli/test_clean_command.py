"""``paceline clean`` removes a run, the whole run, and nothing but the run."""

import io
import sys

import pytest
from filelock import FileLock

from analysis.synthetic import make_run, make_study
from paceline.cli import main


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path, make_study(seeds=[0], optimizers={"sgd": {}}))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_yes_removes_the_run_with_reports_exports_and_lock(folder):
    for name in (
        "report.html",
        "job.json",
        "job-one.json",
        "network.json",
        "network-one.json",
        "running",
        ".lock",
        ".holder",
    ):
        (folder / name).write_text("")
    (folder / "export" / "csv").mkdir(parents=True)
    assert main(["clean", str(folder), "--yes"]) == 0
    assert not folder.exists()


def test_without_a_terminal_it_refuses(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert main(["clean", str(folder)]) == 2
    assert "give --yes" in capsys.readouterr().err
    assert folder.exists()


@pytest.mark.parametrize(("answer", "left"), [("y", False), ("n", True), ("", True)])
def test_on_a_terminal_it_asks(folder, monkeypatch, capsys, answer, left):
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    assert main(["clean", str(folder)]) == (1 if left else 0)
    assert "with 2 trials" in capsys.readouterr().err
    assert folder.exists() == left


def test_links_are_removed_and_never_followed(folder, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("mine")
    trial = next(folder.glob("*/trial.json")).parent
    (trial / "elsewhere").symlink_to(precious)
    (folder / "logs" / "elsewhere").symlink_to(precious)
    assert main(["clean", str(folder), "--yes"]) == 0
    assert (precious / "data").read_text() == "mine"


def test_a_link_to_a_run_is_refused(folder, tmp_path, capsys):
    (tmp_path / "link").symlink_to(folder)
    assert main(["clean", str(tmp_path / "link"), "--yes"]) == 2
    assert "is a link" in capsys.readouterr().err
    assert folder.exists()


def test_what_paceline_did_not_write_stays(folder, tmp_path, capsys):
    (folder / "notes.txt").write_text("mine")
    (folder / "linked-trial").symlink_to(next(folder.glob("*/trial.json")).parent)
    assert main(["clean", str(folder), "--yes"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["linked-trial", "notes.txt"]
    assert "notes.txt" in capsys.readouterr().err


def test_a_foreign_folder_is_refused(tmp_path, capsys):
    (tmp_path / "study.json").write_text('{"name": "a study of mine"}')
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "trial.json").write_text('{"judge": "K."}')
    assert main(["clean", str(tmp_path), "--yes"]) == 2
    assert "is no run of paceline" in capsys.readouterr().err
    assert (tmp_path / "case" / "trial.json").exists()
    assert main(["clean", str(tmp_path / "nothing"), "--yes"]) == 2


def test_a_run_in_progress_is_refused(folder, capsys):
    with FileLock(folder / ".lock"):
        assert main(["clean", str(folder), "--yes"]) == 2
    assert "is being run now" in capsys.readouterr().err
    assert (folder / "study.json").exists()
