"""The CUDA kernels compile without a GPU, spill no registers, and register.

For one architecture, to save time; `make cuda-check` does it for every one.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests import cuda_build

KERNEL = """
__global__ void frame(float* x, int n) {
  float all[64];
  for (int i = 0; i < 64; ++i) all[i] = x[i];
  for (int i = 0; i < n; ++i) x[i] = all[(i * 7 + n) % 64];
}
template <class T, int kSize>
__global__ void plain(T* x) {
  __shared__ T shared[kSize];
  shared[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = shared[kSize - 1 - threadIdx.x];
}
template __global__ void plain<float, 32>(float*);
"""

pytestmark = [
    pytest.mark.skipif(cuda_build.nvcc() is None, reason="no nvcc"),
    pytest.mark.skipif(not list((cuda_build.ROOT / "csrc/cuda").glob("*.cu")), reason="no CUDA operators"),
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy with two kernels more: one with a stack frame, one with nothing but shared memory."""
    folder = tmp_path_factory.mktemp("cuda")
    shutil.copy(cuda_build.ROOT / "CMakeLists.txt", folder)
    for name in ("csrc", "ipr"):
        shutil.copytree(cuda_build.ROOT / name, folder / name, ignore=shutil.ignore_patterns("lib"))
    (folder / "csrc/cuda/planted.cu").write_text(KERNEL)
    return folder


@pytest.fixture(scope="module")
def kernels(source: Path) -> list[cuda_build.Kernel]:
    return cuda_build.build(source, source / "built", ["9.0"])


def test_no_kernel_spills_or_has_a_stack_frame(kernels: list[cuda_build.Kernel]) -> None:
    ours = [kernel for kernel in kernels if not re.match(r"frame|plain", kernel.name)]
    assert len(ours) >= 2
    for kernel in ours:
        assert kernel.faultless, kernel
        assert kernel.arch == "90" and 0 < kernel.registers <= 255


def test_a_stack_frame_would_be_found(kernels: list[cuda_build.Kernel]) -> None:
    frame, plain = (
        next(kernel for kernel in kernels if kernel.name.startswith(name)) for name in ("frame", "plain")
    )
    assert not frame.faultless and frame.stack == 256
    assert plain == cuda_build.Kernel("plain<float, 32>", "90", plain.registers, 0, 0, shared=128)


def test_kernels_register_with_a_torch_that_has_no_cuda(
    kernels: list[cuda_build.Kernel], source: Path
) -> None:
    operators = ["softmax_integral", "softmax_integral_backward", "warp_patch"]
    found = cuda_build.registered(source / "built/lib/libipr_ops.so", operators)
    assert found == dict.fromkeys(operators, True)


def test_reports_are_read() -> None:
    report = """
ptxas info    : Compiling entry function '_Z1fIfLi4EEvPT_' for 'sm_120'
ptxas info    : Function properties for _Z1fIfLi4EEvPT_
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 4096 bytes smem, 380 bytes cmem[0]
"""
    (kernel,) = cuda_build.read(report)
    assert kernel == ("f<float, 4>", "120", 255, 8, 28, 4096) and not kernel.faultless
    header, row = cuda_build.table([kernel]).splitlines()
    assert header.split() == ["registers", "sm_120"]
    assert row.split("  ")[-1].strip() == "255 stack 8 spills 28 shared 4096"


def test_the_one_list() -> None:
    archs = cuda_build.architectures()
    assert {"9.0"} < set(archs) and archs[-1].endswith("+PTX")
    assert all(re.fullmatch(r"\d+\.\d[a-f]?(\+PTX)?", arch) for arch in archs)
