"""What is handed to Slurm: the batch script, and what a cluster file may say of it."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from paceline.cluster import Cluster, load_cluster
from paceline.errors import UsageError
from paceline.job import Job
from paceline.launch.slurm import script_of


def job_in(folder: Path, group: str = "") -> Job:
    return Job(
        run_dir=str(folder),
        group=group,
        trials=["one"],
        num_hosts=2,
        ranks_per_host=1,
        threads_per_rank=1,
        device="cpu",
        data_dir=None,
    )


def options_in(script: str) -> list[str]:
    """What sbatch reads: one word a line, quoted as for a shell."""
    lines = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    words = [shlex.split(line) for line in lines]
    assert all(len(each) == 1 for each in words), lines
    return [word for (word,) in words]


@pytest.mark.parametrize("name", ["a run", "it's", "$(touch x); rm -rf 'y' \"z\" #", "-lead", "100%j"])
def test_names_of_folders_stay_one_word_for_sbatch_and_for_the_shell(tmp_path, name):
    """The command is only ever that of the job, and % is no field of Slurm's."""
    folder = tmp_path / name
    script = script_of(Cluster(kind="slurm"), job_in(folder))
    assert f"--chdir={folder}" in options_in(script)
    assert f"--output={folder}/logs/slurm.log".replace("%", "%%") in options_in(script)
    told = script.replace("exec ", "printf '%s\\n' ", 1)
    said = subprocess.run(["sh", "-c", told], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert said.splitlines()[1:] == ["-m", "paceline.launch.slurm_job", "batch", f"{folder}/job.json"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["back\\slash", "line\nbreak"])
def test_a_folder_that_slurm_cannot_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="choose --runs without backslash or line break"):
        script_of(Cluster(kind="slurm"), job_in(tmp_path / name))


def test_settings_and_options_reach_sbatch_the_users_last(tmp_path):
    """Time in minutes and seconds; ranks are asked to leave two minutes before, or at three quarters of a short one."""
    cluster = Cluster(
        kind="slurm", partition="fast", time_limit_s=5400.5, options=("--account=a b", "--exclusive=user"), num_groups=2
    )
    found = options_in(script_of(cluster.groups()["group2"], job_in(tmp_path, "group2")))
    assert {"--partition=fast", "--time=90:00", "--nodes=2", "--signal=B:USR2@120", "--requeue"} <= set(found)
    assert found[-2:] == ["--account=a b", "--exclusive=user"]
    assert f"--output={tmp_path}/logs/group2/slurm.log" in found
    short = options_in(script_of(Cluster(kind="slurm", time_limit_s=100), job_in(tmp_path)))
    assert {"--time=1:40", "--signal=B:USR2@25"} <= set(short)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('options = ["-A x"]', "'--name=value', a string each"),
        ('options = ["--comment=a\\nb"]', "'--name=value', a string each"),
        ('options = ["--output=x"]', "a run gives --output to sbatch itself"),
        ('options = ["--time=3"]', "partition, time_limit_s and num_groups"),
        ('options = ["--cpus-per-task=many"]', "takes a number"),
        ("time_limit_s = 5", "greater than or equal to 60"),
        ('hosts = ["a"]', "hosts has no effect where kind = 'slurm'"),
        ('ssh_config = "x"\nfolder = "y"', "ssh_config, folder has no effect"),
    ],
)  # fmt: skip
def test_what_slurm_has_no_use_for_is_refused(tmp_path, settings, said):
    path = tmp_path / "slurm.toml"
    path.write_text(f'[cluster]\nkind = "slurm"\n{settings}\n')
    with pytest.raises(UsageError, match=said):
        load_cluster(path)


def test_settings_of_slurm_are_refused_elsewhere(tmp_path):
    path = tmp_path / "ssh.toml"
    path.write_text('[cluster]\nhosts = ["a"]\npartition = "fast"\n')
    with pytest.raises(UsageError, match="partition has no effect where kind = 'ssh'"):
        load_cluster(path)
