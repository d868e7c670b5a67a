"""Events to an MQTT broker: one message an event, the JSON line of `Event.to_json`, at least once."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgeface.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from edgeface.video.events import Event

log = logging.getLogger(__name__)
#: Messages kept while the broker is away; what comes then is dropped, and logged. A day of a busy door.
MOST_WAITING = 10_000
AT_LEAST_ONCE = 1
CONNECT_S = 5.0


class MqttSink:
    """Publishes every event under ``TOPIC/KIND``, such as ``edgeface/arrived``.

    A broker that is away, from the start or later, is connected to when it is back, and the events meanwhile are kept;
    the loop never waits for it. One that is away or refuses the user is logged.

    Args:
        address: ``mqtt://host:port/topic`` or ``mqtts://...`` for TLS; the port is 1883 or 8883 unless told, the topic
            ``edgeface``. A user name and password may stand before the host.

    Raises:
        InputError: not such an address. MissingDependencyError: paho-mqtt is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise MissingDependencyError(f"MQTT needs paho-mqtt ({error}); install edgeface[mqtt]") from error
        parts = urlsplit(address)
        try:
            port = parts.port
        except ValueError as error:
            raise InputError(f"{address}: {error}") from error
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise InputError(f"expected mqtt://host:port/topic or mqtts://host:port/topic, got {address!r}")
        self.topic = parts.path.strip("/") or "edgeface"
        if "#" in address or "+" in address or parts.query:
            raise InputError(f"topic: expected a name without '#', '+' and '?', got {address!r}")
        self._client: Any = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(MOST_WAITING)
        if parts.username:
            self._client.username_pw_set(parts.username, parts.password)
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._client.connect_timeout = CONNECT_S
        port = port or (8883 if parts.scheme == "mqtts" else 1883)
        where = f"{parts.hostname}:{port}"

        def answered(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                log.error("%s: the MQTT broker refuses the connection: %s; events wait", where, reason)

        self._client.on_connect = answered
        try:
            self._client.connect(parts.hostname, port)
        except OSError as error:  # after a power cut a board may be up before its network
            log.error("%s: no MQTT broker answers there: %s; events wait until one does", where, error)
            self._client.connect_async(parts.hostname, port)
        self._client.loop_start()

    def __call__(self, event: Event) -> None:
        done = self._client.publish(f"{self.topic}/{event.kind}", event.to_json(), qos=AT_LEAST_ONCE)
        if done.rc not in (0, 4):  # 4: not connected now; the message waits
            log.warning("MQTT: %s was not taken: code %d", event.kind, done.rc)

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Send what waits, for at most `timeout_s`, and disconnect. Closing twice is harmless."""
        end = time.monotonic() + timeout_s
        while self._client.is_connected() and self._client.want_write() and time.monotonic() < end:
            time.sleep(0.01)
        self._client.disconnect()
        self._client.loop_stop()
