"""The page opens offline in a real browser, draws every figure, fits a phone, and runs no script but its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from analysis.synthetic import make_run, make_study
from analysis.test_groups import change_size, two_groups
from paceline.analysis.compare import compare
from paceline.analysis.load import load
from paceline.records import read_json, write_json
from paceline.report.render import inert_json, write
from report.test_figures import TWO, make_tuned

CHROMIUM = Path("/usr/bin/chromium")
DRAWN = "[...document.querySelectorAll('.drawing')].every((place) => place.dataset.drawn === 'yes')"


@pytest.fixture(scope="module")
def browser():
    if not CHROMIUM.exists():
        pytest.skip(f"no browser: {CHROMIUM} is missing")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two baselines, a failed trial, an optimizer of which two seeds diverge, and one core for two ranks."""

    def outcome(trial):
        if trial.label == "lbfgs" and trial.seed != 1:
            return "diverged"
        return "failed" if (trial.label, trial.seed, trial.num_ranks) == ("adam", 1, 2) else "completed"

    study = make_study(strategies=["single", "ddp"])
    return make_run(tmp_path_factory.mktemp("runs"), study, outcome=outcome, num_cores=1)


def write_report(folder):
    run = load(folder)
    return write(run, compare(run), folder / "report.html")


@pytest.fixture(scope="module")
def report(folder):
    return write_report(folder)


def shown(report):
    """The page's text, every gap one space."""
    return " ".join(report.read_text().split())


