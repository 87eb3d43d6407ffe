// warp_patch on the CPU: what ops.cpp calls, and what each instruction set provides. Includes nothing of
// torch.
#pragma once

#include "cpu/parallel.h"
#include "warp.h"

namespace ipr::cpu {

void warp_patch(const Warp& warp, ParallelFor parallel_for);

/// Rows begin..end of a patch.
using WarpRows = void (*)(const Warp& warp, int64_t patch, int64_t begin, int64_t end);

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
