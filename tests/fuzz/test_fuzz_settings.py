"""Study files, cluster files, lists of hosts and ``--set`` of any content are understood, or refused in words."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import strategies as st

from fuzz.hostile import ESCAPES, NUMBERS, PATHS, VALUES, spoilt, spoilt_text
from paceline.cluster import cluster_of, load_cluster
from paceline.errors import UsageError
from paceline.study import Study, apply_override, load, validate

STUDY = """\
name = "fuzzed"
question = "?"
seeds = [0, 1]
max_epochs = 2
max_train_time_s = "unlimited"
evaluate_every = 1000
scales = [1, "2x2"]
strategies = ["single", "ddp"]
threads_per_rank = 1
baseline = "sgd-flat+single@1"
comparisons = [["sgd-flat+ddp@2x2", "sgd-flat+single@1"]]

[batch]
rule = "global"
global_batch_size = 64

[schedules.cosine]
warmup = 0.1
[schedules.flat]
name = "constant"

[workloads.digits]
name = "lenet5-mnist"
dataset = "mnist-small"
target = 0.9

[optimizers.sgd]
lr = 0.05
momentum = 0.9
[optimizers.sgd.options]
clip_grad_norm = 1.0
[optimizers.own]
name = "module:attribute"
anything = 1

[tuning]
num_trials = 4
seeds = [1000]
[tuning.search.sgd-cosine]
weight_decay = { low = 1e-5, high = 1e-2, log = true }
[tuning.search.sgd-flat]
weight_decay = { low = 1e-5, high = 1e-2, log = true }
[tuning.search.own-cosine]
beta = [1, 2, 3, 4]
[tuning.search.own-flat]
beta = [1, 2, 3, 4]
"""
CLUSTER = """\
[cluster]
kind = "ssh"
hosts = ["a", { name = "user@b", address = "10.0.0.1", ranks = 2, cores = 2, interface = "eth0" }]
num_groups = 1
ssh_config = "ssh config"
python = "/usr/bin/python3"
wheelhouse = "~/wheels"
folder = "~/.paceline"
data_dir = "/data"
heartbeat_timeout_s = 60.0
"""
HOSTS = "a\nuser@b # one\n\n[::1]\n10.0.0.1\n"


def test_the_study_is_one():
    assert len(validate(tomllib.loads(STUDY), source="here").optimizers) == 4, "each with two schedules"


def test_study_files(survives, tmp_path):
    path = tmp_path / "study.toml"

    def read(text: str) -> None:
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        study = load(path)
        assert Path(study.name).name == study.name
        cluster_of(path, None)

    survives(read, spoilt_text(STUDY) | spoilt_text(STUDY + CLUSTER), num_examples=120)


def test_settings_of_any_kind(survives):
    """As they stand in a file, and as a run folder keeps them."""
    plain = tomllib.loads(STUDY)
    kept = validate(plain, source="here").model_dump(mode="json")
    survives(lambda settings: validate(settings, source="here"), spoilt(plain), num_examples=150)
    survives(lambda settings: validate(settings, source="here"), spoilt(kept), num_examples=100)


KEYS = st.sampled_from(
    ["a", "scales", "seeds", "batch.rule", "optimizers", "optimizers.sgd.lr", "optimizers.sgd", "workloads", "a" * 999]
)
ODD = ["[" * 200_000, "1" * 5000, "{a=1}", "'x'", "1\nx = 2", ""]
WORDS = st.sampled_from([*ESCAPES, *PATHS, *map(str, NUMBERS), *ODD])
BETWEEN = st.sampled_from(["=", "", ".x=", ".=", "==", "." * 500 + "="])


def test_overrides(survives):
    def read(override: str) -> None:
        settings = tomllib.loads(STUDY)
        apply_override(settings, override)
        validate(settings, source="--set")

    words = st.tuples(
        KEYS | st.text(max_size=20), st.sampled_from(["=", "", ".x=", ".=", "==", "." * 500 + "="]), WORDS
    )
    survives(read, words.map("".join) | st.text(max_size=30), num_examples=150)


def test_cluster_files_and_lists_of_hosts(survives, tmp_path):
    def read(file: tuple[str, str]) -> None:
        name, text = file
        (tmp_path / name).write_text(text, encoding="utf-8", errors="surrogatepass")
        cluster = load_cluster(tmp_path / name)
        for group in cluster.groups():
            assert not group or Path(group).name == group != ".."
        for host in cluster.hosts:
            assert not host.name.startswith("-")
            assert Path(host.name).name == host.name, "it names the folder of its logs"
            assert host.name.isprintable()

    toml = st.tuples(st.just("cluster.toml"), spoilt_text(CLUSTER))
    text = st.tuples(st.just("hosts.txt"), spoilt_text(HOSTS) | VALUES.map(str))
    survives(read, toml | text, num_examples=150)


def test_tables_of_a_cluster_of_any_kind(survives):
    from pydantic import ValidationError

    from paceline.cluster import Cluster

    def read(settings: object) -> None:
        try:
            Cluster.model_validate(settings)
        except ValidationError as error:
            raise UsageError(str(error)) from error

    survives(read, spoilt(tomllib.loads(CLUSTER)["cluster"]), num_examples=100)


@pytest.mark.parametrize(("table", "typo"), [("optimizers", "learning_rat"), ("strategies", "levels")])
def test_a_key_that_there_is_not_is_told_of_a_label_that_schedules_made(table, typo):
    settings = tomllib.loads(STUDY)
    if table == "strategies":
        settings["strategies"] = {"single": {}, "auto": {typo: 1}}
    else:
        settings["optimizers"]["sgd"][typo] = 1
    with pytest.raises(UsageError, match=f"{typo}: unknown key"):
        validate(settings, source="here")


@pytest.mark.parametrize("name", [*PATHS, *ESCAPES, "a/b", "a\nb", ".hidden", "-rf"])
def test_no_name_of_a_study_leads_out_of_its_folder(name):
    settings = tomllib.loads(STUDY) | {"name": name}
    with pytest.raises(UsageError, match="name"):
        validate(settings, source="here")
    labels = tomllib.loads(STUDY)
    labels["workloads"] = {name: labels["workloads"]["digits"]}
    with pytest.raises(UsageError, match="workloads"):
        validate(labels, source="here")


def test_a_file_of_a_gigabyte_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "study.toml"
    with path.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load(path)
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        load_cluster(path)


def test_a_study_of_its_own_kind_is_what_it_was(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)
    study = load(tmp_path / "study.toml")
    assert Study.model_validate(study.model_dump(mode="json")) == study
