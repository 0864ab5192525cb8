"""What the agent is told and what it tells: the long poll for its configuration, and its status, over signed HTTP.

The last configuration is kept on disk. Where the server is away, or the agent starts without it, capture and spooling
go on with that one.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from vnotch.deliver.bucket import NameTaken
from vnotch.deliver.endpoint import Key
from vnotch.durable import replace_file, set_aside
from vnotch.errors import AccessError, DestinationUnavailable, InputError, VnotchError
from vnotch.inventory import AgentConfiguration
from vnotch.signed_http import NoAnswer, Refused, SignedHttp

POLL_SECONDS = 30
RETRY_SECONDS = 0.5
RETRY_SECONDS_MAX = 15.0
STATUS_TIMEOUT_SECONDS = 10.0
PRESIGN_TIMEOUT_SECONDS = 20.0

log = logging.getLogger(__name__)


def load_key(path: Path) -> Key:
    """The agent's key file: JSON with access_key_id and secret_access_key. Raises InputError."""
    try:
        document = json.loads(path.read_text())
        return Key(str(document["access_key_id"]), str(document["secret_access_key"]))
    except OSError as error:
        raise InputError(
            f"the agent's key file {path} cannot be read: {error.strerror}",
            "register the agent at the server first; that gives it a key",
        ) from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no key file: it must be JSON with access_key_id and secret_access_key") from None


class ServerClient:
    """The agents' endpoints of the server. One for each thread: a poll that hangs must hold up nothing else."""

    def __init__(self, url: str, region: str, agent: str, key: Key) -> None:
        self._base = f"/vnotch/v1/agents/{quote(agent, safe='')}"
        self._http = SignedHttp(url, region, key.access_key_id, key.secret_access_key)

    def configuration(self, revision: int, wait_seconds: int) -> AgentConfiguration:
        """The configuration once its revision is another one, or the same one after the wait.

        Raises AccessError, DestinationUnavailable, InputError.
        """
        query = urlencode({"revision": revision, "wait_seconds": wait_seconds})
        document = self._send("GET", f"/configuration?{query}", timeout_seconds=wait_seconds + 15.0)
        return AgentConfiguration.from_json(document)

    def post_status(self, status: Mapping[str, Any]) -> None:
        self._send("POST", "/status", status, timeout_seconds=STATUS_TIMEOUT_SECONDS)

    def put_candidates(self, candidates: list[dict[str, Any]]) -> dict[str, Any]:
        """Reports what could be enrolled; -> what became of it. Raises as `configuration`."""
        body = {"candidates": candidates}
        return dict(self._send("PUT", "/candidates", body, timeout_seconds=STATUS_TIMEOUT_SECONDS))

    def presign(self, upload: Mapping[str, Any]) -> dict[str, Any]:
        """The request by which a file can be put into its flow log's bucket (`vnotch.deliver.bucket`).

        Raises NameTaken, and as `configuration`.
        """
        return dict(self._send("POST", "/uploads", upload, timeout_seconds=PRESIGN_TIMEOUT_SECONDS))

    def delivery_stream(self, flow_log_id: str) -> dict[str, Any]:
        """Where a flow log's delivery stream leads (`vnotch.deliver.firehose`). Raises as `configuration`."""
        body = {"flow_log_id": flow_log_id}
        return dict(self._send("POST", "/delivery-streams", body, timeout_seconds=PRESIGN_TIMEOUT_SECONDS))

    def _send(self, method: str, path: str, body: Any = None, *, timeout_seconds: float) -> Any:
        try:
            return self._http.request(method, self._base + path, body, timeout_seconds=timeout_seconds)
        except NoAnswer as error:
            raise DestinationUnavailable(f"the server does not answer: {error.message}") from error
        except Refused as error:
            if error.status == 409:
                raise NameTaken(error.message) from error
            if error.status in (400, 401, 403, 404):
                raise AccessError(error.message, "is the agent registered there with this key?") from error
            raise DestinationUnavailable(error.message) from error


