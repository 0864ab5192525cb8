"""What clients of tests need not make anew: botocore's models of services, and httpx's knowledge of authorities.

All clients of one session of botocore share a service's model and the class that is made of it. EC2's has 700 methods,
and each model finds its operations and errors anew: half of what a test of the API that makes a client and calls it
some times computes.
"""

from __future__ import annotations

import ssl
from typing import Any

import botocore.model
from botocore.client import ClientCreator

PLAIN_HTTP = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""httpx's `verify` where nothing is to be verified: by itself it reads all authorities for each request, for 40 ms."""

_load, _make = ClientCreator._load_service_model, ClientCreator._create_client_class
_models: dict[tuple[Any, ...], Any] = {}
_classes: dict[tuple[Any, ...], Any] = {}


def _shared_model(creator: Any, service: str, api_version: str | None = None) -> Any:
    # A model keeps the protocol that it has chosen, by an order that tests change.
    key = creator._loader, service, api_version, botocore.model.PRIORITY_ORDERED_SUPPORTED_PROTOCOLS
    if key not in _models:
        _models[key] = _load(creator, service, api_version)
    return _models[key]


def _shared_class(creator: Any, service: str, model: Any) -> Any:
    key = creator._event_emitter, service, model  # whoever listens there may add to the class
    if key not in _classes:
        _classes[key] = _make(creator, service, model)
    return _classes[key]


def share_models() -> None:
    """From now on, in this process."""
    ClientCreator._load_service_model, ClientCreator._create_client_class = _shared_model, _shared_class
