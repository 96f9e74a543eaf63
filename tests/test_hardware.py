"""Tests of picking a device and a precision, on machines that are only pretended."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch

from vitlora.cli.main import main
from vitlora.errors import UsageError
from vitlora.hardware import (
    check_compiles,
    keep_off_host_memory,
    pick_device,
    pick_precision,
    prediction_dtype,
    storage_dtype,
)

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


@pytest.fixture
def machine(monkeypatch):
    """Returns a function that pretends what the machine has."""

    def pretend(cuda=0, mps=False, gpu_bf16=False, cpu_probes=(), name="Tesla T4"):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            # PyTorch says yes to emulation, which is slower than fp16, unless asked not to
            lambda including_emulation=True: gpu_bf16 or including_emulation,
        )
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
        for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(
                torch.cpu, probe, lambda probe=probe: probe in cpu_probes, raising=False
            )

    return pretend


@pytest.mark.parametrize("name", ["auto", ""])
@pytest.mark.parametrize(
    ("has", "want"),
    [
        ({}, CPU),
        ({"cuda": 1}, CUDA),
        ({"mps": True}, MPS),
        ({"cuda": 1, "mps": True}, CUDA),
    ],
)
def test_auto_takes_the_fastest_present(machine, has, want, name):
    machine(**has)
    assert pick_device(name) == want


@pytest.mark.parametrize(
    ("has", "name"),
    [
        ({}, "cpu"),
        ({"cuda": 2}, "cpu"),
        ({"cuda": 1}, "cuda"),
        ({"cuda": 1}, "cuda:0"),
        ({"cuda": 2}, "cuda:1"),
        ({"mps": True}, "mps"),
    ],
)
def test_named_device_is_taken_where_present(machine, has, name):
    machine(**has)
    assert pick_device(name) == torch.device(name)


@pytest.mark.parametrize(
    ("has", "name"),
    [
        ({}, "cuda"),
        ({}, "cuda:0"),
        ({"cuda": 1}, "cuda:1"),
        ({"cuda": 1}, "mps"),
        ({"mps": True}, "cuda"),
        ({}, "xpu"),
        ({"cuda": 1}, "meta"),
    ],
)
def test_absent_device_is_refused_with_a_way_out(machine, has, name):
    machine(**has)
    with pytest.raises(UsageError, match=rf"'{name}' is not on this machine; .*auto or cpu"):
        pick_device(name)


def test_gpu_is_cuda_as_lightning_calls_it(machine):
    machine(cuda=1)
    assert pick_device("gpu").type == "cuda"


@pytest.mark.parametrize("name", ["cuda:first", "cuda:-1", "GPU 0"])
def test_unknown_device_is_refused_with_the_known_ones(machine, name):
    machine(cuda=1)
    with pytest.raises(UsageError, match=rf"'{name}' is unknown; use auto, cpu, cuda or mps"):
        pick_device(name)


@pytest.mark.parametrize(
    ("device", "has", "want"),
    [
        (CUDA, {"cuda": 1, "gpu_bf16": True}, "bf16-mixed"),
        (CUDA, {"cuda": 1}, "16-mixed"),
        (CUDA, {"cuda": 1, "name": "NVIDIA GeForce GTX 1660 Ti"}, "32-true"),
        (CUDA, {"cuda": 1, "name": "NVIDIA GeForce GTX 1080"}, "16-mixed"),
        (CPU, {}, "32-true"),
        (CPU, {"cpu_probes": ["_is_avx512_bf16_supported"]}, "bf16-mixed"),
        (CPU, {"cpu_probes": ["_is_amx_tile_supported"]}, "bf16-mixed"),
        (CPU, {"cuda": 1, "gpu_bf16": True}, "32-true"),
        (MPS, {"mps": True, "cpu_probes": ["_is_amx_tile_supported"]}, "32-true"),
    ],
)
def test_auto_precision_is_bf16_only_where_the_chip_computes_in_it(machine, device, has, want):
    machine(**has)
    assert pick_precision(device) == want


@pytest.mark.parametrize("name", ["auto", "cuda:0", "cpu"])
def test_fp32_is_fp32_on_a_gpu(machine, name):
    machine(cuda=1)
    pick_device(name)
    assert torch.backends.cudnn.allow_tf32 == (name == "cpu")


@pytest.mark.parametrize(
    ("system", "device", "want"),
    [("Windows", CUDA, [0.75]), ("Linux", CUDA, []), ("Windows", CPU, [])],
)
def test_windows_lends_a_gpu_no_host_memory(monkeypatch, system, device, want):
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (5, 8))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: 1)
    shares = []
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda share, device=None: shares.append(share),
    )
    keep_off_host_memory(device)
    assert shares == want


def test_memory_that_runs_out_is_one_line_in_every_command(monkeypatch, capsys):
    def full(data: str):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("vitlora.doctor", full)
    assert main(["doctor", "--data", "photos"]) == 1
    assert capsys.readouterr().err.startswith("vitlora: out of memory; use smaller batches")


def test_cpu_without_pytorchs_private_probes_computes_in_fp32(machine, monkeypatch):
    machine()
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, probe)
    assert pick_precision(CPU) == "32-true"


@pytest.mark.parametrize("asked", ["32-true", "bf16-mixed", "16-mixed"])
def test_asked_precision_is_taken_as_it_is(machine, asked):
    machine(cuda=1, gpu_bf16=True)
    assert pick_precision(CUDA, asked) == asked


def test_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match=r"'bf16-true'; expected one of auto, 32-true, bf16-mixed"):
        pick_precision(CPU, "bf16-true")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("device", "has", "want"),
    [
        (CUDA, {"cuda": 1, "gpu_bf16": True}, torch.bfloat16),
        (CUDA, {"cuda": 1}, torch.float32),
        (CPU, {"cpu_probes": ["_is_amx_tile_supported"]}, torch.bfloat16),
        (CPU, {}, torch.float32),
        (MPS, {"mps": True}, torch.float32),
    ],
)
def test_prediction_is_in_fp32_unless_asked(machine, device, has, want):
    machine(**has)
    assert prediction_dtype(device) == prediction_dtype(device, "32") == torch.float32
    assert prediction_dtype(device, "auto") == want
    assert prediction_dtype(device, "bf16") == torch.bfloat16
    with pytest.raises(UsageError, match="precision is 'int8'; expected one of 32, bf16, auto"):
        prediction_dtype(device, "int8")  # pyright: ignore[reportArgumentType]


def test_frozen_weights_are_kept_in_the_precision_of_the_products():
    assert storage_dtype("bf16-mixed") == torch.bfloat16
    assert storage_dtype("16-mixed") == torch.float16
    assert storage_dtype("32-true") == torch.float32


def test_compiling_needs_a_compiler(monkeypatch: Any) -> None:
    monkeypatch.setattr("vitlora.hardware.shutil.which", lambda name: None)
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler on cpu"):
        check_compiles(torch.device("cpu"))
    monkeypatch.setattr("vitlora.hardware.shutil.which", lambda name: f"/usr/bin/{name}")
    check_compiles(torch.device("cpu"))
    with pytest.raises(UsageError, match="needs the triton package on mps"):
        check_compiles(torch.device("mps"))
