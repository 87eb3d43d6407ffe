// What the kernels share that read channels_last logits in the order of their memory: all joints of a pixel,
// then the next pixel. Internal linkage throughout, as in simd.h.
#pragma once

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
  bool precise(const Pixels& block) const { return is_precise(*reference, total(block), block); }

  Real *reference, *inner, *mid, *outer;
};

}  // namespace
