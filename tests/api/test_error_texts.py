"""Errors name what was sent, and do not repeat kilobytes of it."""

from __future__ import annotations

from vnotch.api.service import MESSAGE_MAX, ApiError


def test_a_text_is_told_whole_up_to_its_bound() -> None:
    text = "x" * MESSAGE_MAX
    assert ApiError("Code", text).message == text


def test_of_a_longer_one_the_beginning_and_the_end_are_told() -> None:
    message = ApiError("NatGatewayNotFound", f"NAT gateway {'n' * 20_000} was not found").message
    assert len(message) <= MESSAGE_MAX
    assert message.startswith("NAT gateway nnn")
    assert message.endswith("nnn was not found")
