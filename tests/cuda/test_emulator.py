"""The emulator of CUDA kernels: small kernels run right in it, and planted faults are caught."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cuda.conftest import HERE, Compile, run

ORDERS = ("ascending", "descending", "1", "2")

# What a fault says under the orders that show it.
FAULTS = {
    "no_barrier_before_reading": r"wrong result: sum: -?nan instead of 8128",
    "no_barrier_before_writing": r"wrong result: rotate: ",
    "no_warp_barrier": r"wrong result: mirror: ",
    "no_cluster_barrier_first": r"block 0, thread \d+: at_rank .* a block that may not have started",
    "no_cluster_barrier_last": r"at_rank .* names a block that has ended",
    "past_the_input": r"AddressSanitizer: heap-buffer-overflow .* in uint4 __ldcs",
    "before_the_input": r"AddressSanitizer: heap-buffer-overflow .*emulator_test.cpp:\d+ in .*sum_blocks",
    "past_shared": r"AddressSanitizer: heap-buffer-overflow .*emulator_test.cpp:\d+ in .*sum_blocks",
    "past_the_result": r"AddressSanitizer: heap-buffer-overflow .*emulator_test.cpp:\d+ in .*sum_blocks",
    "uninitialised": r"wrong result: sum: -?nan instead of 8128",
    "misaligned": r"misaligned address \w+ for type 'const struct uint4'",
    "thread_leaves_barrier_out": r"threads wait for others that never come:\n"
    r"  block 0, thread 0 and 254 more: __syncthreads \(.*emulator_test.cpp:\d+, void .*sum_blocks\(.*\)\)\n"
    r"  block 0, thread 41 and 0 more: ended",
    "threads_in_two_barriers": r"block 0, thread 32: waits in another barrier than others .*sum_blocks",
    "lane_leaves_shuffle_out": r"block 0, thread 32 and 30 more: __shfl_xor_sync .*\n.*thread 37 .*: ended",
    "lane_outside_mask": r"__shfl_xor_sync .* is called by a lane that is not in the mask",
    "source_outside_mask": r"__shfl_down_sync .* reads from a lane that is not in the mask",
    "order_of_blocks": r"wrong result: blocks: -1 instead of 5",
}


@pytest.fixture(scope="module")
def program(compile_program: Compile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program([HERE / "emulator_test.cpp"], tmp_path_factory.mktemp("test") / "emulator_test")


@pytest.mark.parametrize("order", ORDERS)
def test_kernels_without_a_fault(program: Path, order: str) -> None:
    done = run(program, order)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == b"all right\n" and done.stderr == b""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(program: Path, fault: str) -> None:
    said = []
    for order in ORDERS:
        done = run(program, order, fault)
        said.append((done.stdout + done.stderr).decode())
        if done.returncode != 0 and re.search(FAULTS[fault], said[-1]):
            return
    pytest.fail("\n".join(said))


def test_every_fault_is_tested(program: Path) -> None:
    listed = re.search(r"kNames\[\] = \{(.*?)\}", (HERE / "emulator_test.cpp").read_text(), re.DOTALL)
    assert listed and set(re.findall(r'"(\w+)"', listed[1])) == {"none", *FAULTS}
    done = run(program, "ascending", "no_such_fault")
    assert done.returncode == 2 and b"no such fault" in done.stdout
