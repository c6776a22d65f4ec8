"""What travels between processes, and what the parent learns when its child ends."""

import io
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from colport.processes.child import (
    LIBRARY,
    Child,
    ChildError,
    ChildTimeoutError,
    describe_exit,
    one_line,
)
from colport.processes.wire import encoded, receive

PAGE = PIL.Image.effect_noise((7, 5), 40).convert("RGB")
VALUES = {
    "plain": {"a": [1, 2.5, None, True, "ß\n"], "b": {}},
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "float16": np.arange(3, dtype=np.float16),
    "bool": np.array([True, False]),
    "transposed": np.arange(6).reshape(2, 3).T,
    "empty": np.zeros((0, 128), np.float32),
    "large": np.zeros(3_000_000),
    "in order": [np.ones(2), {"x": np.zeros(3, np.int64), "y": [np.full((1, 1), 7)]}],
    "images": [PAGE, PAGE.convert("L"), PAGE.convert("1")],
}


def sent_and_received(value):
    return receive(io.BytesIO(b"".join(encoded(value))))


def assert_same(found, given):
    assert type(found) is type(given) or isinstance(given, PIL.Image.Image)
    if isinstance(given, dict):
        assert list(found) == list(given)
        for key, item in given.items():
            assert_same(found[key], item)
    elif isinstance(given, list):
        assert len(found) == len(given)
        for one, other in zip(found, given, strict=True):
            assert_same(one, other)
    elif isinstance(given, np.ndarray):
        np.testing.assert_array_equal(found, given, strict=True)
        assert found.flags.writeable
    elif isinstance(given, PIL.Image.Image):
        assert (found.mode, found.size) == (given.mode, given.size)
        assert found.tobytes() == given.tobytes()
    else:
        assert found == given


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values_arrive_as_they_were_sent(value):
    assert_same(sent_and_received(value), value)


def test_scalars_and_tuples_arrive_as_json_has_them():
    assert sent_and_received((np.float32(0.5), np.int64(3))) == [0.5, 3]
    assert math.isnan(sent_and_received(math.nan))


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array(["text"]), Path("x"), {1, 2}], ids=type
)
def test_objects_do_not_travel(value):
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        encoded(value)


def test_half_a_value_is_none():
    content = b"".join(encoded({"x": np.ones(3), "y": PAGE}))
    for size in (0, 1, content.index(b"\n"), content.index(b"\n") + 9, len(content) - 1):
        with pytest.raises(EOFError):
            receive(io.BytesIO(content[:size]))


CHILD = """
import os, signal, socket, subprocess, sys, time
print("said while it starts")
from colport.processes.wire import serve
def answer(request):
    if request == "exit":
        os._exit(7)
    if request == "raise":
        raise ValueError("the token is hf_" + 20 * "a")
    if request == "kill":
        print("last words")
        os.kill(os.getpid(), signal.SIGKILL)
    if request == "close":
        os.closerange(3, 100)
        os._exit(0)
    if request == "hang up":
        socket.socket(fileno=3).shutdown(socket.SHUT_RDWR)
        time.sleep(600)
    if request == "close and stay":
        socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_WR)
        time.sleep(600)
    if request == "sleep":
        time.sleep(600)
    if request == "dribble":
        while True:
            os.write(3, b" ")
            time.sleep(0.01)
    if isinstance(request, str) and request in GARBAGE:
        os.write(3, GARBAGE[request])
        time.sleep(600)
    if request == "child":
        return [os.getpid(), subprocess.Popen(["sleep", "600"]).pid]
    return [request, os.environ["PYTHONPATH"], sys.stdin.read()]
GARBAGE = {
    "words": b"hello\\n",
    "deep": b"[" * 100_000 + b"\\n",
    "objects": b'{"$array": "|O", "shape": [1], "bytes": 8}\\n01234567',
    "huge": b'{"$array": "<f4", "shape": [1], "bytes": 99999999999999999999}\\n',
    "image": b'{"$image": "RGB", "size": [9, 9], "bytes": 1}\\n0',
    "bytes": b"\\xff\\xfe\\n",
}
serve(answer)
"""


def start(folder):
    (folder / "answering.py").write_text(CHILD.replace("\\\\", "\\"))
    path = os.pathsep.join([str(folder), str(LIBRARY)])
    return Child.of("answering", environment={**os.environ, "PYTHONPATH": path})


@pytest.fixture
def child(tmp_path):
    child = start(tmp_path)
    yield child
    child.close()


def test_a_child_answers_until_it_is_closed(child):
    name, path, read = child.ask("one")
    assert (name, path.count(os.pathsep), read) == ("one", 1, "")
    assert child.ask(PAGE, seconds=60)[0].size == PAGE.size
    child.close()
    child.close()
    assert child._process.returncode == 0
    with pytest.raises(ChildError, match="has been closed"):
        child.ask("one")