class ConfigurationPoll:
    """A thread that follows the configuration.

    `on_change` is called from it with each new one, saved before that; `on_return` when the server answers again.
    """

    def __init__(
        self,
        client: ServerClient,
        path: Path,
        on_change: Callable[[AgentConfiguration], None],
        on_return: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_return = on_return
        self._client = client
        self._path = path
        self._on_change = on_change
        self._stop = threading.Event()
        self._revision = -1
        self.error: str | None = None
        """Why the last poll failed; None after one that did not."""
        self._thread = threading.Thread(target=self._follow, name="vnotch-configuration", daemon=True)

    def last(self) -> AgentConfiguration | None:
        """What was saved last; None where nothing was. A file that cannot be read is set aside."""
        try:
            configuration = AgentConfiguration.from_json(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return None
        except (ValueError, InputError, TypeError, AttributeError) as error:
            log.error("%s is set aside: %s", set_aside(self._path), error)
            return None
        self._revision = configuration.revision
        return configuration

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Does not wait: the poll under way may take its whole time, and the thread ends with the process."""
        self._stop.set()

    def _follow(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                self._poll(known_wait_seconds=0 if failures else POLL_SECONDS)
                if failures:
                    self._on_return()
                self.error, failures = None, 0
            except VnotchError as error:
                failures += 1
                self._note(error, failures)
                self._stop.wait(min(RETRY_SECONDS_MAX, RETRY_SECONDS * 2.0 ** min(failures - 1, 10)))
            except Exception:
                # A mistake of ours in one answer must not end the agent's hearing.
                log.exception("configuration poll")
                self._stop.wait(RETRY_SECONDS_MAX)

    def _poll(self, known_wait_seconds: int) -> None:
        # No wait the first time and after a failure: the agent learns at once that its key works.
        began = time.monotonic()
        wait_seconds = known_wait_seconds if self._revision >= 0 else 0
        configuration = self._client.configuration(self._revision, wait_seconds)
        if self._stop.is_set():
            return
        if configuration.revision == self._revision:
            # A server that does not wait must not be asked in a tight loop.
            self._stop.wait(max(0.0, min(1.0, wait_seconds) - (time.monotonic() - began)))
            return
        try:
            replace_file(self._path, json.dumps(configuration.to_json()).encode())
        except OSError as error:
            log.error("the configuration cannot be saved: %s", error)
        self._revision = configuration.revision
        self._on_change(configuration)

    def _note(self, error: VnotchError, failures: int) -> None:
        self.error = str(error)
        if failures == 1:
            log.warning("%s; going on with the last configuration", error)


class StatusPost:
    """A thread that posts the status. Only the latest one counts: what is not posted yet is replaced by the next."""

    def __init__(self, client: ServerClient) -> None:
        self._client = client
        self._latest: Mapping[str, Any] | None = None
        self._wake = threading.Condition()
        self._stopping = False
        self.error: str | None = None
        self._thread = threading.Thread(target=self._post, name="vnotch-status", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def post(self, status: Mapping[str, Any]) -> None:
        with self._wake:
            self._latest = status
            self._wake.notify()

    def stop(self, timeout_seconds: float) -> None:
        """Posts what is left, for at most this long."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _post(self) -> None:
        wait_seconds = 0.0
        while True:
            with self._wake:
                if wait_seconds and not self._stopping:
                    self._wake.wait(wait_seconds)
                while self._latest is None and not self._stopping:
                    self._wake.wait()
                status, self._latest = self._latest, None
                stopping = self._stopping
            if status is None:
                return
            try:
                self._client.post_status(status)
                self.error, wait_seconds = None, 0.0
            except Exception as error:
                if self.error is None:
                    log.warning("the status cannot be posted: %s", error)
                self.error = str(error)
                wait_seconds = min(RETRY_SECONDS_MAX, max(RETRY_SECONDS, wait_seconds * 2))
                with self._wake:
                    self._latest = self._latest or status
                if stopping:
                    return
