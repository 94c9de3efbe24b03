"""With --anonymous nothing that is written names a user, a home, a host or an address; the numbers stay."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest
import torch

from analysis.synthetic import make_run, make_study
from paceline import records
from paceline.analysis.compare import compare
from paceline.analysis.load import Run, load
from paceline.cli.report import report
from paceline.cluster import Cluster, Host, write_cluster
from paceline.report.anonymous import Names, anonymous
from paceline.report.export import export
from paceline.report.render import render
from paceline.train import checkpoint
from paceline.train.export_torch import export_run

SECRETS = (
    *("zaphodb", "marvin", "heartofgold", "magrathea", "203.0.113.77", "2001:db8::beef", "424242"),
    *("secret-galaxy", "vogon.example", "10.42.0.9"),
)
CAUSE = """rank 1 on magrathea-2.slartibart.example: RuntimeError: [203.0.113.77]:1702: connection reset
  File "/home/zaphodb/secret-galaxy/optimizers/vogon.py", line 3, in step (pid 424242)
rank 0 on HeartOfGold-7: ssh://marvin@10.42.0.9/x, fetched from git@git.vogon.example:zaphodb/poems.git"""
EVIDENCE = "rank 1 on magrathea-2 died: [2001:db8::beef]:99 of zaphodb, see ~zaphodb/runs and RUN/logs/agent.log"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """A run by two groups of hosts; every place for free text names somebody."""
    study = make_study(
        question="What did zaphodb ask?",
        seeds=[0, 1],
        scales=["2x1"],
        optimizers={"sgd": {}, "adam": {}},
    )
    folder = make_run(
        tmp_path_factory.mktemp("secret-galaxy"),
        study,
        outcome=lambda trial: "failed" if (trial.label, trial.seed) == ("adam", 1) else "completed",
        cause=CAUSE,
        host="heartofgold-7",
        start={"pid": 424242},
        rank_start=lambda trial: {"host": "heartofgold-7" if trial.seed == 0 else "magrathea-2"},
    )
    environment = {
        "paceline": "0.1.0",
        "host": "heartofgold-7.vogon.example",
        "system": "Linux of heartofgold-7",
        "argv": ["/home/zaphodb/bin/paceline", "run", "--runs=/home/zaphodb/secret-galaxy/runs"],
        "git": {"remote": "https://zaphodb@git.vogon.example/poems", "commit": "0123abcd"},
    }
    records.write_json(folder / "environment.json", environment)
    finding = records.Finding(
        check="labels and images", status="fail", evidence=EVIDENCE.replace("RUN", str(folder.resolve()))
    )
    checks = records.Checks(of="0", findings=(finding,))
    records.write_json(folder / "checks.json", checks.model_dump(mode="json"))
    hosts = (Host(name="marvin@heartofgold-7", address="10.42.0.9"), Host(name="magrathea-2.slartibart.example"))
    write_cluster(folder, Cluster(hosts=hosts, data_dir="/home/zaphodb/secret-galaxy/data"))
    return folder


@pytest.fixture(scope="module")
def names(run_dir) -> Names:
    return Names(load(run_dir))


def leaks(content: bytes) -> list[str]:
    """The secrets in some bytes but for the author's own question."""
    text = content.decode("latin-1").lower().replace("what did zaphodb ask?", "")
    return [secret for secret in SECRETS if secret in text]


def whole_text(path: Path) -> bytes:
    """All that a file holds, what is compressed in it unpacked."""
    content = path.read_bytes()
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        content += json.dumps([table.to_pylist(), str(table.schema.metadata)], default=str).encode()
    elif path.suffix == ".png":
        content += b"".join(unpacked(content))
    elif path.suffix == ".pt":
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            content += b"".join(name.encode() + packed.read(name) for name in packed.namelist())
    return content


def unpacked(png: bytes) -> list[bytes]:
    """The chunks of a PNG file, texts and pixels unpacked."""
    found, place = [], 8
    while place < len(png):
        size, kind = int.from_bytes(png[place : place + 4], "big"), png[place + 4 : place + 8]
        body = png[place + 8 : place + 8 + size]
        found.append(zlib.decompress(body) if kind == b"IDAT" else body)
        place += 12 + size
    return found


def test_the_page_names_nobody_and_does_not_take_the_place_of_the_other(run_dir, capsys):
    shown = load(run_dir)
    page = render(shown, compare(shown)).encode()
    missed = set(SECRETS) - set(leaks(page))
    assert missed <= {"424242"}, "else this page could not tell whether names are left out"
    report(run_dir, anonymous=True)
    capsys.readouterr()
    assert not (run_dir / "report.html").exists()
    page = (run_dir / "report-anonymous.html").read_bytes()
    assert leaks(page) == []
    assert str(run_dir).encode() not in page
    for told in (b"host-1", b"host-2", b"vogon.py&#34;, line 3", b"logs/agent.log", b"What did zaphodb ask?"):
        assert told in page
    for measured in (b"Synthetic CPU", b"2.13.0+cpu", b"0123abcd", b"Anonymous: hosts are numbered"):
        assert measured in page


def test_the_terminal_and_json_name_nobody(run_dir, capsys):
    for as_json in (False, True):
        report(run_dir, json=as_json, html=False, anonymous=True)
        said = capsys.readouterr().out
        assert leaks(said.encode()) == []
        assert "host-2" in said


DRAWN = [pytest.param(to, marks=pytest.mark.runs) for to in ("svg", "png")]  # two seconds each


