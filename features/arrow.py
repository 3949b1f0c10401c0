"""Feature vectors of past orders as an Arrow table: what a data scientist looks at.

pyarrow is imported when a table is made, and touches no file.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from features.define import Feature
from features.errors import FeatureDefinitionError
from features.events import Order
from features.history import History
from features.plan import Plan
from features.replay import Event, LeftOut, Replay

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]

__all__ = ["table"]

_ROWS_AT_ONCE = 10_000
_OF_THE_ORDER = ("order_id", "revision", "customer_id", "placed_at")


def table(
    features: Sequence[Feature],
    events: Iterable[Event],
    *,
    only: Collection[str] | None = None,
    row_limit: int = 512,
    left_out: Counter[LeftOut] | None = None,
) -> "pa.Table":
    """Each order with its features as of itself, in the order of the events: a `pyarrow.Table`.

    All events make history, whatever entity a feature asks; `only` these order ids get a row. A missing
    value is null, a category a dictionary column of its texts, everything else a float64. `row_limit` has
    to be the workers' for the same values as theirs; `left_out` counts the orders without a row that came
    before. Raises FeatureDefinitionError for two features of one name.

    >>> from datetime import datetime, timedelta, UTC
    >>> from features import Count, Mean, Order, days, table
    >>> noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    >>> orders = [
    ...     Order(
    ...         order_id=f"o{day}",
    ...         customer_id="c1",
    ...         placed_at=noon + timedelta(days=day),
    ...         amount=1000 + 500 * day,
    ...         currency="EUR",
    ...     )
    ...     for day in range(3)
    ... ]
    >>> found = table([Count(over=days(30)), Mean("amount", over=days(30))], orders)
    >>> found["order_id"].to_pylist()
    ['o0', 'o1', 'o2']
    >>> found["orders_count_30d"].to_pylist(), found["amount_mean_30d"].to_pylist()
    ([0.0, 1.0, 2.0], [None, 10.0, 12.5])

    With pandas installed, `found.to_pandas()` is a DataFrame: NaN for what is missing, and categories as
    pandas' own.
    """
    import pyarrow as pa  # noqa: PLC0415 - half a second, and only for those who want a table

    if isinstance(only, str):
        message = f"table(only=...) takes the ids of orders, such as [{only!r}], not one text"
        raise TypeError(message)
    columns = _columns(features)
    names = [name for name, _ in columns]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        message = f"table(features): {twice[0]!r} would be the name of two columns; leave one out"
        raise FeatureDefinitionError(message)
    schema = pa.schema(columns)
    entities = {each.entity for each in features}
    wanted = None if only is None else frozenset(only)
    past = Replay(partial(_row, Plan(features), wanted), row_limit=row_limit, entities=entities)
    batches: list[Any] = []
    rows: list[tuple[Any, ...]] = []
    for event in events:
        row = past.follow(event)
        if isinstance(row, tuple):
            rows.append(row)
            if len(rows) == _ROWS_AT_ONCE:
                batches.append(_batch(rows, features, schema))
                rows = []
    batches.append(_batch(rows, features, schema))
    if left_out is not None:
        left_out.update(past.left_out)
    return pa.Table.from_batches(batches, schema)


def _columns(features: Sequence[Feature]) -> list[tuple[str, Any]]:
    import pyarrow as pa  # noqa: PLC0415

    of_the_order = (pa.string(), pa.int32(), pa.string(), pa.timestamp("us", "UTC"))
    category = pa.dictionary(pa.int32(), pa.string())
    return [
        *zip(_OF_THE_ORDER, of_the_order, strict=True),
        *((each.name, pa.float64() if each.categories is None else category) for each in features),
    ]


def _row(
    plan: Plan,
    only: Collection[str] | None,
    order: Order,
    histories: Mapping[str, History | None],
) -> tuple[Any, ...] | None:
    """What the table says of an order; None for one that is only history."""
    if only is not None and order.order_id not in only:
        return None
    vector = plan(order, histories)
    return order.order_id, order.revision, order.customer_id, order.placed_at, *vector


def _batch(rows: Sequence[tuple[Any, ...]], features: Sequence[Feature], schema: Any) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    arrays = []
    categories = [None] * len(_OF_THE_ORDER) + [each.categories for each in features]
    for place, (field, texts) in enumerate(zip(schema, categories, strict=True)):
        values = [row[place] for row in rows]
        if texts is None:
            arrays.append(pa.array(values, field.type))
        else:
            # every batch with all texts, in their order: codes are the values that a model sees
            codes = [None if value is None else int(value) for value in values]
            arrays.append(pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(texts)))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
