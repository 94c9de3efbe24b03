"""Studies killed at random moments until they are complete: ``python -m faults.campaign --seed S --minutes M``.

Run from ``tests/``. Each round is a study of seven short trials, whose results are known from a run that nobody
disturbed. It is run again and again, while a rank, the agent, one of the two keepers or the controlling process is
killed; then everything must be as if nothing had happened. A round's seed repeats its plan (``--round SEED``); what a
plan meets depends on the machine's pace.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from command_line import PACELINE, CommandLine
from faults.proof import Results, Untouched, results_of, stray_files, untrue_causes
from faults.victims import PARTS, PHASES, Phase, Victim, num_over, phase, victims, writes_checkpoint
from paceline.job import Job
from paceline.records import exit_of, failures_of, trial_dirs
from ranks import processes_naming, wait_until_gone

STUDY = """
name = "struck"
seeds = [0]
scales = [1, 2]
max_epochs = 6
retries = 2
checkpoint_every = "7 updates"
threads_per_rank = 1
device = "cpu"
batch = { rule = "global", global_batch_size = 50 }

[workloads.toy]
name = "workloads.toy:build"

[workloads.toy.options]
num_train = 500
train_sleep_s = 0.006

[optimizers.sgd]
momentum = 0.9
[optimizers.adam]
[optimizers.lbfgs]
"""
NUM_TRIALS = 7  # three optimizers on one rank and two, and the A/A pair's second half
MOST_STRIKES = 24  # in one round, which then is let alone until it is complete
MOST_STRIKES_A_RUN = 6
LONGEST_WAIT_S = 60.0  # for the moment of a strike
LONGEST_RUN_S = 180.0
GONE_WITHIN_S = 15.0
LOOK_S = 0.1
POLL_S = 0.0005
DELAYS_S = {"start-up": 3.0, "training": 0.4, "report": 2.0, "any moment": 8.0}
AIMS = ("start-up", "training", "checkpoint", "between trials", "report", "any moment")
CHANCES = (3, 4, 4, 3, 2, 2)
WHY_1 = re.compile(
    r"paceline: the ranks could not be kept alive|paceline: the ranks were asked to leave|"
    r"paceline: the ranks cannot be started|paceline: the process that was to build the workloads|"
    r"of \d trials failed; run the same command"
)


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One kill: whom, by which signal, while the run was at what, and whether that was detached."""

    victim: Victim
    number: signal.Signals
    phase: Phase
    detached: bool


@dataclass(kw_only=True)
class Account:
    """Of one round: its strikes, what was found wrong, how often the command was run."""

    seed: int
    strikes: list[Strike] = field(default_factory=list)
    flaws: list[str] = field(default_factory=list)
    num_runs: int = 0
    num_retried: int = 0
    seconds: float = 0.0

    def in_words(self) -> str:
        told = f"round {self.seed}: {len(self.strikes)} kills, {self.num_runs} runs, {self.num_retried} failed attempts"
        return "\n".join([f"{told}, {self.seconds:.0f} s", *(f"  FLAW {flaw}" for flaw in self.flaws)])


