"""``paceline init`` writes a study that loads, and overwrites nothing."""

from paceline.cli import main
from paceline.study import load


def test_the_study_loads(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init"]) == 0
    study = load(tmp_path / "study.toml")
    assert study.name == "study"
    assert list(study.optimizers) == ["sgd", "adam"]
    assert "paceline run study.toml" in capsys.readouterr().err


def test_the_study_is_named_after_its_file(tmp_path):
    path = tmp_path / "my first {study}.toml"
    assert main(["init", str(path)]) == 0
    assert load(path).name == "my-first--study-"


def test_what_is_commented_out_loads_too(tmp_path):
    """The tuning that it shows, once the values that it searches are taken away from the optimizers."""
    path = tmp_path / "study.toml"
    assert main(["init", str(path)]) == 0
    lines = [line for line in path.read_text().splitlines() if not line.startswith(("lr = ", "momentum = "))]
    shown = ("# [tuning", "# num_trials", "# seeds = [", "# lr = ", "# beta1", "# aa_pair", "# baseline =")
    path.write_text("\n".join(line.removeprefix("# ") if line.startswith(shown) else line for line in lines))
    study = load(path)
    assert study.tuning is not None
    assert study.tuning.num_trials == 16
    assert list(study.tuning.search["adam"]) == ["lr", "beta1"]


def test_nothing_is_overwritten(tmp_path, capsys):
    path = tmp_path / "study.toml"
    path.write_text("mine")
    assert main(["init", str(path)]) == 2
    assert path.read_text() == "mine"
    assert main(["init", str(tmp_path / "no" / "folder.toml")]) == 2
    err = capsys.readouterr().err
    assert "is there already" in err
    assert "cannot be written" in err
