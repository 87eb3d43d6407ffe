// The inner loops of softmax_integral over channels_last volumes, compiled once per instruction set (IPR_ISA
// names it): a vector holds neighbouring depths of a joint.
#include "cpu/softmax_integral_pixels.h"

namespace ipr::cpu::IPR_ISA {
namespace {

/// Adds the exponentials of some depths of kRows pixels, a row apart, to their sums, and to the pixels'
/// totals (lanes apart).
template <int kRows, class Element, int kVectors, bool kTail, class Exp, class Real, class Vector>
IPR_INLINE void add_depths(const Tile<Element, kVectors, kTail>& tile, const Element* depths, int64_t row,
                           const Exp& exp_of, Real* sums, Vector (&totals)[kRows]) {
  Vector found[kVectors];
#pragma GCC unroll 5
  for (int i = 0; i < kVectors; ++i) found[i] = load(sums + i * tile.kLanes);
#pragma GCC unroll 2
  for (int y = 0; y < kRows; ++y) {
    Vector logits[kVectors];
    tile.prefetch(depths + y * row);
    tile.load_row(depths + y * row, logits);
#pragma GCC unroll 5
    for (int i = 0; i < kVectors; ++i) {
      const Vector value = tile.inside(exp_of(logits[i]), i);
      totals[y] += value;
      found[i] += value;
    }
  }
#pragma GCC unroll 5
  for (int i = 0; i < kVectors; ++i) store(sums + i * tile.kLanes, found[i]);
}

template <class Element, int kVectors, bool kTail, class Real>
void copy_depths(const Tile<Element, kVectors, kTail>& tile, const Real* sums, Real* depths) {
  typename Lanes<Real>::Vector vectors[kVectors];
  for (int i = 0; i < kVectors; ++i) vectors[i] = load(sums + i * tile.kLanes);
  tile.store_sums(vectors, depths);
}

/// Sums of exponentials, without a reference, into the joints' records.
template <class Element, int kVectors, bool kTail, class Real = RealOf<Element>>
void sum_volumes(const Pixels& block, int64_t whole, void* all_sums, int64_t step, void* scratch) {
  constexpr int64_t kLanes = Lanes<Real>::kCount, kWidth = 4 * kLanes;
  constexpr int64_t kAhead = kPrefetchBytes / int64_t{sizeof(Element)};
  const int64_t joints = block.joints, depths = whole * kWidth + kVectors * kLanes;
  const Tile<Element, 4, false> tile(block.inner, 0, block.end, kAhead);
  const Tile<Element, kVectors, kTail> last(block.inner, whole * kWidth, block.end, kAhead);
  Arena arena = {static_cast<char*>(scratch)};
  Real* const inner = arena.zeros<Real>(joints * depths);
  Real* const mid = arena.zeros<Real>(joints * block.mid);
  Real* const outer = arena.zeros<Real>(joints * block.outer);
  const FastExp<Real> exp_of;
  const auto sum_rows = [&]<int kRows>(int64_t y) {
    const Element* pixel = static_cast<const Element*>(block.begin) + y * block.outer_stride;
    for (int64_t x = 0; x < block.mid; ++x, pixel += block.mid_stride) {
      for (int64_t j = 0; j < joints; ++j) {
        const Element* const logits = pixel + j * block.joint_stride;
        Real* const sums = inner + j * depths;
        typename Lanes<Real>::Vector totals[kRows] = {};
        for (int64_t i = 0; i < whole; ++i) {
          add_depths(tile, logits + i * kWidth, block.outer_stride, exp_of, sums + i * kWidth, totals);
        }
        add_depths(last, logits + whole * kWidth, block.outer_stride, exp_of, sums + whole * kWidth, totals);
        for (int i = 0; i < kRows; ++i) {
          const Real pixel_sum = sum(totals[i]);
          mid[x * joints + j] += pixel_sum;
          outer[(y + i) * joints + j] += pixel_sum;
        }
      }
    }
  };
  int64_t y = 0;
  for (; y + 2 <= block.outer; y += 2) sum_rows.template operator()<2>(y);
  if (y < block.outer) sum_rows.template operator()<1>(y);
  for (int64_t j = 0; j < joints; ++j) {
    const Record<Real> record(block, all_sums, step, j);
    *record.reference = 0;
    record.take(block, j, mid, outer);
    const Real* const sums = inner + j * depths;
    for (int64_t i = 0; i < whole; ++i) copy_depths(tile, sums + i * kWidth, record.inner + i * kWidth);
    copy_depths(last, sums + whole * kWidth, record.inner + whole * kWidth);
  }
}

/// A joint's volume.
template <class Element>
Block volume_of(const Pixels& block, int64_t joint) {
  const Element* const begin = static_cast<const Element*>(block.begin) + joint * block.joint_stride;
  return {block.outer, block.mid, block.inner, block.outer_stride, block.mid_stride, begin, block.end};
}

/// A joint that needs a reference is summed again, alone.
template <Element kElement, class Stored>
void forward(const Pixels& block, void* sums, int64_t step, void* scratch) {
  using Real = RealOf<Stored>;
  with_last_tile<Real>(block.inner, [&]<int kVectors, bool kTail>(int64_t whole) {
    sum_volumes<Stored, kVectors, kTail>(block, whole, sums, step, scratch);
  });
  for (int64_t j = 0; j < block.joints; ++j) {
    const Record<Real> record(block, sums, step, j);
    const Block alone = volume_of<Stored>(block, j);
    if (near_zero(maximum<Stored>(alone, 1, 1)) && has_room(record.total(block))) continue;
    kSoftmaxIntegral.forward[static_cast<int>(kElement)](alone, record.reference, scratch);
  }
}

template <class Stored, int kVectors, bool kTail, bool kStream, class Real>
IPR_INLINE void gradient_of_depths(const Tile<Stored, kVectors, kTail>& tile, const Stored* depths,
                                   Stored* out, const Real* inner, Real reference, Real shift) {
  tile.prefetch(depths);
#pragma GCC unroll 5
  for (int i = 0; i < kVectors; ++i) {
    const auto value = exp(tile.load_at(depths, i) - reference) * (load(inner + i * tile.kLanes) + shift);
    tile.template store_at<kStream>(out, i, value);
  }
}

template <class Stored, int kVectors, bool kTail, bool kStream, class Real = RealOf<Stored>>
void differentiate(const Pixels& block, int64_t whole, const Gradient& gradient, const Tables& tables,
                   void* scratch) {
  constexpr int64_t kLanes = Lanes<Real>::kCount, kWidth = 4 * kLanes;
  constexpr int64_t kAhead = kPrefetchBytes / int64_t{sizeof(Stored)};
  const int64_t joints = block.joints, depths = whole * kWidth + kVectors * kLanes;
  const Tile<Stored, 4, false> tile(block.inner, 0, block.end, kAhead);
  const Tile<Stored, kVectors, kTail> last(block.inner, whole * kWidth, block.end, kAhead);
  Arena arena = {static_cast<char*>(scratch)};
  auto* const upstreams = arena.zeros<Upstream<Real>>(joints);
  Real* const inner = arena.zeros<Real>(joints * depths);  // scaled
  for (int64_t j = 0; j < joints; ++j) {
    const Upstream<Real> upstream(block, tables, j);
    memcpy(static_cast<void*>(upstreams + j), &upstream, sizeof(upstream));
    for (int64_t z = 0; z < block.inner; ++z) inner[j * depths + z] = upstream.inner[z] * upstream.scale;
  }
  for (int64_t y = 0; y < block.outer; ++y) {
    const Stored* pixel = static_cast<const Stored*>(block.begin) + y * block.outer_stride;
    Stored* out_pixel = static_cast<Stored*>(gradient.begin) + y * gradient.outer_stride;
    for (int64_t x = 0; x < block.mid; ++x, pixel += block.mid_stride, out_pixel += gradient.mid_stride) {
      for (int64_t j = 0; j < joints; ++j) {
        const Upstream<Real>& of = upstreams[j];
        const Stored* const logits = pixel + j * block.joint_stride;
        Stored* const out = out_pixel + j * gradient.joint_stride;
        if (of.zero) {
          memset(out, 0, block.inner * sizeof(Stored));
          continue;
        }
        const Real shift = (of.mid[x] + of.outer[y] + of.constant) * of.scale, reference = of.reference;
        const Real* const factors = inner + j * depths;
        for (int64_t i = 0; i < whole; ++i) {
          gradient_of_depths<Stored, 4, false, kStream>(tile, logits + i * kWidth, out + i * kWidth,
                                                        factors + i * kWidth, reference, shift);
        }
        gradient_of_depths<Stored, kVectors, kTail, kStream>(
            last, logits + whole * kWidth, out + whole * kWidth, factors + whole * kWidth, reference, shift);
      }
    }
  }
}

template <class Stored>
void backward(const Pixels& block, const Gradient& gradient, const Tables& tables, void* scratch) {
  using Real = RealOf<Stored>;
  constexpr int64_t kLanes = Lanes<Real>::kCount;
  const bool stream = can_stream<Stored>(gradient) && gradient.mid_stride % kLanes == 0 &&
                      gradient.joint_stride % kLanes == 0;
  with_last_tile<Real>(block.inner, [&]<int kVectors, bool kTail>(int64_t whole) {
    if (stream) {
      differentiate<Stored, kVectors, kTail, true>(block, whole, gradient, tables, scratch);
    } else {
      differentiate<Stored, kVectors, kTail, false>(block, whole, gradient, tables, scratch);
    }
  });
  if (stream) end_stream();
}

}  // namespace

extern const PixelKernels kSoftmaxIntegralVolumes = {
    {forward<Element::kFloat32, float>, forward<Element::kFloat64, double>,
     forward<Element::kBFloat16, BFloat16>, forward<Element::kFloat16, Float16>},
    {backward<float>, backward<double>, backward<BFloat16>, backward<Float16>},
};

}  // namespace ipr::cpu::IPR_ISA
