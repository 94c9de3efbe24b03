"""A rank that raises, leaves, hangs, is stopped or fills the memory: named, its trial failed, the others complete."""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import CommandLine
from faults.misbehaving import CGROUP
from paceline.records import Epoch, exit_of, rank_file, read_records, trial_dirs

HEARTBEAT_S, COLLECTIVE_S = 4.0, 8.0
GROUP_LIMIT_BYTES = 100_000_000
STUDY = """
name = "ranks"
seeds = [0]
aa_pair = false
scales = [2]
max_epochs = 2
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 100 }}
retries = 0

[cluster]
kind = "local"
heartbeat_timeout_s = {heartbeat_s}
collective_timeout_s = {collective_s}

[workloads.toy]
name = "workloads.toy:build"

{well}{wrong}
[optimizers.last]
name = "sgd"
"""
WRONG = """
[optimizers.{fault}]
name = "faults.misbehaving:build"
fault = "{fault}"
rank = {rank}
at = {at}
cured = "{cured}"
"""
RANKS = {"exit": 0, "lock": 0}  # which rank misbehaves, where it is not rank 1
HUNG = "kept the others waiting until they gave up, in "
SILENT = f"silent for {HEARTBEAT_S:g} s: stopped, without power, or cut off from the network"
SAID = {
    "exit": ["SystemExit: 0"],
    "vanish": ["died without a word (killed, or out of memory?)"],
    "stop": [SILENT],
    "lock": [SILENT],
    "hang": [HUNG, "hang_in_python", "misbehaving.py"],
    "receive": ["rank 0 on ", "rank 1 on ", "Timed out", "waiting in hang_in_a_receive", "waiting in objective"],
    "limit": ["can't allocate memory"],
    "cgroup": ["died without a word (killed, or out of memory?)"],
}

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]


class Misbehaved:
    """A study in which every fault has a trial of two ranks, between two that are well; then it is run again, cured."""

    def __init__(self, folder: Path, cgroup: str | None) -> None:
        self.run_dir, self.cured = folder / "runs" / "ranks", folder / "cured"
        self.faults = [fault for fault in SAID if cgroup or fault != "cgroup"]
        wrong = [self.table(fault, rank=RANKS.get(fault, 1), at=3) for fault in self.faults]
        study = folder / "ranks.toml"
        limits = {"heartbeat_s": HEARTBEAT_S, "collective_s": COLLECTIVE_S}
        study.write_text(STUDY.format(**limits, well=self.table("well", rank=0, at=0), wrong="".join(wrong)))
        command = CommandLine(folder)
        self.first = command("run", study, "--no-check", deadline_s=200, PACELINE_TEST_CGROUP=cgroup or "")
        self.left = command.end_all()
        self.exits = {folder.name.split("_")[1]: exit_of(folder) for folder in trial_dirs(self.run_dir)}
        self.report = json.loads(command("report", self.run_dir, "--json", "--no-html").stdout)
        self.cured.touch()
        self.second = command("run", study, "--no-check")
        self.left_after = command.end_all()

    def table(self, fault: str, *, rank: int, at: int) -> str:
        return WRONG.format(fault=fault, rank=rank, at=at, cured=self.cured)

    def last_digest(self, label: str, rank: int) -> str:
        (folder,) = self.run_dir.glob(f"toy_{label}_*")
        return [r for r in read_records(rank_file(folder, rank)) if isinstance(r, Epoch)][-1].parameters_digest


@pytest.fixture(scope="module")
def cgroup() -> Iterator[str | None]:
    """A memory group with little left, None where none can be made."""
    name = f"paceline-test-{uuid.uuid4().hex}"
    try:
        (CGROUP / name).mkdir()
        (CGROUP / name / "memory.limit_in_bytes").write_text(str(GROUP_LIMIT_BYTES))
    except OSError:
        yield None
        return
    yield name
    (CGROUP / name).rmdir()


@pytest.fixture(scope="module")
def misbehaved(tmp_path_factory: pytest.TempPathFactory, cgroup: str | None) -> Misbehaved:
    return Misbehaved(tmp_path_factory.mktemp("ranks"), cgroup)


@pytest.mark.parametrize("fault", SAID)
def test_the_rank_is_named_with_what_it_did(misbehaved: Misbehaved, fault: str) -> None:
    if fault not in misbehaved.faults:
        pytest.skip(f"no group can be made below {CGROUP}")
    how = misbehaved.exits[fault]
    assert how is not None
    assert how.status == "failed"
    if fault != "receive":  # both wait, in two places, which are told
        assert how.cause.startswith(f"rank {RANKS.get(fault, 1)} on {platform.node()}"), how.cause
    assert [words for words in SAID[fault] if words not in how.cause] == [], how.cause


def test_the_others_complete_and_nobody_is_left(misbehaved: Misbehaved) -> None:
    assert misbehaved.first.returncode == 1, misbehaved.first.stderr
    assert "Traceback" not in misbehaved.first.stderr
    assert [misbehaved.exits[label].status for label in ("well", "last")] == ["completed"] * 2
    assert misbehaved.left == []
    assert misbehaved.left_after == []


def test_the_report_has_numbers_of_those_only(misbehaved: Misbehaved) -> None:
    reached = {cell["label"]: cell["num_reached"] for cell in misbehaved.report["cells"]}
    assert {label for label, number in reached.items() if number} == {"well", "last"}
    for cell in misbehaved.report["cells"]:
        assert (cell["time_to_target_s"] is None) == (cell["label"] in SAID)


def test_cured_the_same_command_ends_with_the_same_bits_for_all(misbehaved: Misbehaved) -> None:
    """All are the same optimizer, however they were interrupted."""
    assert misbehaved.second.returncode == 0, misbehaved.second.stderr
    digests = {misbehaved.last_digest(label, rank) for label in misbehaved.faults for rank in (0, 1)}
    assert digests == {misbehaved.last_digest("well", rank) for rank in (0, 1)}
