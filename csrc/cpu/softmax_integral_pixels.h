// What the kernels share that read channels_last logits in the order of their memory: all joints of a pixel,
// then the next pixel. Internal linkage throughout, as in simd.h.
#pragma once

#include "cpu/softmax_integral.h"
#include "cpu/softmax_integral_tile.h"

namespace {

using ipr::cpu::Pixels;

/// Arrays of zeros in the scratch, one after another, each with a vector more than was asked for.
struct Arena {
  template <class Value>
  Value* zeros(int64_t count) {
    Value* const begin = reinterpret_cast<Value*>(next);
    next += (count * int64_t{sizeof(Value)} / 64 + 2) * 64;
    memset(static_cast<void*>(begin), 0, next - reinterpret_cast<char*>(begin));
    return begin;
  }
  char* next;
};

/// One joint's sums.
template <class Real>
struct Record {
  Record(const Pixels& block, void* sums, int64_t step, int64_t joint)
      : reference(static_cast<Real*>(sums) + joint * step),
        inner(reference + 1),
        mid(inner + block.inner),
        outer(mid + block.mid) {}

  /// From sums of columns [mid, joints] and rows [outer, joints].
  void take(const Pixels& block, int64_t joint, const Real* columns, const Real* rows) const {
    for (int64_t x = 0; x < block.mid; ++x) mid[x] = columns[x * block.joints + joint];
    for (int64_t y = 0; y < block.outer; ++y) outer[y] = rows[y * block.joints + joint];
  }
  Real total(const Pixels& block) const {
    Real total = 0;
    for (int64_t y = 0; y < block.outer; ++y) total += outer[y];
    return total;
  }
  /// Whether the reference was a good one: see forward() in softmax_integral_kernel.cpp.
  bool precise(const Pixels& block) const {
    return *reference > -__builtin_inf() &&
           total(block) <= static_cast<Real>(65536) * block.inner * block.mid * block.outer;
  }

  Real *reference, *inner, *mid, *outer;
};

/// What one joint's gradient is made of.
template <class Real>
struct Upstream {
  Upstream(const Pixels& block, const ipr::cpu::Tables& tables, int64_t joint)
      : inner(static_cast<const Real*>(tables.inner) + joint * tables.step),
        mid(static_cast<const Real*>(tables.mid) + joint * tables.step),
        outer(static_cast<const Real*>(tables.outer) + joint * tables.step),
        constant(static_cast<const Real*>(tables.constant)[joint * tables.step]),
        // Differences to a float32 reference are exact or nearly so; what the reference lacks of logsumexp is
        // a common factor.
        reference(static_cast<Real>(tables.logsumexp[joint])),
        scale(static_cast<Real>(__builtin_exp(static_cast<double>(reference) - tables.logsumexp[joint]))),
        zero(constant == 0 && all_zero(inner, block.inner) && all_zero(mid, block.mid) &&
             all_zero(outer, block.outer)) {}

  static bool all_zero(const Real* values, int64_t count) {
    bool zero = true;
    for (int64_t i = 0; i < count; ++i) zero &= values[i] == 0;
    return zero;
  }

  const Real *inner, *mid, *outer;
  Real constant, reference, scale;
  bool zero;  // the joint is to be skipped, whatever its logits are
};

/// Whether all vectors of a row can be stored past the caches if those of its first pixel can.
template <class Element>
bool can_stream(const ipr::cpu::Gradient& gradient) {
  constexpr int64_t kLanes = Lanes<RealOf<Element>>::kCount;
  return gradient.stream && gradient.outer_stride % kLanes == 0 &&
         reinterpret_cast<uintptr_t>(gradient.begin) % (kLanes * sizeof(Element)) == 0;
}

}  // namespace
