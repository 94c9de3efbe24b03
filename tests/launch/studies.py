"""Study files of tests with the toy workload."""

from __future__ import annotations

from pathlib import Path


def write_study(
    folder: Path, *, name: str, optimizers: str, scales: str = "[1, 2]", max_epochs: int = 2, toy: str = ""
) -> Path:
    """Write ``folder/NAME.toml``; ``optimizers`` and ``toy`` (options of the workload) are TOML."""
    path = folder / f"{name}.toml"
    path.write_text(f"""
name = "{name}"
seeds = [0]
aa_pair = false
scales = {scales}
max_epochs = {max_epochs}
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 50 }}

[workloads.toy]
name = "workloads.toy:build"

[workloads.toy.options]
{toy}

{optimizers}
""")
    return path
