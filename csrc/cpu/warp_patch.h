// warp_patch on the CPU: what ops.cpp calls, and what each instruction set provides. Includes nothing of
// torch.
#pragma once

#include "cpu/parallel.h"
#include "warp.h"

namespace ipr::cpu {

void warp_patch(const Warp& warp, ParallelFor parallel_for);

/// Rows begin..end of a patch. scratch: warp_scratch_bytes(), aligned to 64.
using WarpRows = void (*)(const Warp& warp, int64_t patch, int64_t begin, int64_t end, void* scratch);

/// Three rows of colours, padded to whole vectors, and the curve of gamma.
constexpr int64_t warp_scratch_bytes(int64_t width) { return 4 * (3 * (width + 16) + 257 + 16); }

namespace baseline {
extern const WarpRows kWarpRows;
}
namespace avx2 {
extern const WarpRows kWarpRows;
}
namespace avx512 {
extern const WarpRows kWarpRows;
}

}  // namespace ipr::cpu
