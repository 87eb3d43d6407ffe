"""The operator's bench runs and measures what it says; its numbers on this machine prove nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bench import common, integral_peers, softmax_integral
from bench.common import Variant


def test_a_run_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bench.json"
    softmax_integral.main(["--rounds", "2", "--cases", "8x8x8", "--json", str(file)])
    (run,) = json.loads(file.read_text()).values()
    assert run["environment"]["torch"] == torch.__version__
    (results,) = run["results"].values()
    assert {"read", "copy", "original", "dsntnn", "ours", softmax_integral.IN_PLACE} == set(results)
    assert results["original"]["forward"]["ratio_to_original"] == 1.0
    assert results["ours"]["error_cells"] < 5e-5
    volumes = {name: row["both"]["extra_volumes"] for name, row in results.items() if "both" in row}
    assert volumes["original"] > 2.9 and volumes["ours"] < 1.2 and volumes[softmax_integral.IN_PLACE] < 0.2
    assert results["ours"]["forward"]["extra_volumes"] < 0.1
    assert "64x18x8x8x8 fp32" in capsys.readouterr().out


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--cases", "no such case"], ["--rounds", "1"]):
        with pytest.raises(SystemExit):
            softmax_integral.main(words)
        assert "cases among: 4x18x64x64x64 fp32;" in capsys.readouterr().err


def test_cases_of_both_devices() -> None:
    for device, batch, heat_maps in (("cpu", 4, 32), ("cuda", 32, 128)):
        cases = softmax_integral.cases(device)
        for layout in ("", " channels_last"):
            for dtype in ("fp32", "bf16", "fp16"):
                assert f"{batch}x18x64x64x64 {dtype}{layout}" in cases
        sizes = {case.shape for case in cases.values()}
        assert {(1, 18, 64, 64, 64), (64, 18, 16, 16, 16), (12, 18, 72, 96, 72)} <= sizes
        assert (heat_maps, 17, 64, 48) in sizes


@pytest.mark.parametrize("shape", [(2, 3, 4, 5, 6), (2, 3, 5, 6)])
def test_peers_are_right(shape: tuple[int, ...]) -> None:
    logits = torch.randn(shape, dtype=torch.float64)
    expected = softmax_integral.ours(logits)
    for name, peer in integral_peers.peers(has_depth=len(shape) == 5).items():
        torch.testing.assert_close(peer(logits), expected, msg=lambda text, name=name: f"{name}: {text}")


def test_peak_memory_counts_what_is_alive_at_once() -> None:
    def run(_: int) -> torch.Tensor:
        first = torch.ones(1000)
        second = first + 1
        del first
        return second.clone()

    assert 2 * 4000 <= common.peak_memory(Variant(run)) < 2 * 4000 + 64


def test_preparation_is_not_timed() -> None:
    calls: list[str] = []
    variant = Variant(lambda _: calls.append("run"), lambda _: calls.append("prepare"))
    times = common.measure({"x": variant}, rounds=2)
    assert calls == ["prepare", "run"] * 3
    assert times["x"].median < 1


def test_the_layer_before_costs_nothing_and_lets_its_output_be_written() -> None:
    weight, logits = torch.zeros((), requires_grad=True), torch.randn(2, 3)
    output = softmax_integral.FromNetwork.apply(weight, logits)
    assert output.requires_grad and not output.is_leaf and not output._is_view()
    assert output.data_ptr() == logits.data_ptr()
    (gradient,) = torch.autograd.grad(output.sum(), weight)
    assert gradient.item() == 0
