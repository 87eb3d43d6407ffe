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

/// What the gradient of a block is made of: softmax(logits) * (inner[i] + mid[j] + outer[k] + constant).
struct Tables {
  const void *inner, *mid, *outer, *constant;
  double logsumexp;
};

/// Some consecutive slices of one joint's volume.
struct Block {
  int64_t outer, mid, inner;
  int64_t outer_stride, mid_stride;
  const void* begin;
  const void* end;  // of all logits: no byte from here on may be read
};

/// Where the gradient of a block goes; strides in elements. `stream`: past the caches.
struct Gradient {
  void* begin;
  int64_t outer_stride, mid_stride;
  bool stream;
};

/// One instruction set's kernels, indexed by Element. Real is float, or double for kFloat64.
struct Kernels {
  /// sums = Real {reference, inner[], mid[], outer[]}: sums of exp(logit - reference) over the other two
  /// axes. reference is -inf where the block holds nothing but -inf. scratch: scratch_bytes().
  void (*forward[4])(const Block& block, void* sums, void* scratch);
  /// The tables are those of this block's row, from the block's first slice on. scratch as above.
  void (*backward[4])(const Block& block, const Gradient& gradient, const Tables& tables, void* scratch);
};

/// Scratch of a kernel, to be aligned to 64: one vector per row, and per column a Real.
constexpr int64_t scratch_bytes(int64_t mid, int64_t inner) { return 64 * (mid + inner / 8 + 4); }

namespace baseline {
extern const Kernels kSoftmaxIntegral;
}
namespace avx2 {
extern const Kernels kSoftmaxIntegral;
}
namespace avx512 {
extern const Kernels kSoftmaxIntegral;
}

}  // namespace ipr::cpu