class Round:
    """One study in a folder of its own, struck until it is complete; let alone from ``deadline`` on."""

    def __init__(self, folder: Path, seed: int, *, deadline: float) -> None:
        self.folder, self.run_dir, self._deadline = folder, folder / "runs" / "struck", deadline
        self.account = Account(seed=seed)
        self._random = random.Random(seed)  # noqa: S311
        (folder / "tmp").mkdir(parents=True)
        self.command = CommandLine(folder)
        self.command.environment |= {"TMPDIR": str(folder / "tmp"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
        self.study = folder / "struck.toml"
        self.study.write_text(STUDY)
        self._untouched = Untouched(self.run_dir)
        self._detached = False
        self._is_complete = False

    def strike_until_complete(self, reference: Results) -> Account:
        """Kill and run again until the study is complete; then compare."""
        began = time.monotonic()
        try:
            while not self._is_complete and not self.account.flaws:
                self._run()
            if self._is_complete:
                self._compare(reference)
        finally:
            self.end()
        self.account.seconds = time.monotonic() - began
        return self.account

    def undisturbed(self) -> Results:
        """The results of a run that nobody disturbs."""
        done = self.command("run", self.study, "--no-check", deadline_s=LONGEST_RUN_S)
        assert done.returncode == 0, done.stderr
        return results_of(self.run_dir, self.command)

    def end(self) -> None:
        """Leave no process."""
        wait_until_gone(str(self.folder), deadline_s=0.0)

    def _run(self) -> None:
        """Run the command once, strike, and see what is left of it."""
        self.account.num_runs += 1
        quiet = self._is_enough
        self._detached = not quiet and self._random.random() < 0.2
        options = ["--detach"] if self._detached else []
        with self._started("run", self.study, "--no-check", *options) as process:
            if self._detached:
                self._expect(process, {0})
                goes_on = self._strike_often(lambda: not processes_naming(str(self.folder)))
                if goes_on:
                    self._take_up()
                self._expect_gone()
            else:
                if not quiet:
                    self._strike_often(lambda: process.poll() is not None)
                code = self._expect(process, {0, 1, 130, -signal.SIGKILL, -signal.SIGTERM})
                self._expect_gone()
                self._is_complete = code == 0 and self._all_completed()
        self.account.flaws += self._untouched.look()

    @property
    def _is_enough(self) -> bool:
        return len(self.account.strikes) >= MOST_STRIKES or time.monotonic() > self._deadline

    def _strike_often(self, over: Callable[[], bool]) -> bool:
        """Strike until more than ranks were hit, or often enough; whether a detached run is left without control."""
        for _ in range(self._random.randint(1, MOST_STRIKES_A_RUN)):
            moment = self._moment(over)
            if moment is None or self._is_enough:
                return False
            parts = self._strike(*moment)
            if self._detached and parts and parts <= {"controller"}:
                return True
            if parts - {"rank"}:
                return False
        return False

    def _moment(self, over: Callable[[], bool]) -> tuple[list[Victim], Phase] | None:
        """Wait for a random moment of a random kind: who lives then, and what the run is at; None if it is over."""
        aim, later, before = self._random.choices(AIMS, CHANCES)[0], self._random.random(), num_over(self.run_dir)
        if aim == "report" and before < NUM_TRIALS - 2:  # else many a round would be over with its first run
            aim = "any moment"
        if aim == "checkpoint":
            return self._instant("checkpoint", lambda: writes_checkpoint(self.run_dir), over)
        if aim == "between trials":
            return self._instant("between trials", lambda: before < num_over(self.run_dir) < NUM_TRIALS, over)
        awaited: Phase | None = "training" if aim == "training" else "report" if aim == "report" else None
        deadline = time.monotonic() + LONGEST_WAIT_S
        while awaited is not None and self._phase(victims(self.folder)) != awaited and time.monotonic() < deadline:
            if over():
                return None
            time.sleep(LOOK_S)
        time.sleep(DELAYS_S[aim] * later)
        alive = victims(self.folder)
        return None if over() else (alive, self._phase(alive))

    def _instant(
        self, at: Phase, happens: Callable[[], bool], over: Callable[[], bool]
    ) -> tuple[list[Victim], Phase] | None:
        """Wait for a moment that is over in a millisecond; so it is known before who lives."""
        alive, due, deadline = victims(self.folder), 0.0, time.monotonic() + LONGEST_WAIT_S
        while not happens():
            now = time.monotonic()
            if now > due:
                alive, due = victims(self.folder), now + LOOK_S
                if over():
                    return None
            if now > deadline:
                return alive, self._phase(alive)
            time.sleep(POLL_S)
        return alive, at

    def _phase(self, alive: list[Victim]) -> Phase:
        return phase(self.run_dir, alive, num_trials=NUM_TRIALS)

    def _strike(self, alive: list[Victim], at: Phase) -> set[str]:
        """Kill one process of the run, now and then two; returns their parts."""
        parts = [part for part in PARTS if any(victim.part == part for victim in alive)]
        if not parts:
            return set()
        part = self._random.choice(parts)
        chosen = [self._random.choice([victim for victim in alive if victim.part == part])]
        if self._random.random() < 0.1:
            chosen = self._random.sample(alive, min(2, len(alive)))
        number = signal.SIGTERM if self._random.random() < 0.15 else signal.SIGKILL
        hit = [victim for victim in chosen if victim.strike(number)]
        self.account.strikes += [
            Strike(victim=victim, number=number, phase=at, detached=self._detached) for victim in hit
        ]
        return {victim.part for victim in hit}

    def _take_up(self) -> None:
        """A detached run whose controlling process was killed goes on: somebody follows it, runs it, or stops it."""
        if self.account.strikes[-1].number == signal.SIGKILL and not self._goes_on():
            self.account.flaws.append("a detached run ended with its controlling process")
        how = self._random.choice(["attach", "run", "stop"])
        words: dict[str, list[str | Path]] = {
            "attach": ["attach", self.run_dir],
            "run": ["run", self.study, "--no-check"],
            "stop": ["stop", self.run_dir],
        }
        with self._started(*words[how]) as process:
            self._expect(process, {0, 1, 130} if how == "attach" else {0, 1})

    def _goes_on(self) -> bool:
        """Whether the ranks of a detached run live on, or came to their end, or nothing had been started yet."""
        deadline = time.monotonic() + GONE_WITHIN_S
        while time.monotonic() < deadline:  # an agent is not one from its first moment on
            alive = {victim.part for victim in victims(self.folder)}
            if alive & {"agent", "rank"} or self._is_over_by_itself():
                return True
            time.sleep(LOOK_S)
        return not alive and not self._had_started()

    def _had_started(self) -> bool:
        """Whether the job at hand has had an agent: between writing down a job and starting it, there is none."""
        state = self.run_dir / "control" / "agent" / "state.json"
        return state.exists() and Job.read(self.run_dir / "job.json").id in state.read_text()

    def _is_over_by_itself(self) -> bool:
        return num_over(self.run_dir) == NUM_TRIALS or not (self.run_dir / "job.json").exists()

    @contextlib.contextmanager
    def _started(self, *words: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        """The command under way; its output goes to files, which what outlives it does not hold."""
        said = self.folder / f"said-{self.account.num_runs}.txt"
        with said.open("ab") as out:
            process = subprocess.Popen(
                [PACELINE, *map(str, words)],
                cwd=self.folder,
                env=self.command.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
            self._said = said
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def _expect(self, process: subprocess.Popen[bytes], codes: set[int]) -> int | None:
        """Wait for the end of the command, and judge its exit code and what it said."""
        words = " ".join(process.args[1:2])  # type: ignore[index]
        try:
            code = process.wait(LONGEST_RUN_S)
        except subprocess.TimeoutExpired:
            self.account.flaws.append(f"{words} does not end; see {self._said}")
            return None
        said = self._said.read_text(errors="replace")
        struck = {strike.victim.identity["pid"] for strike in self.account.strikes}
        if code not in codes and process.pid not in struck:
            self.account.flaws.append(f"{words} ended with {code}:\n{said[-1500:]}")
        if code == 1 and not WHY_1.search(said):
            self.account.flaws.append(f"{words} ended with 1 and no reason:\n{said[-1500:]}")
        if code < 0 and process.pid not in struck:
            self.account.flaws.append(f"{words} was ended by a signal that nobody sent")
        if "Traceback" in said.partition("and said last:")[0]:
            self.account.flaws.append(f"{words} shows a traceback:\n{said[-1500:]}")
        return code

    def _expect_gone(self) -> None:
        if left := wait_until_gone(str(self.folder), deadline_s=LONGEST_RUN_S if self._detached else GONE_WITHIN_S):
            self.account.flaws.append(f"{len(left)} processes were left")

    def _all_completed(self) -> bool:
        exits = [exit_of(folder) for folder in trial_dirs(self.run_dir)]
        completed = len(exits) == NUM_TRIALS and all(how and how.status == "completed" for how in exits)
        if not completed:
            self.account.flaws.append(
                f"the command ended with 0, and trials with {[how and how.status for how in exits]}"
            )
        return completed

    def _compare(self, reference: Results) -> None:
        self.account.flaws += reference.differences(results_of(self.run_dir, self.command))
        self.account.flaws += stray_files(self.run_dir)
        self.account.flaws += [f"{path.name} was left in TMPDIR" for path in (self.folder / "tmp").iterdir()]
        ranks = [(s.victim.number, int(s.number)) for s in self.account.strikes if s.victim.part == "rank"]
        self.account.flaws += untrue_causes(self.run_dir, ranks)
        self.account.num_retried = sum(len(failures_of(folder)) for folder in trial_dirs(self.run_dir))
        if self.account.num_retried > len(ranks):
            self.account.flaws.append(
                f"{self.account.num_retried} attempts were counted, and {len(ranks)} ranks killed"
            )


class Campaign:
    """Rounds side by side until the time is up."""

    def __init__(self, folder: Path, *, seed: int, minutes: float, lanes: int = 2) -> None:
        self._folder, self._seed, self._lanes = folder, seed, lanes
        self._deadline = time.monotonic() + 60 * minutes
        self.accounts: list[Account] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Strike; what is said goes to standard output, a line a round."""
        reference = self._round("reference", 0).undisturbed()
        threads = [
            threading.Thread(target=self._lane, args=(lane, reference), daemon=True) for lane in range(self._lanes)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            wait_until_gone(str(self._folder), deadline_s=0.0)
        if self.failure is not None:
            raise self.failure

    def once(self, seed: int) -> None:
        """One round again, by its seed."""
        reference = self._round("reference", 0).undisturbed()
        self._tell(self._round(_name(seed), seed).strike_until_complete(reference))

    @property
    def flaws(self) -> list[str]:
        """All that was found."""
        return [f"round {account.seed}: {flaw}" for account in self.accounts for flaw in account.flaws]

    @property
    def num_kills(self) -> int:
        """Over all rounds."""
        return sum(len(account.strikes) for account in self.accounts)

    def table(self) -> str:
        """Kills by victim and phase, a row a victim."""
        strikes = [strike for account in self.accounts for strike in account.strikes]
        counts = Counter((strike.victim.part, strike.phase) for strike in strikes)
        rows = [["", *PHASES, "all"]]
        rows += [[part, *(str(counts[part, at]) for at in PHASES), str(sum(counts[part, at] for at in PHASES))]
                 for part in PARTS]  # fmt: skip
        rows.append(["all", *(str(sum(counts[part, at] for part in PARTS)) for at in PHASES), str(len(strikes))])
        lines = ["".join(f"{word:>16}" for word in row) for row in rows]
        asked = sum(strike.number == signal.SIGTERM for strike in strikes)
        apart = sum(strike.detached for strike in strikes)
        runs, retried = sum(a.num_runs for a in self.accounts), sum(a.num_retried for a in self.accounts)
        told = (
            f"{len(self.accounts)} rounds (seed {self._seed}), {runs} runs, {retried} attempts failed and were retried"
        )
        return "\n".join([*lines, f"{told}; {asked} of the kills by SIGTERM, {apart} of detached runs"])

    def _lane(self, lane: int, reference: Results) -> None:
        seeds = random.Random(f"{self._seed}/{lane}")  # noqa: S311
        try:
            while time.monotonic() < self._deadline and self.failure is None:
                seed = seeds.randrange(2**31)
                self._tell(self._round(_name(seed), seed).strike_until_complete(reference))
        except BaseException as error:
            self.failure = error

    def _tell(self, account: Account) -> None:
        self.accounts.append(account)
        print(account.in_words(), flush=True)  # noqa: T201
        if not account.flaws:
            shutil.rmtree(self._folder / _name(account.seed))

    def _round(self, name: str, seed: int) -> Round:
        return Round(self._folder / name, seed, deadline=self._deadline)


def _name(seed: int) -> str:
    return f"round-{seed:010d}"  # none is a part of another: processes are known by it


def main() -> int:
    """Do what the command line says; returns 1 if a flaw was found."""
    parser = argparse.ArgumentParser(prog="python -m faults.campaign", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--minutes", type=float, default=2.5)
    parser.add_argument("--lanes", type=int, default=2, help="studies side by side")
    parser.add_argument("--round", type=int, help="repeat the round of this seed only")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="campaign-"))
    campaign = Campaign(folder, seed=asked.seed, minutes=asked.minutes, lanes=asked.lanes)
    print(f"seed {asked.seed}, in {folder}", flush=True)  # noqa: T201
    if asked.round is None:
        campaign.run()
    else:
        campaign.once(asked.round)
    print(campaign.table())  # noqa: T201
    if not campaign.flaws:
        shutil.rmtree(folder)
    return 1 if campaign.flaws else 0


if __name__ == "__main__":
    sys.exit(main())
