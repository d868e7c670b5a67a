"""Events at a real MQTT broker: Debian's mosquitto, on loopback; skipped where it is not installed."""

from __future__ import annotations

import json
import queue
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from edgeface.errors import InputError
from edgeface.tools.demo import demo_photo
from edgeface.video import Event, EventKind

paho = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(port: int, folder: Path, anonymous: str = "true", *more: str) -> subprocess.Popen[bytes]:
    assert MOSQUITTO is not None
    settings = folder / "mosquitto.conf"
    settings.write_text("\n".join([f"listener {port} 127.0.0.1", f"allow_anonymous {anonymous}", *more, ""]))
    process = subprocess.Popen([MOSQUITTO, "-c", str(settings)], stderr=subprocess.DEVNULL)
    end = time.perf_counter() + 10
    while time.perf_counter() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.02)
    process.kill()
    raise AssertionError("mosquitto did not start")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    port = free_port()
    process = start(port, tmp_path)
    yield port
    process.terminate()
    process.wait(10)


def listen(port: int, *, topic: str = "") -> tuple[Any, queue.Queue[tuple[str, dict[str, Any]]]]:
    heard: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    ready: queue.Queue[bool] = queue.Queue()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)

    def on_message(_client: Any, _data: Any, message: Any) -> None:
        if message.topic == topic or (not topic and not message.topic.endswith("/status")):
            heard.put((message.topic, json.loads(message.payload)))

    client.on_message = on_message
    client.on_subscribe = lambda *_: ready.put(True)
    client.connect("127.0.0.1", port)
    client.subscribe("door/#", qos=1)
    client.loop_start()
    assert ready.get(timeout=10)
    return client, heard


def test_events_arrive_at_the_broker(broker: int) -> None:
    from edgeface.video.mqtt import MqttSink

    client, heard = listen(broker)
    sink = MqttSink(f"mqtt://127.0.0.1:{broker}/door/one")
    sink(Event(EventKind.ARRIVED, 1.0, name="Ådá"))
    sink(Event(EventKind.LEFT, 2.0, name="Ådá"))
    got = [heard.get(timeout=10) for _ in range(2)]
    assert [topic for topic, _ in got] == ["door/one/arrived", "door/one/left"]
    assert got[0][1]["name"] == "Ådá"
    sink.close()
    sink.close()
    client.loop_stop()


def test_the_broker_knows_whether_the_device_is_online(broker: int) -> None:
    from edgeface.video.mqtt import MqttSink

    client, heard = listen(broker, topic="door/one/status")
    sink = MqttSink(f"mqtt://127.0.0.1:{broker}/door/one")
    assert heard.get(timeout=10)[1] == {"status": "online"}
    sink.close()
    assert heard.get(timeout=10)[1] == {"status": "offline"}
    client.loop_stop()
    later, heard = listen(broker, topic="door/one/status")
    assert heard.get(timeout=10)[1] == {"status": "offline"}  # retained
    cut = MqttSink(f"mqtt://127.0.0.1:{broker}/door/one")
    assert heard.get(timeout=10)[1] == {"status": "online"}
    cut._client.on_connect = None
    cut._client.socket().shutdown(socket.SHUT_RDWR)  # as a power cut: nothing is said
    assert heard.get(timeout=30)[1] == {"status": "offline"}  # the last will
    cut.close()
    later.loop_stop()


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_events_survive_a_broker_that_restarts(tmp_path: Path) -> None:
    from edgeface.video.mqtt import MqttSink

    port = free_port()
    first = start(port, tmp_path)
    sink = MqttSink(f"mqtt://127.0.0.1:{port}/door")
    first.terminate()
    first.wait(10)
    began = time.perf_counter()
    sink(Event(EventKind.ARRIVED, 1.0, name="ada"))
    assert time.perf_counter() - began < 1  # the loop does not wait
    second = start(port, tmp_path)
    try:
        client, heard = listen(port)
        assert heard.get(timeout=30)[1]["name"] == "ada"
        client.loop_stop()
    finally:
        sink.close()
        second.terminate()
        second.wait(10)


