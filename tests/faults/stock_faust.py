"""Stock Faust doing the simplest form of the job, for the fault harness to compare with.

A count of orders per customer in a Faust table and one decision an order: what its documentation
shows, with the sessions of our own worker so that the faults find both alike. Run as a child with
the settings in its environment; STOCK_GUARANTEE is Faust's `processing_guarantee`.
"""

import ctypes
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])

import faust

APP = "chaos"
TABLE = "orders-per-customer"
CHANGELOG = f"{APP}-{TABLE}-changelog"


def decision(order: dict[str, Any], count: int) -> bytes:
    """The decision about an order that is its customer's so-and-so-manieth."""
    return json.dumps({"order_id": order["order_id"], "count": count}, sort_keys=True).encode()


def make_app(environment: dict[str, str]) -> faust.App:
    """The app as its documentation would have it."""
    partitions = int(environment["FRAUDSTREAM_PARTITIONS"])
    worker = environment["FRAUDSTREAM_WORKER"]
    session_s = float(environment["FRAUDSTREAM_SESSION_S"])
    folder = Path(environment["FRAUDSTREAM_HOME"]) / "rows" / worker
    folder.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        APP,
        broker=f"kafka://{environment['FRAUDSTREAM_BROKER']}",
        broker_client_id=worker,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s * 0.3,
        store="memory://",
        processing_guarantee=environment["STOCK_GUARANTEE"],
        topic_partitions=partitions,
        datadir=str(folder),
        web_enabled=False,
    )
    orders = app.topic(
        "orders", key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )
    decisions = app.topic(
        "decisions", key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )
    counts = app.Table(TABLE, default=int, partitions=partitions)

    async def decide(stream: Any) -> None:
        async for event in stream.events():
            order = json.loads(event.value)
            counts[order["customer_id"]] += 1
            await decisions.send(
                key=event.key,
                value=decision(order, counts[order["customer_id"]]),
                partition=event.message.partition,
                headers={
                    "worker": worker.encode(),
                    "order_arrived_at": str(int(event.message.timestamp * 1000)).encode(),
                },
            )

    app.agent(orders, name="decide")(decide)
    return app


if __name__ == "__main__":
    if sys.platform == "linux":
        # 1 = PR_SET_PDEATHSIG: a killed harness leaves no worker behind
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    faust.Worker(
        make_app(dict(os.environ)), loglevel="INFO", redirect_stdouts=False
    ).execute_from_commandline()
