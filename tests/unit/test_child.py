"""What travels between processes, and what the parent learns when its child ends."""

import math
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread

import numpy as np
import PIL.Image
import pytest

from colport.processes.child import Child, ChildEndedError, receive, send

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


def through_a_pipe(value):
    ours, theirs = Pipe()
    with ours, theirs:
        writer = Thread(target=send, args=(ours, value))
        writer.start()
        found = receive(theirs)
        writer.join()
    return found


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
    assert_same(through_a_pipe(value), value)


def test_scalars_and_tuples_arrive_as_json_has_them():
    assert through_a_pipe((np.float32(0.5), np.int64(3))) == [0.5, 3]
    assert math.isnan(through_a_pipe(math.nan))


@pytest.mark.parametrize(
    "value", [np.array([object()]), np.array(["text"]), Path("x"), {1, 2}], ids=type
)
def test_objects_do_not_travel(value):
    ours, theirs = Pipe()
    with ours, theirs:
        with pytest.raises(TypeError, match="cannot be sent to another process"):
            send(ours, value)
        assert not theirs.poll()


CHILD = """
import os, time
from colport.processes.child import serve
def answer(request):
    if request == "exit":
        os._exit(7)
    if request == "sleep":
        time.sleep(600)
    return [request, os.environ["PYTHONPATH"].count(os.pathsep)]
serve(answer)
"""


@pytest.fixture
def child(tmp_path, monkeypatch):
    (tmp_path / "answering.py").write_text(CHILD)
    monkeypatch.setattr(
        "colport.processes.child._LIBRARY", f"{tmp_path}:{Path(__file__).parents[2]}/scripts"
    )
    child = Child("answering")
    yield child
    child.close()


def test_a_child_answers_until_it_is_closed(child):
    assert child.ask("one") == ["one", 1]
    assert child.ask(PAGE, seconds=60)[0].size == PAGE.size
    child.close()
    child.close()
    assert child._process.returncode == 0


def test_a_child_that_ends_says_its_code(child):
    with pytest.raises(ChildEndedError, match="ended with code 7") as ended:
        child.ask("exit")
    assert ended.value.code == 7
    assert child._process.returncode == 7


def test_a_child_that_is_too_slow_is_killed(child):
    assert child.ask("one")[0] == "one"
    with pytest.raises(TimeoutError):
        child.ask("sleep", seconds=0.2)
    assert child._process.returncode == -9
