"""Names and paths that a shell would obey, and a disk that is full on one host."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import paceline
from paceline.records import exit_of, rank_file, read_records, trial_dirs
from testbed.bed import CONTROL, Bed, wait_until

PACELINE = Path(sys.executable).with_name("paceline")
EMBEDDED = Path(paceline.__file__).parent / "data" / "embedded" / "mnist-small"
CANARY = "canary"  # a file that a shell would make which came to see the name below
# Obeyed as it is, between single quotes, and between double quotes.
HOSTILE = f"""-n $(touch {CANARY})'$(touch {CANARY})'"`touch {CANARY}`"; touch {CANARY} & * ? {{a,b}} ~ \\ %h #
> {CANARY}"""
STUDY = """
name = "{name}"
seeds = [0]
aa_pair = false
retries = 0
scales = ["2x1"]
max_epochs = {max_epochs}
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 1000 }}

[workloads.digits]
name = "logreg-mnist"
dataset = "{dataset}"

[optimizers.adam]
"""

pytestmark = pytest.mark.timeout(240)


def write_cluster(path: Path, **settings: str) -> Path:
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in settings.items())  # such strings are TOML's, too
    path.write_text(f'[cluster]\nhosts = ["node1", "node2"]\n{"".join(lines)}')
    return path


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_shell_would_obey_the_name(tmp_path: Path, quote: str) -> None:
    subprocess.run(["sh", "-c", f"echo {quote}{HOSTILE}{quote}"], cwd=tmp_path, capture_output=True, check=False)
    assert (tmp_path / CANARY).exists()


def test_no_shell_obeys_what_paths_say(hosts: Bed, tmp_path: Path) -> None:
    """Those of the run, of the data here and there, of what hosts keep, and of ssh_config; the runs complete."""
    place = tmp_path / HOSTILE
    (place / "data" / "mnist").mkdir(parents=True)
    for file in EMBEDDED.glob("*.gz"):
        shutil.copy(file, place / "data" / "mnist")
    shutil.copy(hosts.ssh_config, place / "ssh config")
    kept = f"{HOSTILE}/kept".replace("\n", " ")  # a cluster file names nothing that cannot be printed
    for name, data_dir in (("sent", {}), ("there", {"data_dir": f"{hosts.user_home}/{kept}/data"})):
        (place / "study.toml").write_text(STUDY.format(name=name, max_epochs=1, dataset="mnist"))
        cluster = write_cluster(place / "cluster.toml", folder=f"~/{kept}", ssh_config="ssh config", **data_dir)
        options = [f"--cluster={cluster}", f"--runs={HOSTILE}", f"--data-dir={place / 'data'}", "--no-check"]
        done = hosts.run(CONTROL, [PACELINE, "run", place / "study.toml", *options], cwd=place, timeout_s=90)
        assert done.returncode == 0, done.stderr
        (folder,) = trial_dirs(place / HOSTILE / name)
        assert exit_of(folder).status == "completed"
    assert (hosts.home("node2") / kept / "data" / "mnist").is_dir(), "the data was sent"
    assert [path for folder in (hosts.folder, tmp_path) for path in folder.rglob(CANARY)] == []


def test_a_disk_that_is_full_on_one_host_is_named_and_the_run_goes_on_once_there_is_room(
    hosts: Bed, tmp_path: Path
) -> None:
    """What was collected can be read, and every epoch is recorded once in the end."""
    small = hosts.user_home / "small"
    hosts.small_disk("node2", small, 3)
    (tmp_path / "full.toml").write_text(STUDY.format(name="full", max_epochs=100, dataset="mnist-small"))
    cluster = write_cluster(tmp_path / "cluster.toml", folder="~/small")
    words = [PACELINE, "run", "full.toml", f"--cluster={cluster}", "--no-check"]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = hosts.start(CONTROL, words, cwd=tmp_path, **pipes)

    def has_begun() -> bool:
        assert process.poll() is None, process.communicate()
        return any(len(read_records(path)) > 4 for path in tmp_path.glob("runs/full/*/rank-0000.jsonl"))

    try:
        wait_until(has_begun, "records", deadline_s=60)
        hosts.run("node2", ["dd", "if=/dev/zero", f"of={small}/filler", "bs=1k"])
        _, err = process.communicate(timeout=90)
    finally:
        hosts.signal(process, signal.SIGKILL)
        process.communicate()
    assert process.returncode == 1, err
    (folder,) = trial_dirs(tmp_path / "runs" / "full")
    cause = exit_of(folder).cause
    assert "rank 1 on node2" in cause.splitlines()[0]
    assert "No space left on device" in cause
    hosts.run("node2", ["rm", f"{small}/filler"])
    done = hosts.run(CONTROL, words, cwd=tmp_path, timeout_s=90)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        records = read_records(rank_file(folder, rank))
        assert [record.epoch for record in records if record.kind == "epoch"] == list(range(100))