def opened(browser, path, **context):
    """The page, what it complained of, and what it asked the network for."""
    page = browser.new_context(offline=True, **context).new_page()
    troubles = []
    page.on("console", lambda message: troubles.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or troubles.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(DRAWN, timeout=30_000)
    return page, troubles


def test_the_page_opens_offline_and_draws_every_figure(browser, report):
    page, troubles = opened(browser, report, color_scheme="light")
    assert troubles == []
    assert page.locator(".drawing").count() == page.locator(".drawing svg").count() == 9
    assert page.locator("table.cells tbody tr").count() == 9
    assert report.stat().st_size < 5_000_000
    hollow = page.locator("#figure-0-time-to-target path[fill='transparent'][aria-label*='not reached']")
    assert hollow.count() == 7, "each seed that missed is a hollow dot"
    assert page.locator("#figure-0-time-to-target text", has_text="not reached").count() == 1
    page.context.close()


@pytest.mark.parametrize(("scheme", "ground"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 24, 29)")])
def test_the_page_follows_the_readers_colours_and_fits_a_phone(browser, report, scheme, ground):
    page, troubles = opened(browser, report, color_scheme=scheme, viewport={"width": 400, "height": 800})
    assert troubles == []
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == ground
    label = page.locator(".drawing svg .mark-text.role-axis-label text").first
    assert label.evaluate("(text) => getComputedStyle(text).fill") == page.evaluate(
        "getComputedStyle(document.body).color"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    widths = page.evaluate("[...document.querySelectorAll('.drawing svg')].map((svg) => svg.clientWidth)")
    assert all(200 < width <= 400 for width in widths)
    page.context.close()


def test_the_page_says_what_it_must(report):
    page = shown(report)
    assert "Does a second rank pay on this machine?" in page
    assert "No claim:</strong> 8 declared comparisons need 9 finished seeds" in page
    assert "Ranks shared cores: 2 ranks of 1 thread each ran on 1 core of node-a" in page
    assert "rank 1 on node-b: exit 137 (killed)" in page
    assert "loss is nan at update 170" in page
    assert "not reached" in page
    assert "sha256:" + "ab12" * 16 in page
    assert "2.13.0+cpu" in page
    assert "global_batch_size = 64" in page


ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}"


def test_names_from_a_run_are_never_more_than_text(browser, tmp_path):
    """Label, host, processor, cause, question and environment of a hostile run are shown, and nothing runs."""
    study = make_study(seeds=[0], optimizers={"sgd": {}}, question=ATTACK)
    folder = make_run(
        tmp_path, study, outcome=lambda trial: "failed", cause=ATTACK, host=ATTACK, start={"processor": ATTACK}
    )
    for path in folder.glob("*/trial.json"):
        write_json(
            path, read_json(path) | {"label": ATTACK, "strategy": ATTACK, "target_metric": ATTACK, "dataset": ATTACK}
        )
    write_json(folder / "environment.json", {ATTACK: ATTACK})
    page, troubles = opened(browser, write_report(folder))
    assert troubles == []
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    assert page.locator("h1").inner_text() == ATTACK
    assert page.locator("td.cause").first.inner_text() == ATTACK
    for table in ("arrivals", "speedups"):
        assert page.locator(f"table.{table} td.first").first.inner_text().startswith(ATTACK)
    assert ATTACK in page.locator("ul.key").first.inner_text()
    page.context.close()


def test_a_script_that_slipped_in_would_not_run(browser, report, tmp_path):
    """The page's own policy: the second fence behind escaping."""
    text = report.read_text().replace("</main>", "<script>window.owned = 1</script></main>")
    path = tmp_path / "tampered.html"
    path.write_text(text)
    page, troubles = opened(browser, path)
    assert page.evaluate("window.owned") is None
    assert any("Content Security Policy" in trouble for trouble in troubles)
    page.context.close()


def test_json_in_a_script_cannot_end_it():
    text = inert_json({"a": "</script><!--&"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--&"}


def test_a_run_that_has_only_begun_has_a_page(browser, tmp_path):
    folder = make_run(tmp_path, make_study(seeds=[0]), outcome=lambda trial: "waiting")
    page, troubles = opened(browser, write_report(folder))
    assert troubles == []
    assert "0\u00a0seeds finished in every cell" in page.locator(".headline").inner_text()
    assert "no cell reached" in page.locator(".distributing").first.inner_text()
    page.context.close()


def test_metrics_to_be_minimized_and_values_at_zero_are_drawn(browser, tmp_path):
    """Losses at and below zero stand off a logarithmic axis instead of breaking it."""
    study = make_study(
        seeds=[0, 1], workloads={"text": {"name": "lenet5-mnist", "target": 1.06}, "b": {"name": "lenet5-mnist"}}
    )
    folder = make_run(tmp_path, study, metric="perplexity", mode="min")
    for path in folder.glob("*_adam_*/rank-0000.jsonl"):
        path.write_text(re.sub(r'"train":\{"loss":[0-9.e-]+', '"train":{"loss":0.0', path.read_text()))
    page, troubles = opened(browser, write_report(folder))
    assert troubles == []
    assert page.locator(".drawing svg").count() == 9 + 8 + 1, "where nobody arrives there is no speed-up"
    page.context.close()


SPARSE = {
    "one seed": {"seeds": [0]},
    "one cell": {"seeds": [0], "scales": [1], "optimizers": {"sgd": {}}},
    "three scales and both baselines": {"scales": [1, 2, 4], "strategies": ["single", "ddp"]},
    "an A/A pair": {"seeds": list(range(6)), "aa_pair": True},
}


@pytest.mark.parametrize("case", SPARSE)
@pytest.mark.parametrize("outcome", ["completed", "diverged", "running"])
def test_sparse_and_rich_runs_draw_all_that_they_have(browser, tmp_path, case, outcome):
    path = write_report(make_run(tmp_path, make_study(**SPARSE[case]), outcome=lambda trial: outcome))
    page, troubles = opened(browser, path)
    assert troubles == []
    assert page.locator(".drawing").count() == page.locator(".drawing svg").count()
    assert (page.locator("#figure-0-intervals").count() == 0) == (case == "one cell" or outcome == "running")
    assert page.locator("#figure-0-scaling").count() == (case.startswith("three") and outcome == "completed")
    page.context.close()


def test_several_workloads_have_a_profile_and_tuning_has_a_part_of_its_own(browser, tmp_path):
    page, troubles = opened(browser, write_report(make_tuned(tmp_path, workloads=TWO)))
    assert troubles == []
    assert page.locator("#figure-all-profile svg").count() == 1
    assert page.locator("#figure-1-tuning-score-against-budget svg").count() == 1
    assert page.locator("table.tuning tbody tr").count() == 2 * 6
    page.context.close()


def test_a_failed_check_stands_in_the_open_before_the_tables(browser, report):
    page, _ = opened(browser, report)
    failed = page.locator("table.audit-failed tr.failed")
    assert failed.first.is_visible()
    assert "✗ failed" in failed.first.inner_text()
    assert not page.locator("table.audit").is_visible()
    page.locator("details.audit summary").click()
    assert page.locator("table.audit").is_visible()
    above = "document.querySelector('#audit').getBoundingClientRect().top < "
    assert page.evaluate(above + "document.querySelector('h2').getBoundingClientRect().top")
    page.context.close()


def test_groups_of_hosts_have_a_table_and_a_degraded_trial_is_named(browser, tmp_path):
    folder = two_groups(tmp_path)
    change_size(folder, "*adam*_2x1_seed3_*")
    page, troubles = opened(browser, write_report(folder))
    assert troubles == []
    assert page.locator("table.groups tbody tr").count() == 2
    assert page.locator("table.groups td.first").first.inner_text() == "node1"
    assert "it ran on 2, then on 1" in page.locator("td.cause").inner_text()
    assert page.locator("td", has_text="degraded").count() == 2, "among all trials, and among those not completed"
    page.context.close()


def test_every_table_and_figure_says_how_to_read_it(browser, report):
    page, _ = opened(browser, report)
    for caption in page.locator("figcaption").all():
        assert len(caption.inner_text()) > 60
    for name in ("audit-failed", "comparisons", "arrivals", "speedups"):
        reading = page.locator(f".scroll:has(> table.{name})").locator("xpath=preceding-sibling::p[1]")
        assert reading.inner_text().endswith("."), name
    page.context.close()


def test_the_same_records_give_the_same_page_byte_for_byte(folder, tmp_path):
    """In two processes whose sets have different orders."""
    write = (
        "import sys; from pathlib import Path; from paceline.analysis.compare import compare; "
        "from paceline.analysis.load import load; from paceline.report.render import write; "
        "run = load(Path(sys.argv[1])); write(run, compare(run), Path(sys.argv[2]))"
    )
    pages = [tmp_path / f"{seed}.html" for seed in (1, 2)]
    for seed, path in enumerate(pages, start=1):
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        subprocess.run([sys.executable, "-c", write, folder, path], env=environment, check=True, timeout=60)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_a_thousand_trials_make_a_page_that_stays_small_and_says_what_it_left_out(browser, tmp_path):
    study = make_study(
        seeds=list(range(100)),
        scales=[1],
        max_epochs=10,
        optimizers={f"sgd-{i}": {"name": "sgd", "lr": 0.01 + i / 100} for i in range(10)},
    )
    folder = make_run(tmp_path, study)
    path = write_report(folder)
    assert path.stat().st_size < 5_000_000
    page, troubles = opened(browser, path)
    assert troubles == []
    assert "thin lines show the first 12 seeds" in shown(path)
    assert "800 more trials are left out here" in shown(path)
    page.context.close()
