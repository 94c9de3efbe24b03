"""A run that can be shown to anybody: nobody's name, home, host or address is in it.

What was loaded is made anonymous once, before anything is computed, told, drawn or exported. Hosts become ``host-1``,
``host-2`` in the order of trials and ranks; a path is cut to what lies in the run folder, or to its last name; users,
addresses and process ids go, also from the free text of causes and of what ranks said last. What was measured stays,
and on what: processors, versions, numbers of cores. So do the words that the study's author chose, for they are its
subject: its name and question, labels, and the names of contestants.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from paceline.analysis.load import RankRecords, Run, TrialResult
from paceline.cluster import read_cluster
from paceline.records import Start
from paceline.study import Study
from paceline.trial import Trial

ADDRESS, HOME, USER, NUMBER = "[address]", "[home]", "[user]", "[number]"

_AS_A_WORD = r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])"
_URL = r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+"
_LOGIN = r"(?<![\w.+-])[\w.+-]+@(?!\d+(?:x\d+)?(?!\w|\.\d))[\w.-]*\w(?::[^\s'\"<>()]+)?"  # but for a cell: adam@1x2
_NAME = r"[^\s:;,'\"<>|()\[\]{}]"  # a character of a path, for all that can be told from a text
_PATH = rf"(?<![\w.~/-])(?:~(?=[/A-Za-z])[\w.-]*|/(?=[^\s/])){_NAME}*"
_IPV4 = r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
_IPV6 = r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:[0-9A-Fa-f]{1,4}|\d{1,3}(?:\.\d{1,3}){3})?(?:%\w+)?(?![\w:])"
_PID = r"(?<=\bpid[ =:])\s*\d+\b|(?<=\bprocess )\d+\b"
_HOMES = re.compile(r"/(?:home|Users)/([^\s/:;,'\"<>|()\[\]{}]+)")
_HOME = re.compile(r"(?:/(?:home|Users)/[^/]+|/root|~[^/]*)/?")
_NOBODY = {"root", "localhost"}  # words that name no person and no machine


def anonymous(run: Run) -> Run:
    """The same run without names.

    Raises: DataError if the run's ``cluster.json`` is damaged, for then nobody knows what to hide.
    """
    return _of_run(run, Names(run))


class Names:
    """What names somebody or something in a run, and what stands for it."""

    def __init__(self, run: Run) -> None:
        of_cluster = list(_cluster_words(run))
        seen = (start.host for result in _all_results(run) for rank in result.ranks for start in rank.starts)
        told = [word.rpartition("@")[2] for word in of_cluster if word != "auto"]
        self._hosts = _numbered(seen, [*told, *_strings(run.environment.get("host"))])
        users = {word.partition("@")[0] for word in of_cluster if "@" in word} | {psutil.Process().username()}
        users |= {name for text in (*_texts(run), *_strings(run.environment)) for name in _HOMES.findall(text)}
        users = {name.lower() for name in users if not name.isdigit()} - _NOBODY - _public(run)
        self._pattern = _of_all(run.folder, sorted(self._hosts, key=len), sorted(users, key=len))

    def host(self, name: str) -> str:
        """The number of a host that ranks ran on."""
        return self._hosts[name.lower()]

    def text(self, text: str) -> str:
        """A text without names."""
        return self._pattern.sub(self._replaced, text)

    def inside(self, value: Any) -> Any:  # noqa: ANN401
        """The same for all texts in lists and tables, their keys too."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {self.inside(key): self.inside(item) for key, item in value.items()}
            case list() | tuple():
                return type(value)(self.inside(item) for item in value)
        return value

    def _replaced(self, match: re.Match[str]) -> str:
        found = match[0]
        match match.lastgroup:
            case "run":
                return self.text(match["inside"] or ".")
            case "home" | "path":
                is_home = match.groupdict().get("below") == "" or _HOME.fullmatch(found)
                return HOME if is_home else self.text(found.rstrip("/").rpartition("/")[2])
            case "ipv4" | "ipv6" if not _is_address(found):
                return found
            case "host":
                return self._hosts[match["name"].lower()]
        return {"user": USER, "pid": NUMBER}.get(match.lastgroup or "", ADDRESS)


