"""The bench of warp_patch runs and its peers are right; its numbers on this machine prove nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import warp_patch, warp_patch_cuda
from bench.decode import photograph
from bench.warp_patch_cuda import SIDE, SIZE


def test_a_run_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    warp_patch.run_on_cpu(rounds=2, file=file)
    (run,) = json.loads(file.read_text()).values()
    assert {"original", "good OpenCV", "reference", "ours"} < set(run["results"]["per patch"])
    assert run["results"]["psnr_db"]["antialias"] > run["results"]["psnr_db"]["bilinear"] + 20
    assert "good OpenCV/it" in capsys.readouterr().out


def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SystemExit):
        warp_patch.main(["--device", "cuda"])
    assert "torch sees no GPU" in capsys.readouterr().err


def test_variants_of_the_gpu_bench_agree() -> None:
    """On the CPU: all see the same, those of half precision to its rounding."""
    given = warp_patch_cuda.draw(photograph(SIDE), 2, "cpu", 0)
    others, missing = warp_patch_cuda.peers()
    assert {*others, *missing} == {"grid_sample", "kornia", "torchvision"}
    calls = warp_patch_cuda.variants([given], others)
    expected = calls["ours"](0)
    for name, call in calls.items():
        patches = call(0)
        assert patches.shape == (2, 3, *SIZE)
        if name not in ("ours, gamma", "ours, antialias", "torchvision"):  # which rounds its centre otherwise
            assert warp_patch_cuda.difference(patches, expected) < 0.3, name
    covered = warp_patch_cuda.BOX**2 * 3 * sum(scale**2 for scale, _, _ in given.draws)
    assert given.seen_bytes() == pytest.approx(covered, rel=0.01)
