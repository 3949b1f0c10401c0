"""What docs/history.md points to is there."""

import re
from pathlib import Path

from stream.desk import KINDS
from stream.metrics import METRICS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "history.md").read_text()


def test_every_test_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.MULTILINE)
    }

    assert len(named) > 15
    assert named <= there


def test_every_metric_it_names_exists() -> None:
    named = {f"fraudstream_{name}_total" for name in re.findall(r"`(orders_\w+|decisions_\w+)[`{]", PAGE)}

    assert named
    assert named <= {metric.name for metric in METRICS}


def test_every_kind_that_is_counted_is_explained() -> None:
    assert set(re.findall(r'kind="(\w+)"', PAGE)) == set(KINDS)
