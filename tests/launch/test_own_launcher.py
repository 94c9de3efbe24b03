"""The launcher that the documentation shows, as it stands there, runs a study."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from command_line import CommandLine
from launch.studies import write_study
from paceline.records import Network, exit_of, read_json, trial_dirs

PAGE = Path(__file__).parents[2] / "docs" / "run-on-your-machines.md"

pytestmark = [
    pytest.mark.runs,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]


def block(language: str) -> str:
    """The block in this language of the section on launchers."""
    section = PAGE.read_text(encoding="utf-8").partition("\n## A launcher of your own\n")[2]
    found = re.search(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def words(tmp_path: Path) -> tuple[str | Path, ...]:
    """The words that run a study by it, on two "hosts"."""
    (tmp_path / "loopback.py").write_text(block("python"))
    (tmp_path / "cluster.toml").write_text(block("toml"))
    study = write_study(tmp_path, name="own", scales='["1x1", "2x1"]', optimizers="[optimizers.adam]", max_epochs=300)
    return "run", study, "--cluster", tmp_path / "cluster.toml", "--no-check"


def with_launcher(paceline: CommandLine) -> dict[str, str]:
    return {"PYTHONPATH": f"{paceline.folder}:{paceline.environment['PYTHONPATH']}"}


def test_it_runs_a_study_on_two_hosts(paceline: CommandLine, words: tuple[str | Path, ...]):
    done = paceline(*words, "--set", "max_epochs=2", deadline_s=120, **with_launcher(paceline))
    assert done.returncode == 0, done.stderr
    folders = list(trial_dirs(paceline.folder / "runs" / "own"))
    assert [exit_of(folder).status for folder in folders] == ["completed"] * 2
    assert sorted(len(list(folder.glob("rank-*.jsonl"))) for folder in folders) == [1, 2]
    network = Network.model_validate(read_json(paceline.folder / "runs" / "own" / "network.json"))
    assert (network.num_hosts, network.backend) == (2, "gloo")
    assert "note: all hosts are this machine: their times measure contention" in done.stderr


def test_its_ranks_end_with_their_command(paceline: CommandLine, words: tuple[str | Path, ...]):
    """The fixture sees that nothing is left."""
    process = paceline.start(*words, **with_launcher(paceline))
    deadline = time.monotonic() + 60
    while not list(paceline.folder.glob("runs/own/*_2x1_*/rank-0001.jsonl")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_launcher_that_nobody_knows_is_refused_with_those_there_are(paceline: CommandLine):
    (paceline.folder / "cluster.toml").write_text('[cluster]\nkind = "shh"\nhosts = ["a"]\n')
    study = write_study(paceline.folder, name="own", optimizers="[optimizers.adam]")
    done = paceline("run", study, "--cluster", "cluster.toml")
    assert done.returncode == 2
    assert "kind: unknown launcher 'shh': did you mean 'ssh'?" in done.stderr
