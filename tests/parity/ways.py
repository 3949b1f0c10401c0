"""The ways an order's features come about: the worker's, the replay's, and the oracle's."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta

from features.aggregates import Ratio
from features.define import Feature, compute
from features.events import Order
from features.facts import FACTS
from features.history import History, Row
from features.plan import Plan
from features.replay import LeftOut, Replay
from features.revisions import Ids, Revisions, ids_of
from tests.parity.naive import ENTITIES, NOTHING, Past, Vector, naive_vector, said_of, standing
from tests.parity.stories import Story

Key = tuple[str, str]
"""An entity's kind and its name."""

Ask = Callable[[Order], Sequence[Feature]]
"""Which features of an order are asked for."""


def keys_of(order: Order) -> list[Key]:
    """The entities that an order names."""
    return [(entity, key) for entity, key_of in ENTITIES.items() if (key := key_of(order)) is not None]


class Rows:
    """What a worker remembers of orders and the rows of every entity, fed event by event.

    As a worker has them, each goes through its bytes whenever it is looked at, unless asked not to.
    """

    def __init__(
        self, limit: int, *, through_bytes: bool, entities: Collection[str | None] = tuple(ENTITIES)
    ) -> None:
        """Keep the rows of these entities."""
        self.limit = limit
        self._entities = tuple(each for each in entities if each is not None)
        self._through_bytes = through_bytes
        self._rows: dict[Key, Row] = {}
        self._bytes: dict[Key, bytes] = {}
        self._orders: dict[str, bytes] = {}
        self.torn: set[Key] = set()
        """Rows with an order in a tile that has been revised since: tiles forget nothing."""

    def play(self, story: Story) -> Iterator[Order]:
        """Take the story's events one by one; at each order that is new stop before it is remembered."""
        for event in (*story.events, story.last):
            order_id = event.order_id
            kept = self._orders.get(order_id)
            revisions = Revisions() if kept is None else Revisions.decode(kept)
            if isinstance(event, Order):
                if revisions.of(event.revision) is not None:
                    continue
                arrival = revisions.arrive(event, event.content_digest, ids_of(event, self._entities))
                self._orders[order_id] = revisions.encode()
                if arrival.forgotten is not None:
                    for at, row in self._touched(arrival.forgotten.ids):
                        if not row.forget(order_id, arrival.forgotten.placed_at):
                            self.torn.add(at)
                        row.forget_facts(order_id)
                yield event
                if arrival.held is not None:
                    for _, row in self._touched(arrival.held.ids):
                        row.remember(event)
                        for fact in arrival.facts:
                            row.learn(fact)
            elif (learned := revisions.learn(event)) is not None:
                self._orders[order_id] = revisions.encode()
                for _, row in self._touched(() if revisions.held is None else revisions.held.ids):
                    for fact in learned.withdrawn:
                        row.unlearn(fact)
                    for fact in learned.facts:
                        row.learn(fact)

    def _touched(self, ids: Ids) -> Iterator[tuple[Key, Row]]:
        """Each of these rows, kept once it is changed."""
        for at in ids:
            row = self.recall(at)
            yield at, row
            self._keep(at, row)

    def histories(self, order: Order) -> dict[str | None, History | None]:
        """What each entity of the order did before it."""
        return {at[0]: self.recall(at).as_of(order.placed_at) for at in self._keys_of(order)}

    def _keys_of(self, order: Order) -> list[Key]:
        return [(entity, key) for entity, key in keys_of(order) if entity in self._entities]

    def recall(self, at: Key) -> Row:
        """An entity's row."""
        if not self._through_bytes:
            return self._rows.setdefault(at, Row(self.limit))
        data = self._bytes.get(at)
        return Row(self.limit) if data is None else Row.decode(data, self.limit)

    def _keep(self, at: Key, row: Row) -> None:
        if self._through_bytes:
            self._bytes[at] = row.encode()


def through_rows(ask: Ask, story: Story, limit: int, *, through_bytes: bool) -> list[Vector]:
    """The vector of every order as it arrives, by the rules of a worker."""
    rows = Rows(limit, through_bytes=through_bytes)
    # a worker and training go by a plan, which has to answer what each feature by itself does
    computed = (lambda features, *about: Plan(features)(*about)) if through_bytes else compute
    return [computed(ask(order), order, rows.histories(order)) for order in rows.play(story)]


