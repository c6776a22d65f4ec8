"""Cores, frequency, heat, energy and GPU memory, from made-up files of a machine."""

import os
from pathlib import Path

import pytest

from colport.base.errors import ConfigError
from colport.timing.machine import meters
from colport.timing.settings import LatencySettings
from colport.timing.worker import cores
from colport.timing.worker.process import drop_cached
from tests.latency_runs import contender, run


@pytest.mark.parametrize(("status", "found"), [(0, "7, 12\n"), (9, None)])
def test_what_a_program_says_that_fails_is_no_answer(status, found, monkeypatch, tmp_path):
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "7, 12"\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert meters.nvidia_smi("--query-gpu=index") == found


@pytest.fixture(autouse=True)
def _contenders_on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def cpus(tmp_path):
    """Two physical cores of two threads each: 0 and 2, 1 and 3."""
    for core in range(4):
        folder = tmp_path / f"cpu{core}"
        pair = core % 2
        write(folder / "topology/thread_siblings_list", f"{pair},{pair + 2}\n")
        write(folder / "cpufreq/scaling_cur_freq", f"{2_000_000 + core * 1000}\n")
        write(folder / "thermal_throttle/core_throttle_count", f"{core}\n")
    return tmp_path


def test_one_thread_a_physical_core(cpus):
    assert cores.choose(True, 1, range(4), cpus) == (0,)
    assert cores.choose(True, 2, range(4), cpus) == (0, 1)
    assert cores.choose(True, 2, {2, 3}, cpus) == (2, 3)
    assert cores.choose(True, 2, {1, 3}, cpus) == (1, 3)
    assert cores.choose(True, 4, range(4), cpus) == (0, 1, 2, 3)
    assert cores.choose(True, 2, {0, 1}, cpus / "nothing") == (0, 1)


def test_cores_by_choice(cpus):
    assert cores.choose(False, 2, range(4), cpus) is None
    assert cores.choose((3, 1), 2, range(4), cpus) == (1, 3)
    with pytest.raises(ConfigError, match=r"cores \[7\] cannot be used; allowed are \[0, 1\]"):
        cores.choose((7,), 1, {0, 1}, cpus)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system cannot pin")
@pytest.mark.parametrize("pinned", [True, False])
def test_worker_runs_where_it_is_pinned(pinned):
    last = max(os.sched_getaffinity(0))
    affinity = (last,) if pinned else False
    before = os.sched_getaffinity(0)
    payload = run([contender("fp32", "tells_cores")], affinity=affinity)
    expected = 1 if pinned else len(before)
    assert payload["rows"][0]["tokens"] == expected
    assert payload["cores"] == ((last,) if pinned else None)
    assert os.sched_getaffinity(0) == before


def test_frequency_and_heat(cpus, tmp_path):
    assert meters.frequencies_mhz([0, 3], cpus) == [2000, 2003]
    assert meters.throttle_count([1, 2, 3], cpus) == 6
    write(tmp_path / "cpuinfo", "cpu MHz\t\t: 2594.1\nflags: x\ncpu MHz : 2600\n")
    nothing = tmp_path / "nothing"
    assert meters.frequencies_mhz([1], nothing, tmp_path / "cpuinfo") == [2600]
    assert meters.frequencies_mhz([1], nothing, nothing) is None
    assert meters.throttle_count([1], nothing) is None


def test_heat_between_rounds_is_noise(cpus):
    machine = meters.Machine([0, 1], cpus)
    machine.read()
    assert machine.throttled() == []
    write(cpus / "cpu0/thermal_throttle/core_throttle_count", "5")
    machine.read()
    assert machine.throttled() == ["heat slowed the cores 5 times"]
    record = machine.record(meters.EnergyMeter(cpus / "nothing"), ask=lambda query: None)
    assert record["throttle_count"] == [1, 6]
    assert record["frequency_mhz"] == [[2000, 2001]] * 2
    assert record["missing"] == {
        "joules_per_input": "the machine has no energy counters (powercap)",
        "gpu_peak_mb": "nvidia-smi is not on this machine",
    }
    record = machine.record(meters.EnergyMeter(cpus / "nothing"), ask=lambda query: "a card")
    assert list(record["missing"]) == ["joules_per_input"]


def zone(root, name, energy, limit):
    write(root / name / "energy_uj", str(energy))
    write(root / name / "max_energy_range_uj", str(limit))


def test_energy_of_packages_over_a_wrap(tmp_path):
    zone(tmp_path, "intel-rapl:0", 900_000, 1_000_000)
    zone(tmp_path, "intel-rapl:1", 100, 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", 5, 10)  # a part of package 0
    meter = meters.EnergyMeter(tmp_path)
    before = meter.read()
    zone(tmp_path, "intel-rapl:0", 400_000, 1_000_000)
    zone(tmp_path, "intel-rapl:1", 250_100, 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", 400_005, 1_000_000)
    assert meter.joules(before, meter.read()) == pytest.approx(0.5 + 0.25)
    assert meters.EnergyMeter(tmp_path / "nothing").read() is None
    assert meter.joules(None, None) is None


def test_energy_that_may_not_be_read_has_a_reason(tmp_path):
    (tmp_path / "intel-rapl:0/energy_uj").mkdir(parents=True)  # root could read any file
    assert "energy counters cannot be read" in meters.EnergyMeter(tmp_path).reason


def test_gpu_memory_of_a_process():
    answer = "7, 100\n8, 300\n7, 24\n9, [N/A]\n"
    assert meters.gpu_memory_mb(7, lambda query: answer) == 124
    assert meters.gpu_memory_mb(9, lambda query: answer) is None
    assert meters.gpu_memory_mb(1, lambda query: answer) is None
    assert meters.gpu_memory_mb(7, lambda query: None) is None


def test_files_are_dropped_from_the_page_cache(tmp_path):
    write(tmp_path / "deep/weights", "x" * 100_000)
    drop_cached([tmp_path])
    assert (tmp_path / "deep/weights").read_text() == "x" * 100_000


def test_affinity_may_be_a_list():
    assert LatencySettings(affinity=[1, 0]).affinity == (1, 0)
