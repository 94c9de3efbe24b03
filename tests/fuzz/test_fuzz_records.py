"""Run folders of any content: each reader of their files, and the whole comparison, understand them or say why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import strategies as st

from analysis.synthetic import make_run, make_study
from fuzz.hostile import as_json, spoilt, spoilt_bytes
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.cli.logs import logs
from paceline.cli.report import as_json as comparison_as_json
from paceline.cli.status import as_json as status_as_json
from paceline.cluster import read_cluster
from paceline.errors import DataError
from paceline.job import Job, read_checks, read_trial
from paceline.records import RecordFollower, exit_of, failures_of, rank_file, read_records, trial_dirs, write_json
from paceline.report.export import export

EVALUATED = "rank-0000.jsonl"


@pytest.fixture
def run(tmp_path):
    """A small run, with a file of every kind."""
    study = make_study(seeds=[0, 1], optimizers={"sgd": {}, "adam": {}}, scales=[1, 2], max_epochs=2)
    folder = make_run(tmp_path, study, outcome=lambda trial: "failed" if trial.seed else "completed")
    names = [path.name for path in trial_dirs(folder)]
    finding = {"check": "parity", "status": "pass", "evidence": "equal"}
    write_json(folder / "checks.json", {"of": "x", "findings": [finding]})
    job = {"trials": names, "ranks_per_host": 2, "threads_per_rank": 1, "device": "cpu", "data_dir": None}
    write_json(folder / "job.json", job | {"group": "", "checks": {"of": "x", "trials": names, "findings": [finding]}})
    reduced = [{"bytes": 1024, "seconds": 1e-3, "repeats": 9}]
    write_json(folder / "network.json", {"num_hosts": 2, "backend": "gloo", "all_reduce": reduced})
    write_json(folder / "cluster.json", {"kind": "ssh", "hosts": [{"name": "a"}, {"name": "b"}]})
    word = {"time": 1.0, "rank": 0, "host": "a", "error": "e", "traceback": "t", "blames_a_peer": False}
    write_json(folder / names[0] / "error-rank-0000.json", word)
    write_json(folder / names[0] / "failures.json", {"schema_version": 1, "failures": [{"cause": "c", "time": 1.0}]})
    return folder


def readers(folder: Path):
    """Each file of a run, and what reads it."""
    trial = next(trial_dirs(folder))
    return {
        folder / "study.json": lambda: load(folder),
        folder / "environment.json": lambda: load(folder),
        folder / "network.json": lambda: load(folder),
        folder / "checks.json": lambda: read_checks(folder),
        folder / "cluster.json": lambda: read_cluster(folder),
        folder / "job.json": lambda: within(folder, Job.read(folder / "job.json")),
        trial / "trial.json": lambda: read_trial(trial).id,
        trial / "exit.json": lambda: exit_of(trial),
        trial / "failures.json": lambda: failures_of(trial),
        trial / "error-rank-0000.json": lambda: logs(folder, trial=trial.name),
    }


def within(folder: Path, job: Job) -> None:
    """Every path that a job names is below the run's folder."""
    paths = [job.path, job.logs, job.running_path, job.leave_path, *(folder / name for name in job.trials)]
    for path in paths:
        assert path.resolve().is_relative_to(folder.resolve())
        assert path.resolve() != folder.resolve()


def test_files_of_json(survives, run):
    """Each with values replaced, removed and added, and with bytes that are none of JSON's."""
    known = readers(run)
    contents = {path: path.read_bytes() for path in known}
    paths = sorted(known)

    def read(example: tuple[int, object]) -> None:
        path = paths[example[0]]
        path.write_bytes(example[1] if isinstance(example[1], bytes) else as_json(example[1]))
        try:
            known[path]()
        finally:
            path.write_bytes(contents[path])

    each = [
        st.tuples(st.just(number), spoilt(json.loads(contents[path])) | spoilt_bytes(contents[path]))
        for number, path in enumerate(paths)
    ]
    survives(read, st.one_of(each), num_examples=250)


def test_records(survives, run):
    """A line of a file, spoilt; the file is read whole, followed, and shown by ``paceline logs``."""
    trial = next(trial_dirs(run))
    path = trial / EVALUATED
    lines = path.read_bytes().splitlines()
    assert len(lines) > 4

    def read(example: tuple[int, object]) -> None:
        number, line = example
        changed = line if isinstance(line, bytes) else as_json(line)
        path.write_bytes(b"\n".join([*lines[:number], changed, *lines[number + 1 :]]) + b"\n")
        for reader in (lambda: read_records(path), RecordFollower(path, from_beginning=True).new_records):
            try:
                reader()
            except DataError as error:
                refused = error
                continue
            refused = None
        if refused:
            raise refused
        logs(run, trial=trial.name)

    each = [
        st.tuples(st.just(number), spoilt(json.loads(line)) | spoilt_bytes(line)) for number, line in enumerate(lines)
    ]
    survives(read, st.one_of(each), num_examples=150)


def test_whole_runs_are_compared_exported_and_shown(survives, run, tmp_path):
    """A value in some file is replaced; what comes out of it can be written as JSON."""
    files = [path for path in run.rglob("*.json*") if path.name not in ("job.json", "cluster.json")]
    files.sort(key=lambda path: path.relative_to(run).as_posix())
    contents = {path: path.read_bytes() for path in files}

    def read(example: tuple[int, object]) -> None:
        path = files[example[0]]
        lines = [example[1]] if path.suffix == ".json" else example[1]
        path.write_bytes(b"\n".join(map(as_json, lines if isinstance(lines, list) else [lines])) + b"\n")
        try:
            loaded = load(run)
            json.dumps(status_as_json(loaded))
            json.dumps(comparison_as_json(compare(loaded)))
            export(run, to="csv", out=tmp_path / "csv")
            export(run, to="markdown", out=tmp_path / "page.md")
        finally:
            path.write_bytes(contents[path])

    each = []
    for number, path in enumerate(files):
        lines = [json.loads(line) for line in contents[path].splitlines()] if path.suffix == ".jsonl" else None
        each.append(st.tuples(st.just(number), spoilt(lines or json.loads(contents[path]))))
    survives(read, st.one_of(each), num_examples=25)


def test_a_trial_of_a_thousand_million_ranks_is_refused(run):
    trial = next(trial_dirs(run))
    fields = json.loads((trial / "trial.json").read_bytes())
    write_json(trial / "trial.json", fields | {"num_hosts": 10**5, "ranks_per_host": 10**4})
    with pytest.raises(DataError, match="ranks"):
        load(run)


def test_a_folder_in_place_of_a_file_is_refused(run):
    trial = next(trial_dirs(run))
    rank_file(trial, 0).unlink()
    rank_file(trial, 0).mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        load(run)
