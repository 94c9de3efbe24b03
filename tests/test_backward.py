"""A run of schema version 1 reads as it did on the day it was made, and goes on; what is newer is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from analysis.synthetic import make_study
from paceline.analysis.audit import Subject, audit
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.analysis.tuning import tuning_beside
from paceline.cards import Target
from paceline.cli.report import as_json as report_json
from paceline.cli.status import as_json as status_json
from paceline.cluster import THIS_HOST, read_cluster, write_cluster
from paceline.errors import DataError
from paceline.job import Job, job_path, read_checks, read_trial
from paceline.plan.folder import lay_out
from paceline.records import (
    SCHEMA_VERSION,
    End,
    Evaluation,
    Resumed,
    exit_of,
    failures_of,
    rank_file,
    read_records,
)
from paceline.report.export import export
from paceline.train import checkpoint
from paceline.train.export_torch import export_run
from paceline.trial import WorkloadFacts, expand

VERSION_1 = Path(__file__).parent / "fixtures" / "version-1"
KNOWN = json.loads((VERSION_1 / "known.json").read_text())
FAILED = "logreg-mnist_adam_ddp_1x2_seed1_2de9163caa"
OPEN = "logreg-mnist_sgd_ddp_1x2_seed1_again_fd433b19fb"
TWIN = "logreg-mnist_sgd_ddp_1x2_seed1_4deb9b9745"  # the same trial, which nobody interrupted


def agrees(found: Any, known: Any) -> bool:
    """Whether what was known is found, whatever else is told today."""
    if isinstance(known, dict):
        return known.keys() <= found.keys() and all(agrees(found[key], value) for key, value in known.items())
    if isinstance(known, list):
        return len(found) == len(known) and all(map(agrees, found, known))
    return bool(found == (pytest.approx(known, rel=1e-9) if isinstance(known, float) else known))


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """A copy of the run, in a folder of the study's name."""
    return Path(shutil.copytree(VERSION_1 / "run", tmp_path / "runs" / "version-1"))


def test_states_are_known():
    found = status_json(load(VERSION_1 / "run"))
    assert agrees(found, KNOWN["status"])
    assert agrees(found["running"], [KNOWN["running"]])


def test_the_reports_numbers_are_known():
    found = report_json(compare(load(VERSION_1 / "run")))
    for cell, known in zip(found["cells"], KNOWN["cells"], strict=True):
        assert agrees(cell, known), known["name"]


def test_the_audits_findings_are_known():
    found = {one.check: one.status for one in audit(Subject.of(load(VERSION_1 / "run")))}
    assert agrees(found, KNOWN["audit"])


def test_what_tuning_chose_is_known():
    tuning = tuning_beside(load(VERSION_1 / "run"))
    assert tuning is not None
    ran = {(cell["name"].partition("+")[0], cell["hyperparameters"]["lr"]) for cell in KNOWN["cells"]}
    assert {(f"{one.workload}/{one.label}", one.chosen.hyperparameters["lr"]) for one in tuning.searches} == ran


def test_a_resumed_trial_counts_each_update_once():
    (folder,) = (VERSION_1 / "run").glob("*_adam_single_1x1_seed0_*")
    records = read_records(rank_file(folder, 0))
    assert [record.num_updates for record in records if isinstance(record, Resumed)] == [283]
    assert [record.num_updates for record in records if isinstance(record, Evaluation)] == [282, 564, 846]


def test_exports_hold_the_known_numbers(run_dir, tmp_path):
    trials, evaluations = (pd.read_csv(path) for path in export(run_dir, to="csv", out=tmp_path / "csv"))
    known = {trial["id"]: trial["train_time_s"] for cell in KNOWN["cells"] for trial in cell["trials"]}
    assert dict(zip(trials["trial"], trials["train_time_s"], strict=True)) == pytest.approx(known)
    assert len(evaluations) == 26 * 4
    export_run(run_dir, tmp_path / "torch")
    model = torch.load(tmp_path / "torch" / OPEN / "model.pt", weights_only=True)
    assert sum(value.numel() for value in model.values()) == 10250
    assert all(bool(value.isfinite().all()) for value in model.values())


