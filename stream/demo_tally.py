"""What came of the demo's orders: counts, campaigns, money and latencies, as their decisions come in.

Only the demo can count this: it sent the orders and knows which of them are fraud.
"""

import bisect
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import datetime

from models.policy import Action
from stream.shop import FraudKind, Placed

__all__ = ["ASSUMED", "Assumptions", "CampaignSeen", "Tally"]

_RATE_OVER_S = 5.0


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the money saved is reckoned with; a shop would put its own figures here."""

    review_cents: int = 400
    """What an analyst's look at one order costs; it finds out whether the order is fraud."""
    lost_share: float = 0.25
    """The share of its amount that an honest order loses the shop when it is declined."""
    gbp_in_eur: float = 1.15

    def cents(self, amount: int, currency: str) -> int:
        """Minor units of the shop's two currencies in cents of a euro."""
        return round(amount * self.gbp_in_eur) if currency == "GBP" else amount

    def __str__(self) -> str:
        """The assumptions in one line."""
        return (
            f"review {self.review_cents / 100:.0f} EUR, honest decline {self.lost_share:.0%} of its amount, "
            f"1 GBP = {self.gbp_in_eur:g} EUR"
        )


ASSUMED = Assumptions()


@dataclass(slots=True)
class CampaignSeen:
    """One campaign of fraud, as far as its orders have been decided."""

    kind: FraudKind
    began_at: datetime
    orders: int
    """How many orders it will have had in the end."""
    before: int
    """How many of them were placed before we looked."""
    seen: int = 0
    stopped: int = 0
    first_stopped: int | None = None
    """Which of its orders, counted from its very first, was the first that did not go through."""
    cents: int = 0
    stopped_cents: int = 0

    @property
    def is_over(self) -> bool:
        """Whether every order of it has been decided."""
        return self.before + self.seen >= self.orders

    def __str__(self) -> str:
        """How it went, in words."""
        if self.before:
            so_far = f"{self.seen} more of {self.orders} orders"
        elif self.is_over:
            so_far = f"{self.seen} orders" if self.seen > 1 else "1 order"
        else:
            so_far = f"{self.seen} of {self.orders} orders"
        if self.first_stopped is None:
            return f"{so_far}, none stopped" + ("" if self.is_over else " yet")
        if self.before:  # whether it was caught earlier is not known
            return f"{so_far}, {self.stopped} stopped"
        through = self.first_stopped - 1
        caught = "from the first on" if not through else f"first stopped after {through}"
        return f"{so_far}, {self.stopped} stopped, {caught}"


@dataclass(slots=True)
class Tally:
    """The running totals."""

    assumed: Assumptions = ASSUMED
    actions: Counter[Action] = field(default_factory=Counter)
    frauds: Counter[FraudKind] = field(default_factory=Counter)
    stopped: Counter[FraudKind] = field(default_factory=Counter)
    """Frauds that were not approved."""
    fraud_cents: int = 0
    stopped_cents: int = 0
    honest: int = 0
    held_up: int = 0
    """Honest orders that were not approved."""
    honest_declined_cents: int = 0
    campaigns: dict[int, CampaignSeen] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)
    """Seconds from sending an order to reading its committed decision, in order of size."""
    _moments: deque[float] = field(default_factory=deque)

    def count(self, placed: Placed, action: Action, *, latency: float, sent_at: datetime, now: float) -> None:
        """Count one decided order; `now` is a monotonic clock's reading."""
        self.actions[action] += 1
        bisect.insort(self.latencies, latency)
        self._moments.append(now)
        cents = self.assumed.cents(placed.order.amount, placed.order.currency)
        if placed.fraud_kind is None:
            self.honest += 1
            self.held_up += action is not Action.APPROVE
            if action is Action.DECLINE:
                self.honest_declined_cents += cents
            return
        stopped = action is not Action.APPROVE
        self.frauds[placed.fraud_kind] += 1
        self.stopped[placed.fraud_kind] += stopped
        self.fraud_cents += cents
        self.stopped_cents += cents * stopped
        self._count_campaign(placed, placed.fraud_kind, cents, stopped=stopped, sent_at=sent_at)

    def _count_campaign(
        self, placed: Placed, kind: FraudKind, cents: int, *, stopped: bool, sent_at: datetime
    ) -> None:
        if placed.campaign is None:
            return
        number, nth, orders = placed.campaign
        # orders of two partitions may be decided in another order than they were placed
        campaign = self.campaigns.setdefault(number, CampaignSeen(kind, sent_at, orders, before=nth - 1))
        campaign.before = min(campaign.before, nth - 1)
        campaign.began_at = min(campaign.began_at, sent_at)
        campaign.seen += 1
        campaign.cents += cents
        if stopped:
            campaign.stopped += 1
            campaign.stopped_cents += cents
            campaign.first_stopped = min(campaign.first_stopped or nth, nth)

    @property
    def decided(self) -> int:
        """How many orders have their decision."""
        return self.actions.total()

    @property
    def review_cents(self) -> int:
        """What the reviews cost."""
        return self.actions[Action.REVIEW] * self.assumed.review_cents

    @property
    def lost_cents(self) -> int:
        """What was lost by declining honest orders."""
        return round(self.honest_declined_cents * self.assumed.lost_share)

    @property
    def saved_cents(self) -> int:
        """What is saved against doing nothing: the fraud that was stopped, less what stopping it cost."""
        return self.stopped_cents - self.review_cents - self.lost_cents

    def latency(self, share: float) -> float:
        """The latency in seconds that this share of the orders did not exceed; 0 when nothing is decided."""
        if not self.latencies:
            return 0.0
        return self.latencies[min(len(self.latencies) - 1, int(len(self.latencies) * share))]

    def per_second(self, now: float) -> float:
        """Orders decided a second, of late."""
        while self._moments and self._moments[0] < now - _RATE_OVER_S:
            self._moments.popleft()
        if not self._moments:
            return 0.0
        # in its first seconds a run has not had five of them
        return len(self._moments) / max(1.0, min(_RATE_OVER_S, now - self._moments[0]))
