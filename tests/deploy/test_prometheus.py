from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from real_prometheus import DEPLOY, PROMETHEUS, needs_prometheus, use_here

RULES = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"][0]["rules"]


def promtool(*arguments: str | Path, folder: Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_the_configuration_is_valid(tmp_path):
    config = use_here(tmp_path, tmp_path, "0123456789abcdef", every="1s")
    assert "SUCCESS" in promtool("check", "config", config, folder=tmp_path)


@needs_prometheus
def test_every_alert_fires_where_it_must_and_is_silent_elsewhere(tmp_path):
    cases = Path(__file__).with_name("alerts.test.yml")
    for file in (PROMETHEUS / "rules.yml", PROMETHEUS / "alerts.yml", cases):
        shutil.copy(file, tmp_path)
    assert "SUCCESS" in promtool("test", "rules", cases.name, folder=tmp_path)
    tested = yaml.safe_load(cases.read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tested
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in RULES}


@needs_prometheus
def test_the_cases_can_fail(tmp_path):
    cases = Path(__file__).with_name("alerts.test.yml")
    shutil.copy(PROMETHEUS / "rules.yml", tmp_path)
    shutil.copy(cases, tmp_path)
    alerts = (PROMETHEUS / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(alerts.replace("> 900", "> 9000"))
    with pytest.raises(AssertionError, match="SparsingRunStalled"):
        promtool("test", "rules", cases.name, folder=tmp_path)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_a_runbook_and_says_how_urgent_it_is(rule):
    headings = re.findall(r"^## (\w+)$", (DEPLOY / "runbooks.md").read_text(), re.MULTILINE)
    assert rule["alert"] in headings
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert (DEPLOY.parent / file).is_file()
    assert anchor == rule["alert"].lower()
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"]["summary"]
