// softmax_integral on the CPU: what ops.cpp calls, and what each instruction set provides. Includes nothing
// of torch.
#pragma once

#include <cstdint>

#include "cpu/parallel.h"
#include "volumes.h"

namespace ipr::cpu {

void softmax_integral(const Volumes& volumes, Element element, const void* logits, const Integral& result,
                      ParallelFor parallel_for);

/// `gradient` has the sizes of `logits`; it may be the logits, with their strides.
void softmax_integral_backward(const Volumes& volumes, Element element, const void* logits,
                               const Volumes& gradient_volumes, void* gradient, const Integral& result,
                               const Integral& upstream, ParallelFor parallel_for);

/// What the gradient of a joint's block is made of: softmax(logits) * (inner[i] + mid[j] + outer[k] +
/// constant), from the block's first slice on; the next joint's numbers follow `step` Reals behind (those of
/// logsumexp one).
struct Tables {
  const void *inner, *mid, *outer, *constant;
  const double* logsumexp;
  int64_t step;
};

/// Some consecutive slices of one joint's volume.
struct Block {
  int64_t outer, mid, inner;
  int64_t outer_stride, mid_stride;
  const void* begin;
  const void* end;  // of all logits: no byte from here on may be read
};

/// Some consecutive rows of pixels with all their joints (channels_last).
struct Pixels {
  int64_t joints, outer, mid, inner;
  int64_t joint_stride, outer_stride, mid_stride;
  const void* begin;
  const void* end;
};

/// Where the gradient of a block goes; strides in elements. `stream`: past the caches.
struct Gradient {
  void* begin;
  int64_t joint_stride, outer_stride, mid_stride;
  bool stream;
};

/// One instruction set's kernels, indexed by Element. Real is float, or double for kFloat64.
struct Kernels {
  /// sums = Real {reference, inner[], mid[], outer[]}: sums of exp(logit - reference) over the other two
  /// axes. reference is -inf where the block holds nothing but -inf. scratch: scratch_bytes().
  void (*forward[4])(const Block& block, void* sums, void* scratch);
  void (*backward[4])(const Block& block, const Gradient& gradient, const Tables& tables, void* scratch);
};

/// The same for all joints at once; their sums begin `step` Reals after each other's.
struct PixelKernels {
  void (*forward[4])(const Pixels& block, void* sums, int64_t step, void* scratch);
  void (*backward[4])(const Pixels& block, const Gradient& gradient, const Tables& tables, void* scratch);
};

/// Scratch of a kernel, to be aligned to 64: one vector per row, and per column a Real.
constexpr int64_t scratch_bytes(int64_t mid, int64_t inner) { return 64 * (mid + inner / 8 + 4); }
/// Of one for all joints. Each has a sum per column, row and depth, and some vectors.
constexpr int64_t pixel_scratch_bytes(int64_t joints, int64_t outer, int64_t mid, int64_t inner) {
  return 8 * joints * (outer + mid + inner + 128) + scratch_bytes(mid, inner) + 2048;
}

#define IPR_KERNELS                                  \
  extern const Kernels kSoftmaxIntegral;             \
  extern const PixelKernels kSoftmaxIntegralVolumes; \
  extern const PixelKernels kSoftmaxIntegralMaps; /* of inner = 1, where the joints are contiguous */
namespace baseline {
IPR_KERNELS
}
namespace avx2 {
IPR_KERNELS
}
namespace avx512 {
IPR_KERNELS
}
#undef IPR_KERNELS

}  // namespace ipr::cpu
