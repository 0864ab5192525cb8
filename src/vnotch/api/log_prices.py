"""What CloudWatch Logs costs on AWS: one table of prices, and what a month's quantities come to by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

REGION = "us-east-1"
CURRENCY = "USD"
SOURCE = "https://aws.amazon.com/cloudwatch/pricing/"
AS_OF = "2025-10-28"
"""The day of AWS's price list that the prices are of. The free tier is in the table "Free tier" of the page."""

GB = 1 << 30
TB = 1024  # GB


@dataclass(frozen=True)
class Tier:
    """`gb` at this price before the next tier begins; None: all that is left."""

    gb: int | None
    usd: Decimal


def _tiers(*prices: str) -> tuple[Tier, ...]:
    """Of one price, or of AWS's four steps for vended logs."""
    sizes = (None,) if len(prices) == 1 else (10 * TB, 20 * TB, 20 * TB, None)
    return tuple(Tier(size, Decimal(price)) for size, price in zip(sizes, prices, strict=True))


@dataclass(frozen=True)
class Price:
    """Dimensions with the same `allowance` share one free amount, in the order of the table."""

    dimension: str
    unit: str
    tiers: tuple[Tier, ...]
    allowance: str | None = None


FREE_GB = {"ingestion": Decimal(5), "storage": Decimal(5), "insights": Decimal(5)}

PRICES = (
    Price("custom_ingestion", "GB", _tiers("0.50"), "ingestion"),
    Price("custom_ingestion_infrequent_access", "GB", _tiers("0.25"), "ingestion"),
    Price("vended_ingestion", "GB", _tiers("0.50", "0.25", "0.10", "0.05"), "ingestion"),
    Price("vended_ingestion_infrequent_access", "GB", _tiers("0.25", "0.15", "0.075", "0.05"), "ingestion"),
    Price("storage", "GB-month", _tiers("0.03"), "storage"),
    Price("insights", "GB scanned", _tiers("0.005"), "insights"),
    # The page has no price for requests of CloudWatch Logs; those of metrics are another dimension.
    Price("requests", "request", _tiers("0")),
)


def bill(quantities: Mapping[str, Decimal]) -> list[dict[str, Any]]:
    """A line for each dimension, in its unit: the quantity, what of it is free, and what the rest costs."""
    left = dict(FREE_GB)
    lines = []
    for price in PRICES:
        quantity = quantities.get(price.dimension, Decimal(0))
        free = min(quantity, left[price.allowance]) if price.allowance else Decimal(0)
        if price.allowance:
            left[price.allowance] -= free
        line = {"dimension": price.dimension, "unit": price.unit, "quantity": quantity, "free": free}
        lines.append({**line, "cost": cost(price.tiers, quantity - free)})
    return lines


def cost(tiers: tuple[Tier, ...], quantity: Decimal) -> Decimal:
    total = Decimal(0)
    for tier in tiers:
        part = quantity if tier.gb is None else min(quantity, Decimal(tier.gb))
        total += part * tier.usd
        quantity -= part
    return total
