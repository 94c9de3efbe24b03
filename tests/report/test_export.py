"""Every export writes files that their readers read."""

import pandas as pd
import pytest
import torch

from analysis.synthetic import make_run, make_study
from paceline.analysis.load import load
from paceline.errors import PacelineError, UsageError
from paceline.report.export import export
from paceline.train import checkpoint
from report.test_figures import TWO, make_tuned


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), make_study(seeds=[0, 1]))


def test_csv_and_parquet_hold_the_same_tables(folder, tmp_path):
    csv = export(folder, to="csv", out=tmp_path / "csv")
    parquet = export(folder, to="parquet", out=tmp_path / "parquet")
    assert [path.name for path in csv] == ["trials.csv", "evaluations.csv"]
    for one, other in zip(csv, parquet, strict=True):
        read, kept = pd.read_csv(one), pd.read_parquet(other)
        assert len(read) == len(kept) > 0
        assert list(read.columns) == list(kept.columns)


def test_markdown_goes_to_a_folder_or_a_file(folder, tmp_path):
    (first,) = export(folder, to="markdown")
    assert first == folder / "export" / "markdown" / "report.md"
    (second,) = export(folder, to="markdown", out=tmp_path / "notes" / "result.md")
    assert second.read_text() == first.read_text()


@pytest.mark.parametrize(("to", "magic"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_figures_are_drawn_without_a_browser(folder, tmp_path, to, magic):
    paths = export(folder, to=to, out=tmp_path)
    assert {path.name for path in paths} == {
        f"digits-{name}.{to}"
        for name in (
            *("intervals", "time-to-target", "share-arrived", "speedups"),
            *("metric-time", "metric-updates", "loss-time", "loss-updates", "time-split"),
        )
    }
    assert all(path.read_bytes().startswith(magic) for path in paths)
    assert not list(tmp_path.glob(".*")), "nothing half written is left"


def test_figures_over_all_workloads_and_of_tuning_are_exported_too(tmp_path):
    paths = export(make_tuned(tmp_path / "runs", workloads=TWO), to="svg", out=tmp_path)
    names = {path.name for path in paths}
    assert {"all-profile.svg", "digits-score-against-budget.svg", "letters-score-against-budget.svg"} <= names


def test_torch_writes_the_files_of_the_study_that_it_replaces(tmp_path):
    run = load(make_run(tmp_path, make_study(seeds=[0], optimizers={"sgd": {}})))
    model = {"weight": torch.arange(3.0)}
    checkpoint.save(run.results[0].folder, {"model": model}, num_updates=7)
    paths = export(run.folder, to="torch", out=tmp_path / "old")
    assert len(paths) == 2 * 4 + 1
    own = tmp_path / "old" / run.results[0].folder.name
    read = {path.name: torch.load(path, weights_only=True) for path in own.iterdir()}
    assert read["valid_accs.pt"] == [one.validation["accuracy"] for one in run.results[0].evaluations]
    assert read["train_loss.pt"] == [one.train["loss"] for one in run.results[0].evaluations]
    assert torch.equal(read["model.pt"]["weight"], model["weight"])


def test_what_cannot_be_exported_is_refused(folder, tmp_path):
    with pytest.raises(UsageError, match=r"unknown format 'parquett': did you mean 'parquet'\?"):
        export(folder, to="parquett")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="a file is in the way"):
        export(folder, to="csv", out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_the_export_by_torch_passes_on_that_it_failed(tmp_path):
    folder = make_run(tmp_path, make_study(seeds=[0], optimizers={"sgd": {}}))
    trial = load(folder).results[0].folder
    (trial / "checkpoints").mkdir()
    (trial / "checkpoints" / "update-000000001.pt").write_bytes(b"damaged")
    with pytest.raises(PacelineError, match="exit code 1"):
        export(folder, to="torch")
