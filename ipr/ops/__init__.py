"""The operators. Each stands beside its definition in plain PyTorch, ``<name>_reference``."""

from ipr.ops import _library
from ipr.ops.integral_head import integral_head, integral_head_reference
from ipr.ops.softmax_integral import IntegralResult, softmax_integral, softmax_integral_reference
from ipr.ops.warp_patch import Occluders, warp_patch, warp_patch_reference

IMPLEMENTATION: dict[str, str] = {
    "softmax_integral": f"compiled {_library.isa()}",
    "integral_head": "reference",
    "warp_patch": f"compiled {_library.isa()}",
}

__all__ = [
    "IMPLEMENTATION",
    "IntegralResult",
    "Occluders",
    "integral_head",
    "integral_head_reference",
    "softmax_integral",
    "softmax_integral_reference",
    "warp_patch",
    "warp_patch_reference",
]
