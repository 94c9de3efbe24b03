"""``paceline init``."""

from __future__ import annotations

from pathlib import Path

STUDY = """\
# A study of paceline: which optimizer, on how many ranks, reaches the target soonest?
# Start it with `paceline run {file}`; it writes to ./runs/{name}.
# Every setting is explained by `paceline schema`; `paceline list optimizers` and the like name the contestants.

name = "{name}"
question = "Which optimizer reaches 95 % on handwritten digits soonest, and does a second rank pay?"

# Every cell is run once with each seed. To claim a difference between two cells takes 6 seeds, between
# more pairs of cells more; with fewer, the report gives the numbers and the words "no claim".
seeds = [0, 1, 2]

# How long a trial trains: so many passes over the training set, or so many seconds of training ("unlimited").
# `paceline run {file} --dry-run` says beforehand how long all of it takes, and what it could find.
max_epochs = 6
max_train_time_s = "unlimited"
# stop_at_target = true        # end a trial where it reaches the target

# The baseline runs twice with each seed: what differs between the two is noise of the machine, and no smaller
# difference is claimed. A baseline of your own is a cell, such as "adam+single@1"; "auto" is the first one.
# aa_pair = true
# baseline = "auto"

# When to look at the validation set: after each epoch, or after so many training samples.
evaluate_every = 1000

# Ranks on this host, or "HOSTSxRANKS" such as "2x4".
scales = [1, 2]

# How ranks share the work. "auto" is `single` (no wrapper) at one rank and `ddp` above. The two named here
# run one rank both ways, so that the report can tell what the wrapper costs.
strategies = ["single", "ddp"]

# The same at every scale; "auto" shares the cores of this host among the ranks of the largest scale.
threads_per_rank = "auto"

# "global": the same examples in each update at every scale. "per_rank": the batch grows with the ranks, and
# lr_rule ("none", "linear", "sqrt") says how the learning rate grows with it.
[batch]
rule = "global"
global_batch_size = 64

# What is trained. Without `target`, the target is the one recorded for the data set.
[workloads.digits]
name = "lenet5-mnist"
dataset = "mnist-small"        # 5,000 digits that come with paceline
target = 0.95

# A table for each contestant; its name is yours, `name` says what it is (the table's own name if left out).
[optimizers.sgd]
lr = 0.05
momentum = 0.9

[optimizers.adam]
lr = 1e-3

# Choose hyperparameters by as many trials for each optimizer and scale, before the trials above; those that a
# table of an optimizer gives are not searched, so leave some out there.
# [tuning]
# num_trials = 16
# seeds = [1000]                 # none of the seeds above
# [tuning.search.adam]           # left out: the optimizer's default space
# lr = {{ low = 1e-4, high = 3e-2, log = true }}
# beta1 = [0.8, 0.9, 0.95]

# L-BFGS evaluates the objective several times an update, and wants larger batches.
# [optimizers.lbfgs]
# max_iter = 4
# history_size = 10
# line_search = "strong_wolfe"
"""


def init(path: Path = Path("study.toml")) -> None:
    """Write a commented study file to start from.

    Parameters
    ----------
    path:
        The file to write; one that is there is left as it is.
    """
    import re

    from paceline.cli.output import say
    from paceline.errors import UsageError

    name = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip("._-")[:64] or "study"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(STUDY.format(file=path, name=name))
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; give another name, or remove it first") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    say(f"wrote {path}; run it with `paceline run {path}`")
