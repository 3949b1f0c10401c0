"""By what models on trial are judged; settings, so that a shop says them once for all who look."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["Gates", "Guardrails"]

Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[float, Field(ge=0, le=3650)]


class Gates(BaseModel):
    """What a challenger has to show before it becomes champion by itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    days: Days = 7.0
    """For so many days at least a challenger looks on before it may become champion."""
    most_days: Days = 120.0
    """After so many days without an answer a challenger is retired."""
    orders: Annotated[int, Field(ge=1)] = 1_000
    """Of so many orders at least, which both decided, it must be known what they were."""
    frauds: Annotated[int, Field(ge=0)] = 30
    """So many of them at least must be frauds."""
    mature_after_days: Days = 45.0
    """An order younger than this does not count: its chargeback may still come."""
    silence_is_legitimate: bool = False
    """Whether a matured order without any outcome is no fraud; when false it does not count."""
    worse: Share = 0.0
    """By so much of what the champion cost a challenger may cost more; 0 is not at all."""
    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.99
    """How sure that has to be. More than the usual 0.95, because it is looked at again and again."""
    disagreement: Share = 0.1
    """Of all orders, the share of which the challenger may do something else than was done; one that goes
    beyond is retired."""
    answered: Share = 0.95
    """The share of the orders decided beside it that a challenger has to have scored: one that fails on the
    hard ones is not judged by the easy ones alone."""
    released: Share = 0.1
    """Of the orders that were declined and have no outcome, the share that a challenger may approve: nobody
    sees the fraud among them, so the money can't tell."""
    silent_days: Days = 1.0
    """So long ago at most, by the judge's clock, arrived the newest order that it scored: of a challenger
    that stopped, or by a clock that is far ahead, nothing is promoted."""
    stability: Annotated[float, Field(ge=0)] = 0.25
    """The population stability index of the challenger's scores, its newest whole window against its first,
    that it may not go beyond."""
    missing: Share = 0.1
    """By so much the missing share of one of its features may move between these windows."""
    window_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """How long such a window is, in days of event time."""
    slowest_us: Annotated[float, Field(ge=0)] = 500.0
    """Microseconds of an order in a batch that a challenger may take where it is judged."""
    review_cost: Annotated[float, Field(ge=0)] = 3.0
    """What a review costs, in major units."""
    lost_share: Annotated[float, Field(ge=0, le=10)] = 1.0
    """Of an approved fraud's amount, what is lost."""
    margin: Share = 0.2
    """Of a declined good order's amount, what is lost."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    """Only orders of this currency count in money; when absent, of the one that most orders have."""

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        if self.most_days <= max(self.days, self.mature_after_days):
            raise ValueError(
                f"most_days is {self.most_days:g}, and nothing is known before mature_after_days, "
                f"{self.mature_after_days:g}, nor promoted before days, {self.days:g}; allow more"
            )
        return self


class Guardrails(BaseModel):
    """What sends a canary back by itself. Its customers are held against all others, of the same time."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    short_window_minutes: Annotated[float, Field(gt=0, le=1_440)] = 60.0
    """The newest orders that are looked at, by when they were placed: what breaks suddenly shows here."""
    long_window_hours: Annotated[float, Field(gt=0, le=720)] = 24.0
    """The same once more, longer: what breaks a little shows here."""
    customers: Annotated[int, Field(ge=2)] = 30
    """With fewer customers of a kind in a window nothing is said about it. A customer counts once, however
    many orders."""
    declines: Share = 0.05
    """By so much the canary's share of declined orders may be above that of all others."""
    most_declines: Share = 0.5
    """The canary's share of declined orders, whatever others do."""
    reviews: Share = 0.1
    """By so much its share of reviewed or challenged orders may be above that of all others."""
    fallbacks: Share = 0.01
    """The share of its orders that others had to decide, because it could not be used."""
    score: Share = 0.1
    """By so much its mean probability of fraud may differ from what others say of their orders."""
    missing: Share = 0.1
    """By so much the share of its orders of which a feature is unknown may be larger in the shorter window
    than before, in the longer."""
    slow_s: Annotated[float, Field(gt=0)] = 2.0
    """An order that takes longer from its arrival to its decision is slow. More than half of the canary's, or
    5 of 100 more than of others', send it back; workers' clocks and the broker's have to agree that far."""
    most_orders: Annotated[int, Field(ge=1_000)] = 200_000
    """Of more orders than these in the longer window only the newest are read."""

    @model_validator(mode="after")
    def _are_two(self) -> Self:
        if self.short_window_minutes >= self.long_window_hours * 60:
            raise ValueError("short_window_minutes must be less than long_window_hours")
        return self
