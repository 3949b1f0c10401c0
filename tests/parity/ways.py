"""The ways an order's features come about: the worker's, the replay's, and the oracle's."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta

from features.aggregates import Ratio
from features.define import Feature, compute
from features.events import Order
from features.facts import FACTS, Fact
from features.history import History, Row
from features.plan import Plan
from tests.parity.naive import ENTITIES, NOTHING, Past, Vector, naive_vector, standing
from tests.parity.stories import Statement, Story

Key = tuple[str, str]
"""An entity's kind and its name."""

Ask = Callable[[Order], Sequence[Feature]]
"""Which features of an order are asked for."""


def keys_of(order: Order) -> list[Key]:
    """The entities that an order names."""
    return [(entity, key) for entity, key_of in ENTITIES.items() if (key := key_of(order)) is not None]


class Rows:
    """The rows of every entity, fed event by event.

    As a worker has them, each goes through its bytes whenever it is looked at; in a replay they are kept.
    """

    def __init__(
        self, limit: int, *, through_bytes: bool, entities: Collection[str | None] = tuple(ENTITIES)
    ) -> None:
        """Keep the rows of these entities."""
        self.limit = limit
        self._entities = entities
        self._through_bytes = through_bytes
        self._rows: dict[Key, Row] = {}
        self._bytes: dict[Key, bytes] = {}
        self._highest: dict[str, Order] = {}
        self.torn: set[Key] = set()
        """Rows with an order in a tile that has been revised since: tiles forget nothing."""

    def play(self, story: Story) -> Iterator[Order]:
        """Take the story's events one by one; at each order stop before it is remembered."""
        for event in (*story.events, story.last):
            if isinstance(event, Statement):
                for at in self._keys_of(event.about):
                    row = self.recall(at)
                    row.learn(event.fact)
                    self._keep(at, row)
                continue
            before = self._highest.get(event.order_id)
            is_newer = before is None or before.revision < event.revision
            if before is not None and is_newer and not before.test:
                # what it takes the place of is not its past
                for at in self._keys_of(before):
                    row = self.recall(at)
                    if not row.forget(before.order_id, before.placed_at):
                        self.torn.add(at)
                    self._keep(at, row)
            yield event
            if is_newer:
                self._highest[event.order_id] = event
            if is_newer and not event.test:
                for at in self._keys_of(event):
                    row = self.recall(at)
                    row.remember(event)
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
    """The vector of every order as it arrives."""
    rows = Rows(limit, through_bytes=through_bytes)
    # a worker and training go by a plan, which has to answer what each feature by itself does
    computed = (lambda features, *about: Plan(features)(*about)) if through_bytes else compute
    return [computed(ask(order), order, rows.histories(order)) for order in rows.play(story)]


def through_lists(ask: Ask, story: Story) -> list[Vector]:
    """The same by the oracle."""
    return [naive_vector(ask(order), order, pasts) for order, pasts in pasts_of(story)]


def pasts_of(story: Story) -> Iterator[tuple[Order, dict[str, Past]]]:
    """Every order, and what is known of its entities when it arrives."""
    arrived: list[Order] = []
    facts: dict[Key, list[Fact]] = defaultdict(list)
    for event in (*story.events, story.last):
        if isinstance(event, Statement):
            for at in keys_of(event.about):
                facts[at].append(event.fact)
            continue
        # what it takes the place of is not its past
        orders = [
            one
            for one in standing(arrived)
            if one.order_id != event.order_id or one.revision >= event.revision
        ]
        yield (
            event,
            {
                entity: Past([one for one in orders if ENTITIES[entity](one) == key], facts[entity, key])
                for entity, key in keys_of(event)
            },
        )
        arrived.append(event)


def is_within(feature: Feature, past: Past, limit: int, ever: int, order: Order) -> bool:
    """Whether a row of so many orders has to answer exactly.

    All that it was ever told fits, or the window begins after the newest orders that do not.
    """
    if any(repr(fact) in feature.declaration for fact in FACTS) and len(set(past.facts)) > limit:
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


def arrivals(story: Story) -> Iterator[Counter[Key]]:
    """Before each order: how many revisions each entity's row was told of."""
    told: Counter[Key] = Counter()
    for event in (*story.events, story.last):
        if isinstance(event, Order):
            yield Counter(told)
            told.update(keys_of(event))


def bits(vector: Vector) -> tuple[str | None, ...]:
    """What tells 0.0 from -0.0 and one float from the next."""
    return tuple(None if value is None else value.hex() for value in vector)


def differences(
    ask: Ask, story: Story, found: Sequence[Vector], expected: Sequence[Vector]
) -> list[tuple[str, str, float | None, float | None]]:
    """Which order's which feature differs, and how: found, then expected."""
    orders = [each for each in (*story.events, story.last) if isinstance(each, Order)]
    return [
        (order.order_id, feature.name, one, another)
        for order, mine, theirs in zip(orders, found, expected, strict=True)
        if bits(mine) != bits(theirs)
        for feature, one, another in zip(ask(order), mine, theirs, strict=True)
        if bits((one,)) != bits((another,))
    ]
