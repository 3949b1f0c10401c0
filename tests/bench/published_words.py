"""The published features that no catalogue has, as a shop declares its own (`make bench-merchants`)."""

from features.aggregates import Count, Mean, Share
from features.define import days

OWN = (
    Mean("amount", over=days(1)),
    Count(over=days(1), by="merchant", known_after=days(7)),
    Share("fraud", over=days(1), by="merchant", known_after=days(7)),
    Count(over=days(7), by="merchant", known_after=days(7)),
    Count(over=days(30), by="merchant", known_after=days(7)),
    Share("fraud", over=days(30), by="merchant", known_after=days(7)),
)
