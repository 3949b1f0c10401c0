"""A worker that decides nothing: it says in which order it takes the records of all home inputs.

Everything else of it is the worker's own: group, fetching, merge, transactions.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[2])

from stream import worker  # noqa: E402
from stream.ports import Effects, Produce, Recall, Record  # noqa: E402
from stream.settings import Settings, load_settings  # noqa: E402


class TellingDesk:
    """Emits every record as it is taken, all to one partition: a topic has no order over several."""

    share_rejected = 0.0
    observing = False
    said = "none"

    def __init__(self, **settled: Any) -> None:
        self._decisions = settled["topics"].decisions

    def identity(self) -> dict[str, str]:
        """Nothing of a model."""
        return {}

    def decide(self, records: Sequence[Record], *_: Any) -> Effects:
        """One record for each."""
        return Effects([Produce(self._decisions, 0, record.key, record.value) for record in records])

    def set_aside(self, record: Record, recall: Recall) -> Effects:
        """Nothing here stops a worker."""
        raise NotImplementedError


def home(settings: Settings) -> tuple[str, ...]:
    """The inputs of an order's home, in the order that counts where records arrived together."""
    names = settings.topics
    return names.outcomes, names.order_events, names.orders


def main() -> int:
    """Run the worker until it is asked to end."""
    vars(worker)["ScoringDesk"] = TellingDesk
    # as long as a worker takes orders only
    setattr(Settings, "inputs", property(home))  # noqa: B010 (a property can't be assigned where types look)
    setattr(Settings, "roads", property(lambda settings: (home(settings),)))  # noqa: B010
    return worker.run(load_settings())


if __name__ == "__main__":
    sys.exit(main())