def _of_all(folder: Path, hosts: Sequence[str], users: Sequence[str]) -> re.Pattern[str]:
    """Everything that is replaced: what comes first is taken first, and nothing is replaced twice.

    Args:
        folder: the run's.
        hosts: in small letters; of two of which one begins as the other, the longer one comes last.
        users: likewise.
    """
    run = "|".join(re.escape(str(path)) for path in (folder.resolve(), folder.absolute()))
    home = re.escape(str(Path.home()).rstrip("/"))
    host_names = "|".join(re.escape(name) for name in reversed(hosts) if name not in _NOBODY)
    user_names = "|".join(re.escape(name) for name in reversed(users))
    forms = {
        "url": _URL,
        "login": _LOGIN,
        "run": rf"(?:{run})(?:/(?P<inside>{_NAME}*)|(?![\w-]))",
        "home": rf"(?<![\w.~-]){home}(?P<below>(?:/{_NAME}+)?)(?![\w.-])" if home else "",
        "path": _PATH,
        "ipv4": _IPV4,
        "ipv6": _IPV6,
        "host": _AS_A_WORD.format(rf"(?P<name>{host_names})(?:\.[A-Za-z0-9-]+)*") if host_names else "",
        "user": _AS_A_WORD.format(rf"(?:{user_names})") if users else "",
        "pid": _PID,
    }
    return re.compile("|".join(f"(?P<{name}>{form})" for name, form in forms.items() if form), re.IGNORECASE)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def _numbered(seen: Iterable[str], told: Iterable[str]) -> dict[str, str]:
    """By name in small letters: those that ranks gave themselves, then those by which they were asked for.

    ``node-a.lan`` is taken for ``node-a`` where there is one.
    """
    numbers: dict[str, str] = {}
    for name in seen:
        numbers.setdefault(name.lower(), f"host-{len(numbers) + 1}")
    by_first_label = {
        name.partition(".")[0]: number for name, number in reversed(numbers.items()) if not _is_address(name)
    }
    for name in filter(None, told):
        low = name.lower()
        if not _is_address(low) and low not in numbers:
            number = by_first_label.setdefault(low.partition(".")[0], f"host-{len(set(numbers.values())) + 1}")
            numbers[low] = number
    return by_first_label | numbers


def _cluster_words(run: Run) -> Iterator[str]:
    """What the clusters of a run and of its tuning call their hosts, logins included."""
    for one in (run, run.tuning):
        for host in read_cluster(one.folder).hosts if one else ():
            yield from (host.name, host.address)


def _all_results(run: Run) -> list[TrialResult]:
    return [*run.results, *(run.tuning.results if run.tuning else ())]


def _texts(run: Run) -> Iterator[str]:
    """The free text of a run."""
    for result in _all_results(run):
        yield result.cause
        yield from (rank.end.reason for rank in result.ranks if rank.end)
        yield from _strings(result.trial.hyperparameters)
    if run.study:
        for entry in run.study.workloads.values():
            yield from _strings(entry.options)
    for one in (run, run.tuning):
        yield from (finding.evidence for finding in (one.checks.findings if one and one.checks else ()))


def _strings(value: Any) -> Iterator[str]:  # noqa: ANN401
    match value:
        case str():
            yield value
        case Mapping():
            for key, item in value.items():
                yield from (*_strings(key), *_strings(item))
        case list() | tuple():
            for item in value:
                yield from _strings(item)


def _public(run: Run) -> set[str]:
    """Words that a study is about: a user may be called as an optimizer is."""
    return {
        word.lower()
        for result in run.results
        for word in (result.trial.label, result.trial.optimizer, result.trial.workload, result.trial.strategy)
    }


def _of_run(run: Run, names: Names) -> Run:
    return replace(
        run,
        folder=Path(names.text(run.name)),
        is_anonymous=True,
        study=_of_study(run.study, names) if run.study else None,
        environment=names.inside(run.environment),
        results=tuple(_of_result(result, names) for result in run.results),
        checks=run.checks and run.checks.model_copy(update={"findings": tuple(
            one.model_copy(update={"evidence": names.text(one.evidence)}) for one in run.checks.findings
        )}),
        tuning=_of_run(run.tuning, names) if run.tuning else None,
    )  # fmt: skip


def _of_result(result: TrialResult, names: Names) -> TrialResult:
    return replace(
        result,
        trial=_of_trial(result.trial, names),
        folder=Path(result.folder.name),
        cause=names.text(result.cause),
        ranks=tuple(_of_rank(rank, names) for rank in result.ranks),
    )


def _of_rank(rank: RankRecords, names: Names) -> RankRecords:
    end = rank.end and rank.end.model_copy(update={"reason": names.text(rank.end.reason)})
    return replace(rank, starts=tuple(_of_start(start, names) for start in rank.starts), end=end)


def _of_start(start: Start, names: Names) -> Start:
    return start.model_copy(update={"host": names.host(start.host), "pid": 0})


def _of_trial(trial: Trial, names: Names) -> Trial:
    """Its tables of values; the options of its workload stay, for they are shown nowhere and its id is made of them."""
    tables = {key: _values(getattr(trial, key), names) for key in ("hyperparameters", "strategy_settings")}
    return trial.model_copy(update=tables)


def _of_study(study: Study, names: Names) -> Study:
    """Its tables of values."""
    tables = {"workloads": "options", "optimizers": "hyperparameters", "strategies": "settings"}
    changes: dict[str, Any] = {
        table: {
            label: entry.model_copy(update={field: _values(getattr(entry, field), names)})
            for label, entry in getattr(study, table).items()
        }
        for table, field in tables.items()
    }
    if study.tuning:
        spaces = {label: _values(space, names) for label, space in study.tuning.search.items()}
        changes["tuning"] = study.tuning.model_copy(update={"search": spaces})
    return study.model_copy(update=changes)


def _values(table: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """A table of a study: its keys are those of a contestant."""
    return {key: names.inside(value) for key, value in table.items()}