@pytest.mark.parametrize(
    ("request_name", "code", "message"),
    [
        ("exit", 7, "ended with exit code 7; last output: said while it starts"),
        (
            "kill",
            -9,
            "killed by SIGKILL (often: out of memory); last output: said while",
        ),
        ("hang up", -1, "killed by SIGHUP; last output: said while it starts"),
        ("close", 0, "ended with exit code 0; last output: said while it starts"),
    ],
)
def test_a_child_that_ends_says_why(child, request_name, code, message):
    with pytest.raises(ChildError) as ended:
        child.ask(request_name)
    assert str(ended.value).startswith(message)
    assert ended.value.code == code
    assert child._process.returncode == code
    with pytest.raises(ChildError) as again:
        child.ask("one")
    assert again.value is ended.value


def test_a_child_that_closes_its_pipe_only_is_killed(child, monkeypatch):
    monkeypatch.setattr("colport.processes.child._STOP_SECONDS", 0.1)
    with pytest.raises(ChildError, match=r"^closed its pipe without ending; last output: said"):
        child.ask("close and stay")
    # Its own side may see the hang-up before the kill arrives.
    assert child._process.returncode in (-signal.SIGHUP, -signal.SIGKILL)


def test_what_a_child_says_at_its_end_holds_no_secret(child):
    with pytest.raises(ChildError, match=r"\) \| ValueError: the token is •••$") as ended:
        child.ask("raise")
    assert ended.value.cause == "ended with exit code 1"
    assert "aaa" not in ended.value.output


@pytest.mark.parametrize("request_name", ["sleep", "dribble"])
def test_a_child_that_is_too_slow_is_killed(child, request_name):
    assert child.ask("one")[0] == "one"
    with pytest.raises(ChildTimeoutError, match=r"^did not answer within 0\.5 s; last output"):
        child.ask(request_name, seconds=0.5)
    assert child._process.returncode == -9


@pytest.mark.parametrize("garbage", ["words", "deep", "objects", "huge", "image", "bytes"])
def test_an_answer_that_is_none_ends_its_child(child, garbage):
    with pytest.raises(ChildError, match=r"^gave an answer that cannot be read \(\w+Error\)"):
        child.ask(garbage, seconds=60)
    assert child._process.returncode == -9


def test_an_interrupted_request_leaves_no_answer_to_the_next(child, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("colport.processes.child.receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        child.ask("one")
    monkeypatch.undo()
    with pytest.raises(ChildError, match="has been closed"):
        child.ask("two")


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "zombie" not in status.read_text()


def wait_until_ended(*pids):
    deadline = time.monotonic() + 15
    while any(map(is_running, pids)):
        assert time.monotonic() < deadline, "a process is left behind"
        time.sleep(0.02)


def test_a_child_takes_what_it_has_started_with_it(child):
    _, started = child.ask("child")
    assert is_running(started)
    child.close()
    wait_until_ended(started)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_dies_with_a_parent_that_is_killed(tmp_path):
    code = f"""
import sys
from pathlib import Path
from tests.unit.test_child import start
child = start(Path({str(tmp_path)!r}))
print(*child.ask("child"), flush=True)
child.ask("sleep")
"""
    path = os.pathsep.join([str(LIBRARY), str(Path(__file__).parents[2])])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
    )
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert all(map(is_running, pids))
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_until_ended(*pids)


def test_a_program_ends_by_itself(tmp_path):
    log = tmp_path / "log"
    log.write_text("of an earlier program\n")
    with Child([sys.executable, "-c", "print(input.__name__)"], log=log) as child:
        child.wait()
        assert child.output() == "input\n"
    assert log.read_text() == "of an earlier program\ninput\n"
    with (
        Child([sys.executable, "-c", "input()"]) as child,
        pytest.raises(ChildError, match=r"^ended with exit code 1; last output: .*EOFError"),
    ):
        child.wait()
    with (
        Child(["sleep", "600"]) as child,
        pytest.raises(ChildTimeoutError, match=r"^did not answer within 0\.1 s$"),
    ):
        child.wait(0.1)
    with pytest.raises(OSError, match="absent"):
        Child([str(tmp_path / "absent")])


def test_memory_counts_what_a_program_has_started():
    child = "a = bytearray(80 << 20); import time; time.sleep(1)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with Child([sys.executable, "-c", code]) as program:
        program.wait(60, is_metered=True)
    assert 80 < program.peak_rss_mb < 300


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "closed its pipe without ending"),
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-signal.SIGSEGV, "killed by SIGSEGV"),
        (-signal.SIGKILL, "killed by SIGKILL (often: out of memory)"),
        (-250, "killed by signal 250"),
    ],
)
def test_how_a_process_ended(code, text):
    assert describe_exit(code) == text


def test_a_reason_is_one_line_of_bounded_length():
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("x" * 600) == "x" * 600
    assert one_line("x" * 601) == "x" * 599 + "…"
