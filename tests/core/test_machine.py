import os

import pytest

from core import machine


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A machine of so many cores and GPUs, with CUDA_VISIBLE_DEVICES set or not."""

    def make(cores, gpus=0, visible=None):
        for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{i}" for i in range(gpus))):
            (tmp_path / name).touch()
        monkeypatch.setattr(machine, "DEVICES", tmp_path)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        machine.gpus.cache_clear()

    yield make
    machine.gpus.cache_clear()


def test_two_cores_take_what_was_measured(made):
    made(cores=2)
    assert machine.core_seconds(60) == machine.model_seconds(60) == 60
    assert machine.described() == "on 2 cores"


def test_bf16_is_faster_on_a_cpu_that_has_it(made):
    made(cores=2)
    assert [machine.format_factor(name) for name in ("fp32", "bf16")] == [1, 3]
    made(cores=2, gpus=1)
    assert machine.format_factor("bf16") == 1


def test_more_cores_and_fewer(made):
    made(cores=16)
    assert machine.core_seconds(60) == machine.model_seconds(60) == 7.5
    made(cores=1)
    assert machine.core_seconds(60) == 120 and machine.described() == "on 1 core"


def test_gpus_do_the_models_work_alone(made):
    made(cores=64, gpus=8)
    assert machine.gpus() == 8 and machine.described() == "on 8 GPUs and 64 cores"
    assert machine.model_seconds(8 * 500 * 3) == 3 and machine.core_seconds(64) == 2


@pytest.mark.parametrize(
    "visible, seen", [("0", 1), ("2, 0", 2), ("", 0), ("-1", 0), ("1,-1,2", 1), ("MIG-a,MIG-b", 2)]
)
def test_what_cuda_shows_of_them(made, visible, seen):
    made(cores=4, gpus=4, visible=visible)
    assert machine.gpus() == seen


def test_a_setting_makes_no_gpu(made):
    made(cores=4, gpus=0, visible="0")
    assert machine.gpus() == 0 and machine.described() == "on 4 cores"


def test_one_process_uses_one_gpu(made):
    made(cores=16, gpus=8)
    assert machine.model_seconds(60, processes=1) == 8 * machine.model_seconds(60)
