"""Files that are torn, emptied, garbage or gone, of every kind that a run writes: a right answer, or an error by name.

One study is run detached until its host crashes (all of its processes are killed at once), and then to its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import CommandLine
from paceline.cli import main
from paceline.records import (
    End,
    Epoch,
    Evaluation,
    Network,
    Resumed,
    each_record,
    rank_file,
    read_records,
    trial_dirs,
    write_json,
)
from paceline.train import failure
from ranks import processes_naming
from train.trials import toy_trial

STUDY = """
name = "kept"
seeds = [0]
aa_pair = false
scales = [1, 2]
max_epochs = 3
threads_per_rank = 1
device = "cpu"
batch = {{ rule = "global", global_batch_size = 500 }}
checkpoint_every = "epoch"

[workloads.logreg-mnist]
dataset = "mnist-small"

[optimizers.adam]

[optimizers.raise]
name = "faults.misbehaving:build"
fault = "raise"
rank = 1
at = 5
cured = "{folder}/never"

[optimizers.wait]
name = "faults.misbehaving:build"
fault = "hang"
rank = 0
at = 12
cured = "{folder}/cured"
"""
# Every kind of file that a run leaves, by a pattern of its path below the run's folder.
KINDS = {
    "study.json": r"study\.json",
    "environment.json": r"environment\.json",
    "checks.json": r"checks\.json",
    "cluster.json": r"cluster\.json",
    "network.json": r"network\.json",
    "job.json": r"job\.json",
    "running": r"running",
    "holder": r"\.holder",
    "state of the run": r"control/run/state\.json",
    "state of the agent": r"control/agent/state\.json",
    "trial.json": r"[^/]+/trial\.json",
    "exit.json": r"[^/]+/exit\.json",
    "failures.json": r"[^/]+/failures\.json",
    "word of a rank": r"[^/]+/error-rank-\d{4}\.json",
    "records of rank 0": r"[^/]+_adam_[^/]+/rank-0000\.jsonl",
    "records of rank 1": r"[^/]+_adam_[^/]+/rank-0001\.jsonl",
    "ranks.json": r"logs/ranks\.json",
    "logs": r"logs/.*\.log",
}
# Of no use to a reader but the ranks, by test_a_trial_..., or of no content.
OTHERS = (
    *(r"[^/]+/checkpoints/update-\d{9}\.pt(\.sha256)?", r"[^/]+/rank-\d{4}\.jsonl", r"report\.html", r"export/.*"),
    *(r"\.lock", r"control/(run|agent)/lock"),
)
READERS = {
    "status": ("status", "--json"),
    "report": ("report", "--json", "--no-html"),
    "audit": ("audit", "--json"),
    "logs": ("logs",),
    "logs of a trial": ("logs", "--trial", "raise_ddp"),
    "logs of another": ("logs", "--trial", "adam_ddp"),
    "stop": ("stop",),
}
NUM_CUTS = 6

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc"),
]


def kill_all(text: str) -> None:
    """As a host that crashes does: at once, and those too that start meanwhile."""
    while pids := processes_naming(text):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def wait_for(condition: Callable[[], object], *, deadline_s: float = 90.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Kept:
    """The run's folder as the crash left it, ``crashed``, and at its end, ``ended``."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.study = folder, folder / "kept.toml"
        self.crashed, self.ended = folder / "crashed" / "kept", folder / "ended" / "kept"
        self.study.write_text(STUDY.format(folder=folder))
        command, run_dir = CommandLine(folder), folder / "runs" / "kept"
        done = command("run", self.study, "--detach")
        assert done.returncode == 0, done.stderr
        wait_for(lambda: any(len(read_records(path)) > 2 for path in run_dir.glob("*_wait_*/rank-0000.jsonl")))
        kill_all(str(folder))
        (failed,) = run_dir.glob("*_raise_ddp_*")
        with contextlib.suppress(ZeroDivisionError):
            try:
                1 / 0  # noqa: B018
            except ZeroDivisionError as error:  # as a rank leaves it, for as long as its word is not told
                failure.leave_word(failed, 1, error)
                raise
        network = {"num_hosts": 2, "backend": "gloo", "all_reduce": [{"bytes": 1024, "seconds": 1e-3, "repeats": 3}]}
        write_json(run_dir / "network.json", Network.model_validate(network).model_dump())
        self.crashed.parent.mkdir()
        shutil.copytree(run_dir, self.crashed)
        (folder / "cured").touch()
        (lost,) = run_dir.glob("*_adam_ddp_*")
        shutil.rmtree(lost)  # it had completed
        self.last = command("run", self.study, "--no-check")
        self.left = command.end_all()
        for form in ("csv", "markdown"):
            assert command("export", run_dir, "--to", form).returncode == 0
        self.ended.parent.mkdir()
        run_dir.rename(self.ended)

    def file_of(self, kind: str, run_dir: Path) -> Path | None:
        """The first file of a kind."""
        paths = [path for path in sorted(run_dir.rglob("*")) if path.is_file()]
        return next((path for path in paths if re.fullmatch(KINDS[kind], str(path.relative_to(run_dir)))), None)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command; its exit code, output and standard error. Whatever it raises is a failure of the test."""

    def ask(*words: str | Path) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return ask


def damages(content: bytes) -> dict[str, bytes | None]:
    """What may become of a file: gone, cut anywhere, zeros as after a crash, another's content."""
    cuts = {f"cut at {at}": content[:at] for at in range(1, len(content), max(1, len(content) // NUM_CUTS))}
    whole = {"gone": None, "empty": b"", "zeros": bytes(len(content)), "not text": b"\xff\xfe" + content[:20]}
    return {**whole, "another object": b"{}\n", "a list": b"[]\n", "a number": b"3\n", "null": b"null\n", **cuts}


def test_every_kind_of_file_that_a_run_leaves_is_known(kept: Kept) -> None:
    """A new one needs a place in this module."""
    assert kept.last.returncode == 1, kept.last.stderr
    assert kept.left == []
    known = (*KINDS.values(), *OTHERS)
    for run_dir, aside in ((kept.crashed, [r".*/\.[^/]+\.\d+"]), (kept.ended, [])):  # what was being written
        paths = [str(path.relative_to(run_dir)) for path in run_dir.rglob("*") if path.is_file()]
        assert [path for path in paths if not any(re.fullmatch(one, path) for one in (*known, *aside))] == []
    assert [kind for kind in KINDS if not (kept.file_of(kind, kept.crashed) or kept.file_of(kind, kept.ended))] == []


def test_a_trial_whose_folder_is_gone_is_run_again_and_ends_with_the_same_bits(kept: Kept) -> None:
    """And those that are there are not."""
    names = {folder.name for folder in trial_dirs(kept.ended)}
    assert names == {folder.name for folder in trial_dirs(kept.crashed)}
    for name in names:
        if "_adam_" in name:
            assert same_training(kept.crashed / name, kept.ended / name)
        if "_single_" not in name or "_wait_" in name:  # tried again, or gone on with
            continue
        own, before = (rank_file(run_dir / name, 0).read_bytes() for run_dir in (kept.ended, kept.crashed))
        assert own == before, name


def same_numbers(told: dict[str, Any], whole: dict[str, Any]) -> bool:
    return bool(told["cells"] == whole["cells"] and told["verdict"] == whole["verdict"])


@pytest.mark.parametrize("kind", KINDS)
def test_readers_answer_rightly_or_name_the_file(kept: Kept, ask: Any, tmp_path: Path, kind: str) -> None:
    """Numbers may be fewer only where the trial is not over any more, or the audit says what is wrong with it."""
    source = kept.ended if kept.file_of(kind, kept.ended) else kept.crashed
    run_dir = tmp_path / "kept"
    shutil.copytree(source, run_dir)
    path = kept.file_of(kind, run_dir)
    assert path is not None
    content = path.read_bytes()
    before = {name: ask(words[0], run_dir, *words[1:]) for name, words in READERS.items()}
    whole = json.loads(before["report"][1])
    for damage, damaged in damages(content).items():
        path.unlink(missing_ok=True)
        if damaged is not None:
            path.write_bytes(damaged)
        answers = {name: ask(words[0], run_dir, *words[1:]) for name, words in READERS.items()}
        for name, (code, out, err) in answers.items():
            if code == 0 or (name == "audit" and out):
                continue
            place = f"{kind}, {damage}, {name}: {err}"
            assert err.startswith("paceline: "), place
            assert str(path) in err or (damage == "gone" and str(run_dir) in err), place
        if answers["report"][0] == 0 and not same_numbers(told := json.loads(answers["report"][1]), whole):
            status = json.loads(answers["status"][1])
            audit = json.loads(answers["audit"][1])["audit"]
            failed = [one["evidence"] for one in audit if one["status"] == "fail"]
            is_told = any(path.parent.name in evidence for evidence in failed)
            assert is_told or status["num_over"] < told["num_planned"], f"{kind}, {damage}: wrong numbers, untold"
    path.write_bytes(content)
    after = {name: ask(words[0], run_dir, *words[1:]) for name, words in READERS.items()}
    assert after["report"] == before["report"], "no reader changed anything"


@pytest.mark.parametrize("kind", KINDS)
def test_run_export_and_clean_do_what_is_right_or_name_the_file(
    kept: Kept, ask: Any, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])
    for damage in ("empty", "half"):
        run_dir = tmp_path / damage / "kept"
        shutil.copytree(kept.ended, run_dir)
        path = kept.file_of(kind, run_dir)
        if path is None:
            path = run_dir / kept.file_of(kind, kept.crashed).relative_to(kept.crashed)
            path.parent.mkdir(exist_ok=True)
            shutil.copy(kept.file_of(kind, kept.crashed), path)
        for failed in run_dir.glob("*_raise_ddp_*"):  # or `run` tries it again
            shutil.copy(next(run_dir.glob("*_adam_ddp_*")) / "exit.json", failed / "exit.json")
        content = path.read_bytes()
        path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
        asked = {
            "run": ("run", kept.study, "--runs", run_dir.parent, "--no-check"),
            "export": ("export", run_dir, "--to", "csv"),
            "clean": ("clean", run_dir, "--yes"),
        }
        for name, words in asked.items():
            code, _, err = ask(*words)
            if code and not (name == "run" and "trials failed; run the same command" in err):
                assert err.splitlines()[-1].startswith("paceline: "), (kind, damage, name, err)
                assert str(path) in err, (kind, damage, name, err)
        assert not run_dir.exists() or any(run_dir.iterdir())


ATTEMPT = "faults.filling:attempt"
NUM_EPOCHS = 4


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def newest(folder: Path, end: str = ".pt") -> Path:
    return max((folder / "checkpoints").glob(f"*{end}"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def exchange_digests(folder: Path) -> None:
    one, other = sorted((folder / "checkpoints").glob("*.sha256"))
    for path, text in ((one, other.read_text()), (other, one.read_text())):
        path.write_text(text)


def cut_last_epoch(folder: Path) -> None:
    """All of it but its first bytes: as if the host had died without having written the rest to disk."""
    path = rank_file(folder, 1)
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"kind":"epoch"' in line)
    path.write_bytes(b"".join(lines[:last]) + lines[last][:40])


HEALED: dict[str, Callable[[Path], object]] = {
    "nothing": lambda folder: None,
    "the newest cut": lambda folder: cut(newest(folder), 0.7),
    "the newest emptied": lambda folder: cut(newest(folder), 0),
    "the newest all zeros": lambda folder: newest(folder).write_bytes(bytes(5000)),
    "a bit of the newest": lambda folder: flip(newest(folder)),
    "the newest gone": lambda folder: newest(folder).unlink(),
    "its digest gone": lambda folder: newest(folder, ".sha256").unlink(),
    "its digest emptied": lambda folder: cut(newest(folder, ".sha256"), 0),
    "its digest cut": lambda folder: cut(newest(folder, ".sha256"), 0.5),
    "all checkpoints gone": lambda folder: shutil.rmtree(folder / "checkpoints"),
    "all files but the trial's own gone": lambda folder: [shutil.rmtree(folder / "checkpoints"),
                                                          *(path.unlink() for path in folder.glob("rank-*"))],
    "the last epoch of a rank's records": cut_last_epoch,
}  # fmt: skip
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "all checkpoints cut": (
        lambda folder: [cut(path, 0.5) for path in folder.glob("checkpoints/*.pt")],
        "every checkpoint in .* is damaged; remove that folder to begin the trial anew",
    ),
    "digests exchanged": (exchange_digests, "every checkpoint in .* is damaged; remove that folder"),
    "the records of a rank gone": (
        lambda folder: rank_file(folder, 1).unlink(),
        f"update-.* is of {NUM_EPOCHS} epochs, and records of 0 are left",
    ),
    "most records of rank 0": (
        lambda folder: cut(rank_file(folder, 0), 0.4),
        f"update-.* is of {NUM_EPOCHS} epochs, and records of 1 are left",
    ),
}


@pytest.fixture(scope="module")
def whole_trial(rank_pool: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    trial = toy_trial(num_ranks=2, max_epochs=NUM_EPOCHS, optimizer={"name": "adam"})
    folder = tmp_path_factory.mktemp("whole")
    assert rank_pool.run(ATTEMPT, num_ranks=2, trial=trial.model_dump(), folder=str(folder)) == ["", ""]
    assert len(list(folder.glob("checkpoints/*.pt"))) == 2
    return trial.model_dump(), folder


def same_training(one: Path, other: Path) -> bool:
    """Each epoch once, on both ranks, with the same bits; and the same evaluations and test scores."""

    def told(folder: Path) -> list[Any]:
        files = sorted(folder.glob("rank-*.jsonl"))
        records = [record for file in files for record in read_records(file)]
        scores = [record.validation for record in records if isinstance(record, Evaluation)]
        epochs = [(record.epoch, record.parameters_digest) for record in records if isinstance(record, Epoch)]
        ends = [(record.num_updates, record.test) for record in records if isinstance(record, End)]
        return [scores, epochs, ends]

    return told(one) == told(other)


@pytest.mark.parametrize("what", HEALED)
def test_a_trial_goes_on_from_what_is_whole_and_ends_with_the_same_bits(
    rank_pool: Any, whole_trial: tuple[dict[str, Any], Path], tmp_path: Path, what: str
) -> None:
    """It was not over, and lost part of its files with the host: what is passed over is named."""
    trial, whole = whole_trial
    folder = Path(shutil.copytree(whole, tmp_path / "trial"))
    (folder / "exit.json").unlink()
    HEALED[what](folder)
    assert rank_pool.run(ATTEMPT, num_ranks=2, trial=trial, folder=str(folder)) == ["", ""]
    assert same_training(folder, whole)
    passed_over = [r.passed_over for r in each_record(rank_file(folder, 0)) if isinstance(r, Resumed)]
    is_newest_named = bool(passed_over and passed_over[-1])
    assert is_newest_named == (what not in ("nothing", "the newest gone") and not what.startswith("all "))


@pytest.mark.parametrize("what", REFUSED)
def test_a_trial_of_which_too_little_is_whole_is_refused_with_advice(
    rank_pool: Any, whole_trial: tuple[dict[str, Any], Path], tmp_path: Path, what: str
) -> None:
    """Which is followed: then it begins anew, and ends with the same bits."""
    trial, whole = whole_trial
    damage, words = REFUSED[what]
    folder = Path(shutil.copytree(whole, tmp_path / "trial"))
    (folder / "exit.json").unlink()
    damage(folder)
    for error in rank_pool.run(ATTEMPT, num_ranks=2, trial=trial, folder=str(folder)):
        assert error.startswith("DataError: "), error
        assert re.search(words, error), error
        assert str(folder / "checkpoints") in error
    shutil.rmtree(folder / "checkpoints")
    assert rank_pool.run(ATTEMPT, num_ranks=2, trial=trial, folder=str(folder)) == ["", ""]
    assert same_training(folder, whole)