@pytest.mark.parametrize(
    "address",
    ["", "http://x/y", "mqtt://", "mqtt://host:notaport/t", "mqtt://h:65536/t", "mqtt://[h/t", "mqtt://h/a/#",
     "mqtt://h/a/+", "mqtt://h/a?", "mqtt://h/a?b", "mqtt://h#a"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    from edgeface.video.mqtt import MqttSink

    with pytest.raises(InputError):
        MqttSink(address)


@pytest.mark.parametrize(
    "address",
    ["mqtt://ada:s3cret@h:notaport/t", "mqtt://ada:s3cret@h/a/+", "mqtt://ada:s3cret/x@h/t", "mqtt://ada:s3cret#x@h/t",
     "mqtt://ada:[s3cret@h/t", "mqtt://ada:\N{ACCOUNT OF}s3cret@h/t", "mqt://ada:x@s3cret@h/t", "ada:s3cret@h:1883/t",
     "mqtt:/ada:s3cret@h", "mqtt://ada:s3\ncret@h:no/t"],
)  # fmt: skip
def test_no_message_shows_the_password(address: str) -> None:
    from edgeface.video.mqtt import MqttSink

    with pytest.raises(InputError) as refused:
        MqttSink(address)
    assert "s3" not in str(refused.value)
    assert "***@" in str(refused.value)
    assert refused.value.__context__ is None  # a traceback shows that, too


def taken(monkeypatch: pytest.MonkeyPatch, address: str) -> tuple[str, str | None]:
    """User name and password that the client is given for an address; nothing is connected to."""
    from edgeface.video.mqtt import MqttSink

    given: list[tuple[str, str | None]] = []
    monkeypatch.setattr(paho.Client, "username_pw_set", lambda _self, *names: given.append(names))
    monkeypatch.setattr(paho.Client, "connect", lambda *_: None)
    monkeypatch.setattr(paho.Client, "loop_start", lambda _self: None)
    sink = MqttSink(address)
    assert sink.topic == "door/one"
    (names,) = given
    return names


@pytest.mark.parametrize(
    ("written", "password"),
    [("s3cret+x", "s3cret+x"), ("a%2Bb%2Fc%3F%23%25%40", "a+b/c?#%@"), ("at@colon:", "at@colon:"), ("50%off", "50%off"),
     ("", "")],
)  # fmt: skip
def test_passwords_reach_the_broker_as_they_are_meant(
    monkeypatch: pytest.MonkeyPatch, written: str, password: str
) -> None:
    assert taken(monkeypatch, f"mqtt://ad%C3%A5:{written}@host/door/one") == ("adå", password)


def test_a_user_without_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken(monkeypatch, "mqtts://ada@host/door/one") == ("ada", None)


@pytest.mark.skipif(shutil.which("mosquitto_passwd") is None, reason="mosquitto_passwd is not installed")
@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_a_real_broker_takes_a_password_of_odd_characters(tmp_path: Path) -> None:
    from edgeface.video.mqtt import MqttSink

    users = tmp_path / "users"
    subprocess.run(["mosquitto_passwd", "-b", "-c", users, "ada", "s3/cret+@x"], check=True, timeout=30)
    users.chmod(0o644)  # mosquitto gives up root
    tmp_path.chmod(0o755)
    port = free_port()
    broker = start(port, tmp_path, "false", f"password_file {users}", "user root")
    try:
        sink = MqttSink(f"mqtt://ada:s3%2Fcret+%40x@127.0.0.1:{port}/door")
        end = time.perf_counter() + 10
        while not sink._client.is_connected() and time.perf_counter() < end:
            time.sleep(0.02)
        assert sink._client.is_connected()
        sink.close()
    finally:
        broker.terminate()
        broker.wait(10)


def test_the_address_may_stand_in_the_environment(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, with_models: Path, tmp_path: Path
) -> None:
    """A password on a command line is in `ps` and in the unit's file."""
    gallery = tmp_path / "kiosk.gallery"
    assert cli("enroll", "Obama", demo_photo("barack_obama_2005.jpg"), "--gallery", gallery).code == 0
    monkeypatch.setenv("EDGEFACE_MQTT", "mqtt://ada:s3cret@host/door/+")
    ran = cli("watch", tmp_path, "--gallery", gallery)
    assert ran.code == 1
    assert "topic: expected a name without '#', '+' and '?', got 'mqtt://***@host/door/+'" in ran.err
    assert "s3cret" not in ran.err


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_events_wait_for_a_broker_that_comes_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A kiosk that boots before its network must recognise people all the same."""
    from edgeface.video.mqtt import MqttSink

    port = free_port()
    sink = MqttSink(f"mqtt://127.0.0.1:{port}/door")
    assert f"127.0.0.1:{port}: no MQTT broker answers there" in caplog.text
    sink(Event(EventKind.ARRIVED, 1.0, name="ada"))
    broker = start(port, tmp_path)
    try:
        client, heard = listen(port)
        assert heard.get(timeout=30)[1]["name"] == "ada"
        client.loop_stop()
    finally:
        sink.close()
        broker.terminate()
        broker.wait(10)


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
def test_a_broker_that_refuses_the_user_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from edgeface.video.mqtt import MqttSink

    port = free_port()
    broker = start(port, tmp_path, "false")
    try:
        sink = MqttSink(f"mqtt://ada:wrong@127.0.0.1:{port}/door")
        end = time.perf_counter() + 10
        while "refuses the connection" not in caplog.text and time.perf_counter() < end:
            time.sleep(0.02)
        sink.close()
    finally:
        broker.terminate()
        broker.wait(10)
    assert f"127.0.0.1:{port}: the MQTT broker refuses the connection: Not authorized" in caplog.text
    assert "wrong" not in caplog.text
