// softmax_integral on the CPU: what ops.cpp calls, and what each instruction set provides. Includes nothing
// of torch.
#pragma once

#include <cstdint>

namespace ipr::cpu {

enum class Element { kFloat32, kFloat64, kBFloat16, kFloat16 };

/// Volumes [batch, joints, outer, mid, inner]; strides in elements, the inner axis is contiguous.
/// An NCHW network gives outer, mid, inner = z, y, x; a channels_last network gives y, x, z.
struct Volumes {
  int64_t batch, joints, outer, mid, inner;
  int64_t batch_stride, joint_stride, outer_stride, mid_stride;
};

/// Runs body(begin, end, context) over parts of begin..end on several threads, each at least `grain` long.
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

/// Results per joint [batch * joints, ...], float32 (float64 for float64 logits): the marginals of the three
/// axes, and their means at mean[3 * joint + mean_axis]. logsumexp is float64.
struct Integral {
  void *inner, *mid, *outer, *mean;
  int inner_axis, mid_axis, outer_axis;
  double* logsumexp;
};

void softmax_integral(const Volumes& volumes, Element element, const void* logits, const Integral& result,
                      ParallelFor parallel_for);

/// Upstream gradients per joint and axis, float32 (float64 for float64 logits).
struct Upstream {
  const void *inner, *mid, *outer, *constant;
  const double* logsumexp;
};

/// gradient = softmax(logits) * (inner[i] + mid[j] + outer[k] - constant); `gradient` has the sizes of
/// `logits`.
void softmax_integral_backward(const Volumes& logits_volumes, Element element, const void* logits,
                               const Volumes& gradient_volumes, void* gradient, const Upstream& upstream,
                               ParallelFor parallel_for);

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
  /// The tables of `upstream` point at this joint's entries (outer: at this block's). scratch as above.
  void (*backward[4])(const Block& block, const Gradient& gradient, const Upstream& upstream, void* scratch);
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

/// The instruction set in use ("" if IPR_ISA names one that is not available), and a change of it (false: not
/// available).
const char* isa();
bool use_isa(const char* name);

}  // namespace ipr::cpu
