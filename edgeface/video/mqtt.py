"""Events to an MQTT broker: one message an event, the JSON line of `Event.to_json`, at least once."""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

from edgeface.errors import InputError, MissingDependencyError, install_extra

if TYPE_CHECKING:
    from edgeface.video.events import Event

log = logging.getLogger(__name__)
#: Messages kept while the broker is away; what comes then is dropped, and logged. A day of a busy door.
MOST_WAITING = 10_000
AT_LEAST_ONCE = 1
CONNECT_S = 5.0
ONLINE, OFFLINE = '{"status":"online"}', '{"status":"offline"}'


class MqttSink:
    """Publishes every event under ``TOPIC/KIND``, such as ``edgeface/arrived``.

    A broker that is away, from the start or later, is connected to when it is back, and the events meanwhile are kept;
    the loop never waits for it. One that is away or refuses the user is logged.

    ``TOPIC/status`` is retained: online, and offline after `close`, or as the broker's own word (the last will) when it
    hears nothing from this process any more. Give every device a topic of its own.

    Args:
        address: ``mqtt://host:port/topic`` or ``mqtts://...`` for TLS; the port is 1883 or 8883 unless told, the topic
            ``edgeface``. ``user:password@`` may stand before the host; as in any address ``%``, ``/``, ``?``, ``#`` and
            ``[`` are written as ``%25``, ``%2F``, ``%3F``, ``%23`` and ``%5B`` there. No message shows them.

    Raises:
        InputError: not such an address. MissingDependencyError: paho-mqtt is not installed.
    """

    def __init__(self, address: str) -> None:
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as error:
            raise MissingDependencyError(f"MQTT needs paho-mqtt ({error}); {install_extra('mqtt')}") from error
        parts, host, port = _split(address)
        self.topic = parts.path.strip("/") or "edgeface"
        self._client: Any = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.max_queued_messages_set(MOST_WAITING)
        if parts.username:
            password = None if parts.password is None else unquote(parts.password)
            self._client.username_pw_set(unquote(parts.username), password)
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._client.connect_timeout = CONNECT_S
        where = f"{host}:{port}"
        self._status: dict[str, Any] = {"topic": f"{self.topic}/status", "qos": AT_LEAST_ONCE, "retain": True}
        self._client.will_set(payload=OFFLINE, **self._status)

        def answered(client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if reason.is_failure:
                log.error("%s: the MQTT broker refuses the connection: %s; events wait", where, reason)
            else:
                client.publish(payload=ONLINE, **self._status)

        self._client.on_connect = answered
        try:
            self._client.connect(host, port)
        except OSError as error:  # after a power cut a board may be up before its network
            log.error("%s: no MQTT broker answers there: %s; events wait until one does", where, error)
            self._client.connect_async(host, port)
        self._client.loop_start()

    def __call__(self, event: Event) -> None:
        done = self._client.publish(f"{self.topic}/{event.kind}", event.to_json(), qos=AT_LEAST_ONCE)
        if done.rc not in (0, 4):  # 4: not connected now; the message waits
            log.warning("MQTT: %s was not taken: code %d", event.kind, done.rc)

    def close(self, *, timeout_s: float = 2.0) -> None:
        """Send what waits and say goodbye, for at most `timeout_s`, and disconnect. Closing twice is harmless."""
        end = time.monotonic() + timeout_s
        if self._client.is_connected():
            last = self._client.publish(payload=OFFLINE, **self._status)
            while self._client.is_connected() and not last.is_published() and time.monotonic() < end:
                time.sleep(0.01)
        self._client.disconnect()
        self._client.loop_stop()


def _split(address: str) -> tuple[SplitResult, str, int]:
    """The parts of an address, with its host and port. Raises InputError.

    What urlsplit says of an address quotes the password: where ``/`` ends the host, the port is what stands before it.
    """
    shown = re.sub(r"^(\w+://)?.*@", r"\1***@", address, flags=re.DOTALL)
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
        raise InputError(
            f"expected mqtt://host:port/topic or mqtts://host:port/topic, with a port up to 65535, got {shown!r}; "
            "user:password@ may stand before the host, with %25 %2F %3F %23 %5B for the characters % / ? # ["
        )
    if "+" in parts.path or parts.query or parts.fragment or address.endswith(("#", "?")):
        raise InputError(f"topic: expected a name without '#', '+' and '?', got {shown!r}")
    return parts, parts.hostname, port or (8883 if parts.scheme == "mqtts" else 1883)
