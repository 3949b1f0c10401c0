"""docs/loop.md: its commands on a shop of its own are run as they are written, in that order."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from stream.guard import Gates, Guardrails
from stream.settings import describe_settings
from tests.docs.test_readme import shell

__all__ = ["shell"]

PAGE = (Path(__file__).parents[2] / "docs/loop.md").read_text()
SECTION = PAGE.split("## On a shop of its own")[1].split("\n## ")[0]
(JOB,) = re.findall(r"```python\n(.*?)```", SECTION, flags=re.DOTALL)
JOB_TOML, SHOP_TOML = re.findall(r"```toml\n(.*?)```", SECTION, flags=re.DOTALL)
COMMANDS = [
    line.removeprefix("$ ")
    for block in re.findall(r"```console\n(.*?)```", SECTION, flags=re.DOTALL)
    for line in block.splitlines()
]
CHARGEBACKS = """
import json
for line in open("past.jsonl"):
    order = json.loads(line)
    if order["is_fraud"]:
        at = order["placed_at"]
        told = {"order_id": order["order_id"], "customer_id": order.get("customer_id"), "is_fraud": True}
        known_at = at[:11] + "23:59:59Z"
        print(json.dumps(told | {"kind": "chargeback", "occurred_at": at, "known_at": known_at}))
"""


def test_every_gate_and_guardrail_is_on_the_page_with_its_default() -> None:
    for group, values in (("gates", Gates()), ("guardrails", Guardrails())):
        for name, value in values.model_dump().items():
            assert f"`{group}.{name}`" in PAGE
            told = re.search(rf"`{group}\.{name}` \(?([0-9.,]*[0-9])", PAGE)
            if told is not None:
                assert float(told[1].replace(",", "")) == value, name
    assert "gates.days" in {each.name for each in describe_settings()}


def test_the_pages_settings_are_settings() -> None:
    told = tomllib.loads(SHOP_TOML)

    assert Gates(**told["gates"]).orders == 100
    assert Guardrails(**told["guardrails"]).customers == 20


@pytest.mark.broker
@pytest.mark.slow
def test_a_model_is_learned_promoted_and_another_taken_back_unattended(
    shell: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "risk.py").write_text(JOB)
    (tmp_path / "risk.toml").write_text(JOB_TOML)
    (tmp_path / "shop.toml").write_text(SHOP_TOML)
    (tmp_path / "chargebacks.py").write_text(CHARGEBACKS)
    asked = []
    for line in COMMANDS:
        if line.startswith("fraudstream publish outcomes"):
            asked.append(f"{sys.executable} chargebacks.py > outcomes.jsonl")
        asked.append(line)
    asked += [
        "fraudstream models history --json > history.jsonl",
        "fraudstream models service --json > service.jsonl",
        "kill %1; wait %1; echo all of it was run",
    ]
    script = "\n".join(f"echo; echo '$' {line!r}\n{line}" for line in asked)

    said, _ = shell.communicate(script + "\n", timeout=600)

    assert shell.returncode == 0, said
    assert "all of it was run" in said, said
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [(each["kind"], each["who"]) for each in history if each["who"] in {"judge", "retrain"}] == [
        ("model_retrained", "retrain"), ("model_deployed", "retrain"),
        ("model_promoted", "judge"), ("model_retired", "judge"),
    ], said  # fmt: skip
    assert history[-1]["role"] == "canary"
    assert history[-1]["evidence"]["figures"]["24 hours"]["canary"]["declines"] == 1.0
    served = [json.loads(line) for line in (tmp_path / "service.jsonl").read_text().splitlines()][1:]
    assert [(each["model"].split("@")[0], each["role"]) for each in served] == [("risk", "champion")]