def _newer(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99, "field_of_the_future": 1}))


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("study.json", load),
        ("environment.json", load),
        ("checks.json", read_checks),
        ("checks.json", load),
        ("cluster.json", read_cluster),
        ("job.json", lambda run_dir: Job.read(job_path(run_dir, ""))),
        (f"{OPEN}/trial.json", lambda run_dir: read_trial(run_dir / OPEN)),
        (f"{OPEN}/trial.json", load),
        (f"{FAILED}/exit.json", lambda run_dir: exit_of(run_dir / FAILED)),
        ("tuning/study.json", load),
    ],
)
def test_a_file_of_a_newer_paceline_is_refused_with_the_one_that_wrote_it(run_dir, name, read):
    environment = run_dir / "environment.json"
    environment.write_text(environment.read_text().replace('"paceline": "0.1.0"', '"paceline": "7.8.9"'))
    shutil.copy(environment, run_dir / "tuning")
    read(run_dir)
    _newer(run_dir / name)
    with pytest.raises(
        DataError, match=r"has schema version 99, this paceline reads up to 1: upgrade paceline to 7\.8\.9"
    ) as told:
        read(run_dir)
    assert str(run_dir / name) in str(told.value)


@pytest.mark.parametrize(("name", "read"), [("network.json", load), (f"{OPEN}/failures.json", None)])
def test_a_newer_file_that_version_1_had_none_of_here_is_refused(run_dir, name, read):
    (run_dir / name).write_text('{"schema_version": 99}')
    with pytest.raises(DataError, match="has schema version 99"):
        read(run_dir) if read else failures_of(run_dir / OPEN)


def test_a_newer_record_is_refused_with_the_paceline_that_wrote_it(run_dir):
    path = rank_file(run_dir / OPEN, 0)
    path.write_text(path.read_text().replace('"schema_version":1', '"schema_version":99'))
    with pytest.raises(DataError, match=r"line 1 has schema version 99, .* upgrade paceline to 0\.1\.0 or newer"):
        load(run_dir)


def test_a_newer_checkpoint_is_refused(run_dir):
    state = checkpoint.load_newest(run_dir / OPEN)
    assert state is not None
    assert state.pop("schema_version") == 2
    path = checkpoint.save(run_dir / OPEN, {**state, "schema_version": 99}, num_updates=700)
    with pytest.raises(DataError, match=f"{path.name} has schema version 99, this paceline reads up to"):
        checkpoint.load_newest(run_dir / OPEN)


@pytest.mark.parametrize("content", ["[1]", '"text"', '{"schema_version": "two"}', '{"schema_version": 0}'])
def test_what_is_no_version_at_all_is_refused(run_dir, content):
    (run_dir / "environment.json").write_text(content)
    with pytest.raises(DataError, match=r"environment\.json"):
        load(run_dir)


def test_today_every_file_says_its_version(tmp_path):
    study = make_study()
    facts = WorkloadFacts(dataset="mnist-small", data_digest="0", target=Target(value=0.9))
    trials = expand(study, {"digits": facts}, threads_per_rank=1)
    lay_out(tmp_path, study, trials)
    write_cluster(tmp_path, THIS_HOST)
    Job(run_dir=str(tmp_path), trials=[], ranks_per_host=1, threads_per_rank=1, device="cpu", data_dir=None).write()
    paths = list(tmp_path.rglob("*.json"))
    assert len(paths) == len(trials) + 3
    assert {json.loads(path.read_text())["schema_version"] for path in paths} == {SCHEMA_VERSION}


@pytest.mark.runs
@pytest.mark.timeout(180)
def test_the_run_goes_on_from_its_checkpoint(paceline, run_dir):
    """The trial that was interrupted goes on, the one that failed is tried again, and nothing else is touched."""
    before = {path: path.read_bytes() for path in run_dir.rglob("rank-*.jsonl")}
    done = paceline("run", VERSION_1 / "study.toml", deadline_s=150)
    compared = done.returncode == 0
    assert compared or "cannot be compared" in done.stderr, done.stderr  # where torch, or the processor, is another
    changed = {path.parent.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {OPEN, FAILED}
    assert [exit_of(folder).status for folder in (run_dir / OPEN, run_dir / FAILED)] == ["completed"] * 2
    for rank in (0, 1):
        own, twin = (read_records(rank_file(run_dir / name, rank)) for name in (OPEN, TWIN))
        assert [record.num_updates for record in own if isinstance(record, Resumed)] == [285]
        assert isinstance(own[-1], End)
        assert (
            (own[-1].num_updates, own[-1].num_samples) == (twin[-1].num_updates, twin[-1].num_samples) == (846, 13500)
        )
        assert own[-1].bytes_sent == twin[-1].bytes_sent
    last, expected = (
        [record for record in read_records(rank_file(run_dir / name, 0)) if isinstance(record, Evaluation)][-1]
        for name in (OPEN, TWIN)
    )
    assert last.validation == pytest.approx(expected.validation, rel=1e-3)  # another processor rounds otherwise
    assert last.train == pytest.approx(expected.train, rel=1e-3)
    for name in ("study.json", "environment.json", "cluster.json", f"{OPEN}/exit.json", f"{FAILED}/exit.json"):
        assert json.loads((run_dir / name).read_text())["schema_version"] == SCHEMA_VERSION
