"""What quantities cost, computed by hand from AWS's price list of us-east-1 (CloudWatch pricing, "Logs")."""

from __future__ import annotations

from decimal import Decimal

import pytest

from vnotch.api.log_prices import TB, bill


def costs(**quantities: float) -> dict[str, Decimal]:
    lines = bill({name: Decimal(str(size)) for name, size in quantities.items()})
    return {line["dimension"]: line["cost"] for line in lines if line["quantity"]}


@pytest.mark.parametrize(
    ("dimension", "quantity", "expected"),
    [
        ("custom_ingestion", 5, "0"),  # all of it is free
        ("custom_ingestion", 105, "50.00"),  # 100 GB at 0.50
        ("custom_ingestion_infrequent_access", 105, "25.00"),  # at 0.25
        ("vended_ingestion", 105, "50.00"),
        ("vended_ingestion", 10 * TB + 5, "5120.00"),  # the first tier to its end
        ("vended_ingestion", 10 * TB + 6, "5120.25"),  # and one GB of the next
        # 10 TB at 0.50, 20 at 0.25, 20 at 0.10, 22 at 0.05: 5120 + 5120 + 2048 + 1126.40
        ("vended_ingestion", 72 * TB + 5, "13414.40"),
        ("vended_ingestion_infrequent_access", 10 * TB + 15, "2561.50"),  # 2560 + 10 at 0.15
        ("storage", 105, "3.00"),  # 100 GB-months at 0.03
        ("insights", 25, "0.10"),  # 20 GB at 0.005
        ("requests", 1_000_000, "0"),
    ],
)
def test_a_dimension_costs_what_the_price_list_says(dimension: str, quantity: float, expected: str) -> None:
    assert costs(**{dimension: quantity}) == {dimension: Decimal(expected)}


def test_ingestion_has_its_free_5_gb_once_and_storage_its_own() -> None:
    found = costs(custom_ingestion=3, vended_ingestion=4, storage=6)
    # 3 and 2 of the 4 GB are free; 1 GB-month is beyond the other 5.
    assert found == {"custom_ingestion": 0, "vended_ingestion": Decimal("1.00"), "storage": Decimal("0.03")}
