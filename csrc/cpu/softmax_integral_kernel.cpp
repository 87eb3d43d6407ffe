// The inner loops of softmax_integral, compiled once per instruction set (IPR_ISA names it).
#include "cpu/softmax_integral_tile.h"

namespace ipr::cpu::IPR_ISA {
namespace {

/// Adds the exponentials of kSlices slices of a tile to the sums per column, per row (lanes still apart) and
/// per slice.
template <int kSlices, class Element, int kVectors, bool kTail, class Exp, class Real, class Vector>
IPR_INLINE void sum_slices(const Block& block, const Tile<Element, kVectors, kTail>& tile, const Element* row,
                           const Exp& exp_of, Vector (&totals)[kVectors], Vector* rows, Real* slices) {
  Vector sums[kSlices][kVectors] = {};
  for (int64_t y = 0; y < block.mid; ++y, row += block.mid_stride) {
    Vector row_sum = rows[y];
#pragma GCC unroll 2
    for (int z = 0; z < kSlices; ++z) {
      const Element* const p = row + z * block.outer_stride;
      tile.prefetch(p);
      Vector logits[kVectors];
      tile.load_row(p, logits);
#pragma GCC unroll 5
      for (int i = 0; i < kVectors; ++i) {
        const Vector value = tile.inside(exp_of(logits[i]), i);
        sums[z][i] += value;
        row_sum += value;
      }
    }
    rows[y] = row_sum;
  }
  for (int z = 0; z < kSlices; ++z) {
    Vector slice_sum = {};
    for (int i = 0; i < kVectors; ++i) {
      totals[i] += sums[z][i];
      slice_sum += sums[z][i];
    }
    slices[z] += sum(slice_sum);
  }
}

/// The same for all slices of a tile, two at a time: what is read as two streams comes sooner.
template <class Element, int kVectors, bool kTail, class Exp, class Real, class Vector>
void sum_tile(const Block& block, int64_t column, const Exp& exponential, Real* columns, Vector* rows,
              Real* slices) {
  const auto tile = tile_of<Element, kVectors, kTail>(block, column);
  const Element* slice = static_cast<const Element*>(block.begin) + column;
  const Exp exp_of = exponential;  // in registers
  Vector totals[kVectors] = {};
  int64_t z = 0;
  for (; z + 2 <= block.outer; z += 2, slice += 2 * block.outer_stride) {
    sum_slices<2>(block, tile, slice, exp_of, totals, rows, slices + z);
  }
  if (z < block.outer) sum_slices<1>(block, tile, slice, exp_of, totals, rows, slices + z);
  tile.store_sums(totals, columns + column);
}

/// Sums of exponentials; their total.
template <class Element, class Exp, class Real = RealOf<Element>>
Real sum_block(const Block& block, const Exp& exponential, Real* columns, Real* rows, Real* slices,
               void* scratch) {
  using Vector = typename Lanes<Real>::Vector;
  Vector* row_sums = static_cast<Vector*>(scratch);
  memset(scratch, 0, block.mid * sizeof(Vector));
  memset(slices, 0, block.outer * sizeof(Real));
  for_each_tile<Real>(block.inner, [&]<int kVectors, bool kTail>(int64_t column) {
    sum_tile<Element, kVectors, kTail>(block, column, exponential, columns, row_sums, slices);
  });
  for (int64_t y = 0; y < block.mid; ++y) rows[y] = sum(row_sums[y]);
  Real total = 0;
  for (int64_t z = 0; z < block.outer; ++z) total += slices[z];
  return total;
}

/// One pass, with the first row's maximum as the reference, or 0 if that will do. Where that is not precise,
/// the block's maximum is sought and the block summed again with it.
template <class Element>
void forward(const Block& block, void* sums, void* scratch) {
  using Real = RealOf<Element>;
  constexpr Real kLowest = -__builtin_inf();
  Real* reference = static_cast<Real*>(sums);
  Real* columns = reference + 1;
  Real* rows = columns + block.inner;
  Real* slices = rows + block.mid;
  const auto sum_with = [&](const auto& exponential) {
    return sum_block<Element>(block, exponential, columns, rows, slices, scratch);
  };
  *reference = maximum<Element>(block, 1, 1);
  if (near_zero(*reference)) {
    *reference = 0;
    if (has_room(sum_with(FastExp<Real>()))) return;
  } else if (*reference > kLowest) {
    if (is_precise(*reference, sum_with(ExpFrom<Real>{*reference}), block)) return;
  }
  *reference = maximum<Element>(block, block.outer, block.mid);
  sum_with(ExpFrom<Real>{*reference > kLowest ? *reference : Real{0}});
}

template <class Element, int kVectors, bool kTail, bool kStream, class Real>
void gradient_tile(const Block& block, int64_t column, const Gradient& gradient, const Upstream<Real>& of,
                   const Real* inner) {
  using Vector = typename Lanes<Real>::Vector;
  const auto tile = tile_of<Element, kVectors, kTail>(block, column);
  const Element* const begin = static_cast<const Element*>(block.begin) + column;
  const Real reference = of.reference;  // in registers
  Vector columns[kVectors];
  for (int i = 0; i < kVectors; ++i) columns[i] = load(inner + column + i * tile.kLanes) * of.scale;
  for (int64_t z = 0; z < block.outer; ++z) {
    const Element* row = begin + z * block.outer_stride;
    Element* out = static_cast<Element*>(gradient.begin) + z * gradient.outer_stride + column;
    for (int64_t y = 0; y < block.mid; ++y, row += block.mid_stride, out += gradient.mid_stride) {
      tile.prefetch(row);
      const Real shift = (of.mid[y] + of.outer[z] + of.constant) * of.scale;
#pragma GCC unroll 5
      for (int i = 0; i < kVectors; ++i) {
        const Vector value = exp(tile.load_at(row, i) - reference) * (columns[i] + shift);
        tile.template store_at<kStream>(out, i, value);
      }
    }
  }
}

template <class Element>
void backward(const Block& block, const Gradient& gradient, const Tables& tables, void* scratch) {
  using Real = RealOf<Element>;
  const Upstream<Real> of(block, tables, 0);
  if (of.zero) {
    Element* const out = static_cast<Element*>(gradient.begin);
    for (int64_t z = 0; z < block.outer; ++z) {
      for (int64_t y = 0; y < block.mid; ++y) {
        memset(out + z * gradient.outer_stride + y * gradient.mid_stride, 0, block.inner * sizeof(Element));
      }
    }
    return;
  }
  constexpr int64_t kLanes = Lanes<Real>::kCount;
  Real* inner = static_cast<Real*>(scratch);  // padded to whole vectors
  memset(inner + block.inner, 0, kLanes * sizeof(Real));
  memcpy(inner, of.inner, block.inner * sizeof(Real));
  const auto run = [&]<bool kStream>() {
    for_each_tile<Real>(block.inner, [&]<int kVectors, bool kTail>(int64_t column) {
      gradient_tile<Element, kVectors, kTail, kStream>(block, column, gradient, of, inner);
    });
  };
  if (can_stream<Element>(gradient) && gradient.mid_stride % kLanes == 0) {
    run.template operator()<true>();
    end_stream();
  } else {
    run.template operator()<false>();
  }
}

}  // namespace

extern const Kernels kSoftmaxIntegral = {
    {forward<float>, forward<double>, forward<BFloat16>, forward<Float16>},
    {backward<float>, backward<double>, backward<BFloat16>, backward<Float16>},
};

}  // namespace ipr::cpu::IPR_ISA
