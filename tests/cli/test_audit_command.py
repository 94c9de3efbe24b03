"""``paceline audit``: every check with its evidence, and an exit code that a script can trust."""

import json

from analysis.synthetic import make_run, make_study
from analysis.test_audit import clean_study, edit
from paceline.analysis.audit import CHECKS


def test_a_clean_run_passes(paceline):
    folder = make_run(paceline.folder, clean_study())
    done = paceline("audit", folder)
    assert done.returncode == 0, done.stdout
    assert [check.name in done.stdout for check in CHECKS] == [True] * len(CHECKS)
    assert done.stdout.endswith("nothing withholds the verdict\n")


def test_a_fault_fails_by_name_with_its_evidence(paceline):
    folder = make_run(paceline.folder, clean_study())
    edit(folder, "*1x2_seed1_*", rank=1, kind="epoch", parameters_digest="other")
    done = paceline("audit", folder, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["withholds_verdict"] == ["identical replicas"]
    (failed,) = (one for one in found["audit"] if one["status"] == "fail")
    assert (failed["check"], failed["scope"]) == ("identical replicas", "study")
    assert "rank 1 of" in failed["evidence"]


def test_a_run_on_unlike_machines_is_audited_though_no_report_is_made_of_it(paceline):
    folder = make_run(paceline.folder, clean_study())
    edit(folder, "*1x2*", rank=1, kind="start", processor="Another CPU")
    assert paceline("report", folder).returncode == 2
    done = paceline("audit", folder)
    assert done.returncode == 1
    assert "the verdict is withheld: same machine" in done.stdout


def test_report_json_has_verdict_and_audit(paceline):
    folder = make_run(paceline.folder, make_study(seeds=list(range(8)), aa_pair=True))
    found = json.loads(paceline("report", folder, "--json", "--no-html").stdout)
    (verdict,) = found["verdict"]
    assert verdict["fastest"] in {cell["name"] for cell in found["cells"]}
    assert {"check", "scope", "status", "evidence"} <= set(found["audit"][0])
    assert len(found["comparisons"]) == 5
    assert found["comparisons"][0]["adjusted_p_value"] <= 1
    assert {"time", "updates", "samples", "gradient_evaluations"} <= set(found["cells"][0]["arrivals"])


def test_no_such_run_is_a_usage_error(paceline):
    done = paceline("audit", "nowhere")
    assert done.returncode == 2
    assert "there is no folder nowhere" in done.stderr


PRIOR = """
name = "prior"
seeds = [42]
scales = [1, 2]
max_epochs = 1
threads_per_rank = 1
device = "cpu"
batch = { rule = "global", global_batch_size = 500 }
[workloads.digits]
name = "workloads.spoilt:build"
options = { fault = "labels dropped" }
[optimizers.sgd]
lr = 0.01
[optimizers.lbfgs]
name = "lbfgs-torch"
lr = 1e4
"""


def test_a_study_with_the_prior_studys_faults_is_run_and_not_believed(paceline):
    """Fault 1 (shifted labels), 4 (one seed, hand-picked settings) and 5 (L-BFGS that diverges): each by its name."""
    study = paceline.folder / "prior.toml"
    study.write_text(PRIOR)
    refused = paceline("run", study)
    assert refused.returncode == 1
    assert "shuffled-label probe: digits: " in refused.stderr
    done = paceline("run", study, "--no-check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Verdict withheld: the check “shuffled-label probe” failed (and 2 more checks)")
    audited = json.loads(paceline("audit", paceline.folder / "runs" / "prior", "--json").stdout)
    found = {one["check"]: one for one in audited["audit"]}
    failed = {name for name, one in found.items() if one["status"] == "fail"}
    assert failed == {"shuffled-label probe", "better than chance", "all values finite", "enough seeds"}
    assert "always guessing the commonest class" in found["better than chance"]["evidence"]
    assert "lbfgs" in found["all values finite"]["evidence"]
    assert found["equal tuning budgets"]["status"] == "not applicable"
    assert set(audited["withholds_verdict"]) == failed - {"all values finite"}
