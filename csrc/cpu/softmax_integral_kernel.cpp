// The inner loops of softmax_integral, compiled once per instruction set (IPR_ISA names it).
#include "cpu/softmax_integral.h"
#include "cpu/softmax_integral_tile.h"

namespace ipr::cpu::IPR_ISA {
namespace {

/// The strip of a block's rows from `column` on.
template <class Element, int kVectors, bool kTail>
IPR_INLINE Tile<Element, kVectors, kTail> tile_of(const Block& block, int64_t column) {
  const int64_t row_bytes = block.inner * int64_t{sizeof(Element)};
  return {block.inner, column, block.end, block.mid_stride * (kPrefetchBytes / row_bytes + 1)};
}

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

/// The largest logit of `slices` slices of `rows` rows, NaN left out; -inf where there is none.
template <class Element, class Real = RealOf<Element>>
Real maximum(const Block& block, int64_t slices, int64_t rows) {
  using Vector = typename Lanes<Real>::Vector;
  constexpr int kLanes = Lanes<Real>::kCount;
  const Vector lowest = Vector{} - static_cast<Real>(__builtin_inf());
  Vector largest = lowest;
  for_each_tile<Real>(block.inner, [&]<int kVectors, bool kTail>(int64_t column) {
    const auto tile = tile_of<Element, kVectors, kTail>(block, column);
    const Element* const begin = static_cast<const Element*>(block.begin) + column;
    for (int64_t z = 0; z < slices; ++z) {
      for (int64_t y = 0; y < rows; ++y) {
        const Element* row = begin + z * block.outer_stride + y * block.mid_stride;
        for (int i = 0; i < kVectors; ++i) {
          const Vector v = tile.inside(tile.load_at(row, i), i, lowest);
          largest = v > largest ? v : largest;
        }
      }
    }
  });
  Real result = largest[0];
  for (int i = 1; i < kLanes; ++i) result = largest[i] > result ? largest[i] : result;
  return result;
}

/// One pass, with the first row's maximum as the reference. Where later logits tower above it by so much that
/// precision suffers (16 binary orders on average), or where that row is -inf throughout, the block's maximum
/// is sought and the block summed (again) with that.
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
  if (*reference > kLowest) {
    const Real limit = static_cast<Real>(65536) * block.inner * block.mid * block.outer;
    if (sum_from(*reference) <= limit) return;
  }
  *reference = maximum<Element>(block, block.outer, block.mid);
  sum_from(*reference > kLowest ? *reference : Real{0});
}

template <class Element, int kVectors, bool kTail, bool kStream, class Real>
void gradient_tile(const Block& block, int64_t column, const Gradient& gradient, Real reference,
                   const Real* a, const Real* b, const Real* c, Real constant, Real scale) {
  using Vector = typename Lanes<Real>::Vector;
  const auto tile = tile_of<Element, kVectors, kTail>(block, column);
  const Element* const begin = static_cast<const Element*>(block.begin) + column;
  constexpr int kLanes = Lanes<Real>::kCount;
  Vector columns[kVectors];
  for (int i = 0; i < kVectors; ++i) columns[i] = load(a + column + i * kLanes) * scale;
  for (int64_t z = 0; z < block.outer; ++z) {
    const Element* row = begin + z * block.outer_stride;
    Element* out = static_cast<Element*>(gradient.begin) + z * gradient.outer_stride + column;
    for (int64_t y = 0; y < block.mid; ++y, row += block.mid_stride, out += gradient.mid_stride) {
      tile.prefetch(row);
      const Real shift = (b[y] + c[z] + constant) * scale;
#pragma GCC unroll 5
      for (int i = 0; i < kVectors; ++i) {
        const Vector value = exp(tile.load_at(row, i) - reference) * (columns[i] + shift);
        if (tile.is_tail(i)) {
          store_first(out + i * kLanes, value, tile.tail);
        } else if constexpr (kStream) {
          stream(out + i * kLanes, value);
        } else {
          store(out + i * kLanes, value);
        }
      }
    }
  }
}

template <class Real>
bool all_zero(const Real* values, int64_t count) {
  bool zero = true;
  for (int64_t i = 0; i < count; ++i) zero &= values[i] == 0;
  return zero;
}

template <class Element>
void backward(const Block& block, const Gradient& gradient, const Tables& tables, void* scratch) {
  using Real = RealOf<Element>;
  const auto* b = static_cast<const Real*>(tables.mid);
  const auto* c = static_cast<const Real*>(tables.outer);
  const Real constant = *static_cast<const Real*>(tables.constant);
  auto* out = static_cast<Element*>(gradient.begin);
  if (constant == 0 && all_zero(static_cast<const Real*>(tables.inner), block.inner) &&
      all_zero(b, block.mid) && all_zero(c, block.outer)) {
    for (int64_t z = 0; z < block.outer; ++z) {
      for (int64_t y = 0; y < block.mid; ++y) {
        memset(out + z * gradient.outer_stride + y * gradient.mid_stride, 0, block.inner * sizeof(Element));
      }
    }
    return;
  }
  // Differences to a float32 reference are exact or nearly so; what the reference lacks of logsumexp is a
  // common factor.
  const Real reference = static_cast<Real>(*tables.logsumexp);
  const Real scale = static_cast<Real>(__builtin_exp(static_cast<double>(reference) - *tables.logsumexp));
  Real* a = static_cast<Real*>(scratch);  // padded to whole vectors
  memset(a + block.inner, 0, Lanes<Real>::kCount * sizeof(Real));
  memcpy(a, tables.inner, block.inner * sizeof(Real));
  const auto run = [&]<bool kStream>() {
    for_each_tile<Real>(block.inner, [&]<int kVectors, bool kTail>(int64_t column) {
      gradient_tile<Element, kVectors, kTail, kStream>(block, column, gradient, reference, a, b, c, constant,
                                                       scale);
    });
  };
  constexpr int64_t kLanes = Lanes<Real>::kCount;
  const bool aligned = reinterpret_cast<uintptr_t>(out) % (kLanes * sizeof(Element)) == 0 &&
                       gradient.outer_stride % kLanes == 0 && gradient.mid_stride % kLanes == 0;
  if (gradient.stream && aligned) {
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
