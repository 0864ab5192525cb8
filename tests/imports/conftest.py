from tests.api.conftest import api  # noqa: F401 - a running API on a loopback port