@pytest.mark.parametrize("to", ["markdown", "csv", "parquet", *DRAWN])
def test_an_export_names_nobody(run_dir, tmp_path, to):
    paths = export(run_dir, to=to, out=tmp_path, anonymous=True)
    assert paths
    assert [leaks(whole_text(path)) for path in paths] == [[]] * len(paths)
    if to in ("csv", "parquet"):
        assert any(leaks(whole_text(path)) for path in export(run_dir, to=to)), "the others do"
        assert b"host-2" in b"".join(whole_text(path) for path in paths)


def test_files_of_torch_name_nobody_and_no_process(run_dir, tmp_path):
    trial_dir = load(run_dir).results[0].folder
    checkpoint.save(trial_dir, {"model": {"weight": torch.arange(3.0)}}, num_updates=7)
    paths = export_run(run_dir, tmp_path)
    assert [leaks(whole_text(path)) for path in paths] == [[]] * len(paths)
    for path in paths:
        with zipfile.ZipFile(path) as packed:
            assert {name.partition("/")[0] for name in packed.namelist()} == {"archive"}, "no name with a process id"


def test_numbers_are_those_of_the_run_with_names(run_dir):
    shown = load(run_dir)
    one, other = compare(shown), compare(anonymous(shown))
    assert [replace(cell, trials=()) for cell in one.cells] == [replace(cell, trials=()) for cell in other.cells]
    assert one.verdicts == other.verdicts
    assert one.groups is not None
    assert other.groups is not None
    assert [group.name for group in other.groups.groups] == ["host-1", "host-2"]
    assert [group.speed for group in one.groups.groups] == [group.speed for group in other.groups.groups]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rank 1 on heartofgold-7: killed", "rank 1 on host-1: killed"),
        ("on MAGRATHEA-2.lan, then on heartofgold-7-ib0.", "on host-2, then on host-1-ib0."),
        ('File "/home/zaphodb/a/x.py", line 3', 'File "x.py", line 3'),
        ("see /home/zaphodb and ~marvin/x", "see [home] and x"),
        ("zaphodb_runs/thesis-of-Zaphodb.pt", "[user]_runs/thesis-of-[user].pt"),
        ("/srv/data/marvin.npz", "[user].npz"),
        ("127.0.0.1:29500 and [fe80::1%eth0]:1 and 1.2.3", "[address]:29500 and [[address]]:1 and 1.2.3"),
        ("at 00:25:10, c10::Error, add::x", "at 00:25:10, c10::Error, add::x"),
        ("process 17 (pid=4), 17 updates", "process [number] (pid=[number]), 17 updates"),
        ("digits/adam+ddp@1x2 and adam@2, not adam@10.0.0.7", "digits/adam+ddp@1x2 and adam@2, not [address]"),
        ("200 MB/s, and/or, 3/4, ~2 s, loss / accuracy", "200 MB/s, and/or, 3/4, ~2 s, loss / accuracy"),
        ("file:///home/zaphodb/x http://magrathea-2:80/y?z", "[address] [address]"),
    ],
)
def test_text_keeps_what_is_no_name(names, text, expected):
    assert names.text(text) == expected


def test_what_lies_in_the_run_folder_keeps_its_way_from_there(names, run_dir):
    assert names.text(f"see {run_dir}/logs/agent.log") == "see logs/agent.log"
    assert names.text(f"{run_dir}: full") == ".: full"


def test_hosts_are_told_apart_by_their_whole_names_and_known_by_their_first(run_dir):
    shown = load(run_dir)
    whole = {"heartofgold-7": "gpu.a.example", "magrathea-2": "gpu.b.example"}
    renamed = replace(shown, results=tuple(replace(one, ranks=tuple(
        replace(rank, starts=tuple(start.model_copy(update={"host": whole[start.host]}) for start in rank.starts))
        for rank in one.ranks
    )) for one in shown.results))  # fmt: skip
    names = Names(renamed)
    assert [names.host(host) for host in whole.values()] == ["host-1", "host-2"]
    assert names.text("gpu.b.example, gpu.a.example, GPU") == "host-2, host-1, host-1"


def test_a_home_that_is_no_folder_of_its_own_hides_no_more_than_itself(run_dir, monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert Names(load(run_dir)).text("see /srv/x.py and y/z") == "see x.py and y/z"
    monkeypatch.setenv("HOME", "/srv/of somebody")
    assert Names(load(run_dir)).text("/srv/of somebody: no, /srv/of somebody/x/y.py") == "[home]: no, y.py"


def test_a_user_who_is_called_as_an_optimizer_is_does_not_garble_it(run_dir):
    shown = load(run_dir)
    text = "adam fell behind in /home/adam/x.py"
    renamed = replace(shown, results=(replace(shown.results[0], cause=text), *shown.results[1:]))
    assert anonymous(renamed).results[0].cause == "adam fell behind in x.py"


def test_names_in_values_of_contestants_go_and_trials_keep_their_ids(run_dir):
    shown = load(run_dir)
    assert shown.study is not None
    entry = shown.study.optimizers["sgd"]
    told = entry.model_copy(update={"hyperparameters": {"table": "/home/zaphodb/table.pt"}})
    study = shown.study.model_copy(update={"optimizers": {"sgd": told}})
    workload = study.workloads["digits"].model_copy(update={"options": {"folder": "/home/zaphodb/digits"}})
    study = study.model_copy(update={"workloads": {"digits": workload}})
    hidden: Run = anonymous(replace(shown, study=study))
    assert hidden.study is not None
    assert hidden.study.optimizers["sgd"].hyperparameters == {"table": "table.pt"}
    assert hidden.study.workloads["digits"].options == {"folder": "digits"}
    assert [result.trial.id for result in hidden.results] == [result.trial.id for result in shown.results]
