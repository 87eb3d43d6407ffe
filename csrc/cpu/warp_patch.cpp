// Work sharing for warp_patch; the arithmetic on the pixels is in warp_patch_kernel.cpp.
#include "cpu/warp_patch.h"

#include <algorithm>

#include "cpu/isa.h"

namespace ipr::cpu {
namespace {

constexpr int64_t kRowsAtOnce = 32;

}  // namespace

void warp_patch(const Warp& warp, ParallelFor parallel_for) {
  const WarpRows rows = IPR_OF_ISA(kWarpRows);
  const int64_t parts = (warp.height + kRowsAtOnce - 1) / kRowsAtOnce;
  run(parallel_for, warp.batch * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t first = index % parts * kRowsAtOnce;
      rows(warp, index / parts, first, std::min(first + kRowsAtOnce, warp.height));
    }
  });
}

}  // namespace ipr::cpu