def through_replay(ask: Ask, story: Story, limit: int) -> list[Vector]:
    """The same as training and replay do."""
    past = Replay(
        lambda order, histories: compute(ask(order), order, histories), row_limit=limit, entities=ENTITIES
    )
    found = [past.follow(each) for each in (*story.events, story.last)]
    return [each for each in found if each is not None and not isinstance(each, LeftOut)]


def through_lists(ask: Ask, story: Story) -> list[Vector]:
    """The same by the oracle."""
    return [naive_vector(ask(order), order, pasts) for order, pasts in pasts_of(story)]


def pasts_of(story: Story) -> Iterator[tuple[Order, dict[str, Past]]]:
    """Every order that is new, and what is known of its entities when it arrives."""
    arrived: list[Order] = []
    for at, event in enumerate(everything := (*story.events, story.last)):
        if not isinstance(event, Order) or is_among(arrived, event):
            continue
        # what it takes the place of is not its past
        orders = [
            one
            for one in standing(arrived)
            if one.order_id != event.order_id or one.revision >= event.revision
        ]
        said = [each for each in everything[:at] if not isinstance(each, Order)]
        pasts = {}
        for entity, key in keys_of(event):
            own = [one for one in orders if ENTITIES[entity](one) == key]
            about = [said_of(one, each) for one in own for each in said if each.order_id == one.order_id]
            pasts[entity] = Past(own, about)
        yield event, pasts
        arrived.append(event)


def is_among(arrived: Sequence[Order], order: Order) -> bool:
    """Whether the order came before."""
    return any((one.order_id, one.revision) == (order.order_id, order.revision) for one in arrived)


def is_within(feature: Feature, past: Past, limit: int, told: "Told", order: Order) -> bool:
    """Whether a row of so many orders has to answer exactly.

    All that it was ever told fits, or the window begins after the newest orders that do not.
    """
    ever, facts = told
    if any(repr(fact) in feature.declaration for fact in FACTS) and facts > limit:
        return False
    if ever <= limit:
        return True
    back = reach(feature)
    if back is None or ever > len(past.orders):  # of revised orders the row may hold fewer
        return False
    return past.orders[-limit - 1].placed_at < order.placed_at - back


def reach(feature: Feature) -> timedelta | None:
    """How far a feature looks back; None for ever."""
    if isinstance(feature, Ratio):
        parts = [reach(each) for each in (feature.quantity, feature.to) if each.entity is not None]
        return None if None in parts else max(parts)  # type: ignore[type-var]
    found = [getattr(feature, name, None) for name in ("over", "against")]
    known = [each for each in found if each is not None]
    return max(known) + (feature.known_after or NOTHING) if known else None  # type: ignore[attr-defined]


Told = tuple[int, int]
"""How many revisions a row was told of, and at most how many facts, forgotten ones too."""


def arrivals(story: Story) -> Iterator[dict[Key, Told]]:
    """Before each order that is new: what each entity's row was told."""
    orders: Counter[Key] = Counter()
    facts: Counter[Key] = Counter()
    arrived: list[Order] = []
    said: Counter[str] = Counter()
    for event in (*story.events, story.last):
        if not isinstance(event, Order):
            said[event.order_id] += 1
            facts.update(at for one in arrived if one.order_id == event.order_id for at in keys_of(one))
        elif not is_among(arrived, event):
            yield {at: (orders[at], facts[at]) for at in keys_of(event)}
            arrived.append(event)
            for at in keys_of(event):
                orders[at] += 1
                facts[at] += said[event.order_id]


def bits(vector: Vector) -> tuple[str | None, ...]:
    """What tells 0.0 from -0.0 and one float from the next."""
    return tuple(None if value is None else value.hex() for value in vector)


def differences(
    ask: Ask, story: Story, found: Sequence[Vector], expected: Sequence[Vector]
) -> list[tuple[str, str, float | None, float | None]]:
    """Which order's which feature differs, and how: found, then expected."""
    orders = [order for order, _ in pasts_of(story)]
    return [
        (order.order_id, feature.name, one, another)
        for order, mine, theirs in zip(orders, found, expected, strict=True)
        if bits(mine) != bits(theirs)
        for feature, one, another in zip(ask(order), mine, theirs, strict=True)
        if bits((one,)) != bits((another,))
    ]
