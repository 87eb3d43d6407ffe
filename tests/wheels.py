"""One wheel for every torch: builds it, and runs it with the oldest, a middle and the newest torch.

    python -m tests.wheels [version ...]      default: 2.11.0 2.13.0 newest

Each torch gets an environment of its own in build/wheels, which is removed afterwards: with the CUDA
libraries that torch's wheels ask for it takes 5 GB. A torch that cannot be fetched is skipped, with pip's
reason.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "wheels"
VERSIONS = ["2.11.0", "2.13.0", "newest"]
SMOKE = """
import warnings
import torch
from ipr.ops import _library, softmax_integral, softmax_integral_reference

logits = torch.randn(2, 3, 4, 5, 17, requires_grad=True)
for dtype in (torch.float32, torch.bfloat16):
    for layout in (torch.contiguous_format, torch.channels_last):
        given = logits.detach().to(dtype).flatten(1, 2).contiguous(memory_format=layout).requires_grad_()
        result, truth = softmax_integral(given, 3), softmax_integral_reference(given, 3)
        for value, expected in zip(result, truth):
            torch.testing.assert_close(value, expected, atol=2e-5, rtol=1e-5)
        loss = [r.mean.square().sum() + r.px.square().sum() + r.logsumexp.sum() for r in (result, truth)]
        gradient, expected = (torch.autograd.grad(part, given)[0] for part in loss)
        rtol = 1e-4 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=rtol)
torch.library.opcheck(torch.ops.ipr.softmax_integral, (logits,))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TorchScript is deprecated
    scripted = torch.jit.script(softmax_integral)
assert torch.equal(scripted(logits.detach()).mean, softmax_integral(logits).mean)
compiled = torch.compile(lambda x: softmax_integral(x).mean, backend="aot_eager", fullgraph=True)
assert torch.equal(compiled(logits), softmax_integral(logits).mean)
loss = lambda integral: lambda x: integral(x).mean.square().sum()
both = (softmax_integral, softmax_integral_reference)
results = [torch.func.vmap(torch.func.grad(loss(integral)))(logits[None]) for integral in both]
torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)
try:
    torch.func.jvp(loss(softmax_integral), (logits,), (logits,))
    raise AssertionError("forward mode gave something")
except NotImplementedError:
    pass
try:
    softmax_integral(torch.zeros(2, 7, 5, 5), 3)
except ValueError as error:
    assert "[2, 7, 5, 5]" in str(error)
print(torch.__version__, "CUDA", torch.version.cuda, "|", _library.build_info().cuda, "|", _library.PATH)
"""


def reason(*command: str | Path) -> str:
    """Of a failure, the command's last line; empty where it succeeds."""
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().splitlines()[-1] if done.returncode else ""


def build() -> Path:
    """The wheel, from a copy of the sources: build/ops stays that of the editable installation."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    source = FOLDER / "source"
    source.mkdir(parents=True)
    for path in (path for path in ROOT.iterdir() if path.is_file()):
        shutil.copy(path, source)
    built = shutil.ignore_patterns("lib", "include", "share", "__pycache__")
    for name in ("ipr", "csrc"):
        shutil.copytree(ROOT / name, source / name, ignore=built)
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet")
    subprocess.run([*pip, "--wheel-dir", FOLDER, source], check=True)
    (wheel,) = FOLDER.glob("*.whl")
    return wheel


def check(wheel: Path, version: str) -> bool | None:
    """Whether the wheel works with that torch; None where there is no such torch to be had."""
    start = time.monotonic()
    folder = FOLDER / f"torch-{version}"
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    try:
        pip = (python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", "--no-cache-dir")
        torch = "torch" if version == "newest" else f"torch=={version}"
        if why := reason(*pip, torch, "numpy"):
            print(f"torch {version}: skipped, cannot be installed: {why}", flush=True)
            return None
        if why := reason(*pip, "--no-deps", "--no-index", wheel):
            print(f"torch {version}: FAILED, the wheel does not install: {why}", flush=True)
            return False
        installed = time.monotonic()
        done = subprocess.run([python, "-c", SMOKE], cwd=FOLDER, capture_output=True, text=True)
        took = time.monotonic() - installed
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9
        times = f"{took:.0f} s (and {installed - start:.0f} s to install {size:.1f} GB)"
        outcome, said = ("FAILED", done.stderr) if done.returncode else ("ok", "")
        print(f"torch {version}: {outcome}, {times}: {(done.stdout + said).strip()}", flush=True)
        return done.returncode == 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    wheel = build()
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", flush=True)
    results = [check(wheel, version) for version in sys.argv[1:] or VERSIONS]
    return 1 if False in results or True not in results else 0


if __name__ == "__main__":
    raise SystemExit(main())
