"""Cluster files: what they may say, and what never gets as far as ssh."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.cluster import load_cluster
from paceline.errors import UsageError


def written(folder: Path, text: str, name: str = "cluster.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_hosts_are_names_or_tables_and_paths_are_relative_to_the_file(tmp_path):
    cluster = load_cluster(
        written(
            tmp_path,
            """
            [cluster]
            hosts = ["node1", "user@10.0.0.7", "fe80::1%eth0", { name = "node4", interface = "eth1", ranks = 2 }]
            ssh_config = "ssh/config"
            wheelhouse = "~/wheels"
            python = "/opt/an env/bin/python"
            """,
        )
    )
    assert [host.name for host in cluster.hosts] == ["node1", "user@10.0.0.7", "fe80::1%eth0", "node4"]
    assert (cluster.hosts[3].interface, cluster.hosts[3].ranks, cluster.hosts[0].ranks) == ("eth1", 2, "auto")
    assert cluster.ssh_config == str(tmp_path / "ssh" / "config")
    assert cluster.wheelhouse == str(Path.home() / "wheels")


def test_a_plain_file_has_a_host_a_line(tmp_path):
    cluster = load_cluster(written(tmp_path, "# ours\nnode1\n\nuser@node2  # the new one\n", "hosts.txt"))
    assert cluster.kind == "ssh"
    assert [host.name for host in cluster.hosts] == ["node1", "user@node2"]


@pytest.mark.parametrize(
    "name",
    [
        "-oProxyCommand=touch x", "a b", "a;b", "a\\nb", "$(id)", "`id`", "a'b", "", "-", "user@-x", "a/b", "a@b@c",
        "\\u0000",
    ],
)  # fmt: skip
def test_names_that_are_no_hosts_are_refused(tmp_path, name):
    """Options, shell syntax, spaces and control characters: before anything is started."""
    for hosts in (f'["{name}"]', f'[{{ name = "{name}" }}]', f'[{{ name = "a", address = "{name}" }}]'):
        with pytest.raises(UsageError, match="a host is a name of ssh_config or"):
            load_cluster(written(tmp_path, f"[cluster]\nhosts = {hosts}\n"))


def test_a_line_of_a_plain_file_is_checked_as_well(tmp_path):
    with pytest.raises(UsageError, match="a host is a name of ssh_config or"):
        load_cluster(written(tmp_path, "node1 slots=4\n", "hosts.txt"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[cluster]\n", "kind = 'ssh' needs hosts; give at least one"),
        ('[cluster]\nhosts = ["a", "a"]\n', "a given twice"),
        ('[cluster]\nkind = "local"\nhosts = ["a"]\n', "kind = 'local' takes no hosts"),
        ('[cluster]\nhosts = ["a"]\npython = "python3"\n', "python: an interpreter is an absolute path"),
        ('[cluster]\nhosts = ["a"]\nport = 3\n', "port"),
        ('[cluster]\nhosts = [{ name = "a", interface = "no such card at all" }]\n', "interface"),
        ('hosts = ["a"]\n', r"has no \[cluster\] table"),
        ("[cluster\n", "is not TOML"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(tmp_path, text, said):
    with pytest.raises(UsageError, match=said) as caught:
        load_cluster(written(tmp_path, text))
    assert "cluster.toml" in str(caught.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.toml cannot be read"):
        load_cluster(tmp_path / "nowhere.toml")
