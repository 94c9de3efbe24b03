"""What a hostile run says is shown as text: in the terminal, on the page in a browser, in tables and file names."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from analysis.synthetic import make_run, make_study
from fuzz.hostile import ESCAPES
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.cli import main
from paceline.cli.inert_console import MakesInert
from paceline.inert import inert, inert_cell
from paceline.records import read_json, trial_dirs, write_json
from paceline.report.contact_sheet import ClassSample, contact_sheet_svg
from paceline.report.export import export
from paceline.report.render import write
from report.test_render import browser, opened

__all__ = ["browser"]  # a fixture

ATTACK = "".join(ESCAPES)
POINT_AT_ALL = """
for (const shape of document.querySelectorAll(".drawing svg path"))
  for (const kind of ["pointerover", "mouseover", "pointermove", "mousemove"])
    shape.dispatchEvent(new PointerEvent(kind, {bubbles: true, clientX: 50, clientY: 50}));
"""
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    """Two workloads' worth of names, hosts, causes, scores and words that want to be more than text."""
    study = make_study(seeds=[0], optimizers={"sgd": {}, "adam": {}}, question=ATTACK)
    folder = make_run(
        tmp_path_factory.mktemp("runs"),
        study,
        outcome=lambda trial: "failed" if trial.label == "adam" else "completed",
        cause=f"=1+1{ATTACK}",
        host=ATTACK,
        start={"processor": ATTACK, "torch_version": ATTACK, "device": f"cpu{ATTACK}"},
        metric=f"=2{ATTACK}",
    )
    for number, path in enumerate(folder.glob("*/trial.json")):
        named = {"label": f"={number}{ATTACK}", "strategy": ATTACK, "dataset": ATTACK}
        write_json(path, read_json(path) | named)
    word = {"time": 1.0, "rank": 0, "host": ATTACK, "error": ATTACK, "traceback": ATTACK, "blames_a_peer": False}
    write_json(next(trial_dirs(folder)) / "error-rank-0000.json", word)
    write_json(folder / "environment.json", {ATTACK: ATTACK})
    (folder / "logs" / "rank.log").write_text(f"{ATTACK}\n")
    return folder


@pytest.mark.parametrize(
    "command", ["report --no-html", "status", "audit", "logs", "logs --trial", "export --to markdown"]
)
def test_no_command_passes_on_what_a_terminal_obeys(hostile_run, capsys, tmp_path, command):
    name, *options = command.split()
    options += [next(trial_dirs(hostile_run)).name] if options == ["--trial"] else []
    options += ["--out", str(tmp_path)] if name == "export" else []
    main([name, str(hostile_run), *options])
    said = capsys.readouterr()
    assert said.out
    assert HARMFUL.findall(said.out + said.err) == []
    if name != "export":
        assert "http://evil" in said.out, "it is shown all the same"
        assert "[red]x[/red]" in " ".join(said.out.split()) or name == "report"


def test_an_error_of_any_command_is_inert(capsys):
    assert main(["report", f"/nowhere/{ATTACK.replace(chr(0), '')}"]) == 2
    assert HARMFUL.findall(capsys.readouterr().err) == []


def test_styles_stay_and_what_is_shown_with_them_obeys_nobody():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", markup=False, width=200)
    console.push_render_hook(MakesInert())
    table = Table(title=ATTACK)
    table.add_column(ATTACK, style="bold")
    table.add_row(Text(ATTACK, style="red"))
    console.print(ATTACK)
    console.print(table)
    left = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())
    assert "\x1b[1" in file.getvalue()
    assert HARMFUL.findall(left) == []


def test_inert_text_has_nothing_harmful_and_its_length(survives):
    def check(text: str) -> None:
        made = inert(text)
        assert HARMFUL.findall(made) == []
        assert len(made) == len(text)
        assert inert(made) == made
        made.encode()
        assert not inert_cell(made).startswith(("=", "+", "-", "@"))

    hidden = st.characters(codec=None, categories=None)
    survives(check, st.text(hidden) | st.text(st.sampled_from("\x1b\r\x07\u202e\ud800=+-@a\n\t")), num_examples=150)


def test_the_page_runs_nothing_and_has_no_errors(hostile_run, browser, tmp_path):
    """In a browser, with every figure drawn and pointed at."""
    run = load(hostile_run)
    page, troubles = opened(browser, write(run, compare(run), tmp_path / "report.html"))
    assert page.evaluate("window.owned") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    assert page.locator("main a[href]").count() == 0
    page.evaluate(POINT_AT_ALL)
    assert "http://evil" in page.locator("#vg-tooltip-element").inner_text()
    assert page.locator("#vg-tooltip-element img").count() == 0
    assert HARMFUL.findall(page.evaluate("document.body.innerText")) == []
    assert page.evaluate("window.owned") is None
    assert troubles == []
    page.context.close()


def test_tables_have_no_formula_and_files_no_names_of_others(hostile_run, tmp_path):
    for format_ in ("csv", "svg", "markdown", "parquet"):
        for path in export(hostile_run, to=format_, out=tmp_path / format_):
            assert path.parent == tmp_path / format_
            assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}", path.name)
    for path in (tmp_path / "csv").iterdir():
        with path.open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert any(cell.startswith("'=") for cell in cells)
        assert [cell for cell in cells if cell[:1] in "=+@\t\r" and cell] == []
        assert HARMFUL.findall(path.read_text()) == []
    assert not list((tmp_path / "svg").glob("*.svg")) or all(
        "<script" not in path.read_text() and "<img" not in path.read_text() for path in (tmp_path / "svg").iterdir()
    )
    page = (tmp_path / "markdown" / "report.md").read_text()
    assert "<img" not in page
    assert "<script" not in page
    assert HARMFUL.findall(page) == []


def test_names_of_classes_are_text_on_a_contact_sheet(tmp_path):
    import numpy as np

    sample = ClassSample(name=ATTACK[:26], note=ATTACK, images=np.zeros((1, 3, 8, 8), np.uint8))
    svg = contact_sheet_svg(ATTACK, ATTACK, [sample])
    assert HARMFUL.findall(svg) == []
    assert "<img" not in svg
    assert "<script" not in svg


def test_json_of_a_command_needs_no_care(hostile_run, capsys):
    main(["status", str(hostile_run), "--json"])
    out = capsys.readouterr().out
    assert HARMFUL.findall(out) == []
    assert json.loads(out)["failures"]
    assert Path("owned").exists() is False
