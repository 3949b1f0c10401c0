"""Fetching Kafka, without a network: what is fetched and run for real is in tests/broker."""

import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from stream.broker import _classpath


def test_several_that_need_kafka_at_once_fetch_it_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    jar = tmp_path / "kafka.jar"
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("kafka", b"")
    fetching = threading.Lock()

    def build(*_: Any, **__: Any) -> Any:
        # as jgo's own assertion that nobody else has written the file meanwhile
        assert fetching.acquire(blocking=False), "two fetch at once"
        time.sleep(0.1)
        fetching.release()
        return SimpleNamespace(all_jars=[jar])

    jgo = ModuleType("jgo")
    jgo.build = build  # type: ignore[attr-defined]
    jgo.maven = SimpleNamespace(PythonResolver=lambda **_: None)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jgo", jgo)
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))

    with ThreadPoolExecutor(3) as three:
        found = list(three.map(lambda _: _classpath(), range(3)))

    assert found == [str(jar)] * 3
