// The inner loops of softmax_integral, compiled once per instruction set (IPR_ISA names it).
#include "cpu/softmax_integral_tile.h"

namespace ipr::cpu::IPR_ISA {
namespace {

/// Adds the exponentials of a tile to the sums per column, per row (lanes still apart) and per slice.
template <class Element, int kVectors, bool kTail, class Exp, class Real, class Vector>
void sum_tile(const Block& block, int64_t column, const Exp& exponential, Real* columns, Vector* rows,
              Real* slices) {
  const auto tile = tile_of<Element, kVectors, kTail>(block, column);
  const Element* const begin = static_cast<const Element*>(block.begin) + column;
  const Exp exp_of = exponential;  // in registers
  Vector totals[kVectors] = {};
  for (int64_t z = 0; z < block.outer; ++z) {
    const Element* row = begin + z * block.outer_stride;
    Vector sums[kVectors] = {};
    for (int64_t y = 0; y < block.mid; ++y, row += block.mid_stride) {
      tile.prefetch(row);
      Vector logits[kVectors];
      tile.load_row(row, logits);
      Vector row_sum;
#pragma GCC unroll 5
      for (int i = 0; i < kVectors; ++i) {
        const Vector value = tile.inside(exp_of(logits[i]), i);
        sums[i] += value;
        row_sum = i == 0 ? value : row_sum + value;
      }
      rows[y] += row_sum;
    }
    Vector slice_sum = {};
    for (int i = 0; i < kVectors; ++i) {
      totals[i] += sums[i];
      slice_sum += sums[i];
    }
    slices[z] += sum(slice_sum);
  }
  tile.store_sums(totals, columns + column);
}

/// Sums of exp(logit - reference); their total.
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

/// One pass, with the first row's maximum as the reference. Where that is not precise, the block's maximum is
/// sought and the block summed (again) with it.
template <class Element>
void forward(const Block& block, void* sums, void* scratch) {
  using Real = RealOf<Element>;
  constexpr Real kLowest = -__builtin_inf();
  Real* reference = static_cast<Real*>(sums);
  Real* columns = reference + 1;
  Real* rows = columns + block.inner;
  Real* slices = rows + block.mid;
  const auto sum_from = [&](Real from) {
    return FastExpFrom<Element>::fits(from)
               ? sum_block<Element>(block, FastExpFrom<Element>(from), columns, rows, slices, scratch)
               : sum_block<Element>(block, ExpFrom<Element>(from), columns, rows, slices, scratch);
  };
  *reference = maximum<Element>(block, 1, 1);
  if (*reference > kLowest && is_precise(*reference, sum_from(*reference), block)) return;
  *reference = maximum<Element>(block, block.outer, block.mid);
  sum_from(*reference > kLowest ? *reference : Real{0});
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
