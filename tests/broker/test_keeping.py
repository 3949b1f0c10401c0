"""What a worker forgets on a real broker is gone from its rows, the changelog and the next worker's rows."""

import json
import shutil
from pathlib import Path

import pytest

from stream import topics
from stream.desk import customer_key, order_key
from stream.ports import Refused
from stream.settings import Settings
from stream.store import RocksStore
from stream.worker import load_model
from stream.writer import POSITION_KEY, decode_position
from tests.running import Worker, decisions, read, send


def _orders(day: str, *numbers: int) -> list[tuple[bytes, bytes]]:
    made = []
    for number in numbers:
        order = {
            "order_id": f"o{number}",
            "customer_id": f"c{number}",
            "placed_at": f"{day}T12:{number // 60:02}:{number % 60:02}Z",
            "amount": 1000,
            "currency": "EUR",
        }
        made.append((f"c{number}".encode(), json.dumps(order).encode()))
    return made


def _keys(numbers: range) -> set[bytes]:
    return {key for n in numbers for key in (customer_key(f"c{n}"), order_key(f"o{n}"))}


def _kept(settings: Settings) -> set[bytes]:
    store = RocksStore(settings.home / "rows" / settings.worker)
    kept = {key for number in range(settings.partitions) for key, _ in store.rows(number)}
    store.close()
    return kept


def test_customers_and_orders_of_long_ago_are_forgotten_and_stay_so(
    settings: Settings, registry: Path, tmp_path: Path
) -> None:
    topics.create(settings)
    shutil.copytree(registry, settings.home / "models")
    shop = settings.model_copy(
        update={
            "forget_after_days": 100,
            "order_memory_days": 50,
            "session_s": 6.0,
            "transaction_s": 5.0,
            "patience_s": 5.0,
        }
    )
    with Worker(shop, tmp_path / "first") as worker:
        send(shop, _orders("2024-01-01", *range(20)))
        decisions(shop, 20)
        send(shop, _orders("2024-06-01", *range(20, 40)))
        decisions(shop, 40)
        # one resent after its memory is gone is decided anew; one that is remembered is not
        send(shop, [*_orders("2024-01-01", 0), *_orders("2024-06-01", 20)])
        decided = decisions(shop, 42)
        send(shop, _orders("2024-06-02", *range(40, 60)))
        decisions(shop, 62)
        assert worker.stop() == 0, worker.said()

    assert {d["order_id"] for d in decided if d["repeat_of"]} == {"o20"}
    assert _kept(shop) == _keys(range(20, 60))
    changelog = read(shop, shop.topics.changelog, 1)
    last = {(m.partition(), m.key()): m.value() for m in changelog}
    assert {key for (_, key), value in last.items() if value is None} == _keys(range(20))
    watermarks = [decode_position(v or b"").watermark for (_, key), v in last.items() if key == POSITION_KEY]
    assert len(watermarks) == shop.partitions
    assert None not in watermarks

    # a worker without rows of its own makes them from the changelog, and forgets nothing more nor less
    shutil.rmtree(shop.home / "rows")
    with Worker(shop, tmp_path / "second") as worker:
        send(shop, _orders("2024-06-02", *range(60, 64)))
        decisions(shop, 66)
        assert worker.stop() == 0, worker.said()
    assert _kept(shop) == _keys(range(20, 64))


def test_a_worker_refuses_to_forget_sooner_than_its_model_asks(settings: Settings, registry: Path) -> None:
    shutil.copytree(registry, settings.home / "models")

    load_model(settings.model_copy(update={"forget_after_days": 30}))
    with pytest.raises(
        Refused, match=r"asks for 30 days of a customer's past .* set FRAUDSTREAM_FORGET_AFTER_DAYS"
    ):
        load_model(settings.model_copy(update={"forget_after_days": 29}))
