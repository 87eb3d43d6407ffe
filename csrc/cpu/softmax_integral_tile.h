// How the kernels of softmax_integral cut rows of logits into vectors, and what they make of a block's sums
// and tables. Internal linkage throughout, as in simd.h.
#pragma once

#include "cpu/simd.h"
#include "cpu/softmax_integral.h"

namespace {

constexpr int64_t kPrefetchBytes = 20480;

template <class Element>
using RealOf = typename Compute<Element>::Real;

/// A strip of columns, kVectors vectors wide; with kTail the last one is only partly inside the rows.
template <class Element, int kVectors, bool kTail>
struct Tile {
  using Real = RealOf<Element>;
  using Vector = typename Lanes<Real>::Vector;
  static constexpr int kLanes = Lanes<Real>::kCount;
  static constexpr int kPaired = kHasPairs<Element> ? (kVectors - kTail) / 2 * 2 : 0;

  /// From `column` on, in rows of `inner` columns; no byte from `end` on is read. `ahead`: elements from what
  /// is read to what is prefetched.
  Tile(int64_t inner, int64_t column, const void* end, int64_t ahead)
      : end(static_cast<const Element*>(end)),
        tail(inner - column - (kVectors - 1) * kLanes),
        in_tail(first<Real>(tail)),
        ahead(ahead) {}

  static constexpr bool is_tail(int i) { return kTail && i == kVectors - 1; }

  /// Vector i of a row; what is outside of the row is from other rows, or zero.
  IPR_MEMBER Vector load_at(const Element* row, int i) const {
    const Element* p = row + i * kLanes;
    return is_tail(i) && end - p < kLanes ? load_first(p, tail) : load(p);
  }
  /// A row's vectors; the first kPaired ones hold the elements at even and at odd places in turn.
  IPR_MEMBER void load_row(const Element* row, Vector (&vectors)[kVectors]) const {
    if constexpr (kPaired > 0) {
#pragma GCC unroll 5
      for (int i = 0; i < kPaired; i += 2) load_pair(row + i * kLanes, vectors[i], vectors[i + 1]);
    }
#pragma GCC unroll 5
    for (int i = kPaired; i < kVectors; ++i) vectors[i] = load_at(row, i);
  }
  /// Sums that were made of such vectors, in the order of the columns.
  void store_sums(const Vector (&sums)[kVectors], Real* columns) const {
    for (int i = 0; i < kPaired; i += 2) {
      for (int lane = 0; lane < kLanes; ++lane) {
        columns[i * kLanes + 2 * lane] = sums[i][lane];
        columns[i * kLanes + 2 * lane + 1] = sums[i + 1][lane];
      }
    }
    for (int i = kPaired; i < kVectors; ++i) {
      memcpy(columns + i * kLanes, &sums[i], (is_tail(i) ? tail : kLanes) * sizeof(Real));
    }
  }
  /// Vector i of a row that is as long; `kStream`: past the caches, where that is aligned.
  template <bool kStream>
  IPR_MEMBER void store_at(Element* row, int i, Vector value) const {
    Element* const p = row + i * kLanes;
    if (is_tail(i)) {
      store_first(p, value, tail);
    } else if constexpr (kStream) {
      stream(p, value);
    } else {
      store(p, value);
    }
  }
  /// Vector i with `other` outside of the row.
  IPR_MEMBER Vector inside(Vector v, int i, Vector other = Vector{}) const {
    return is_tail(i) ? (in_tail ? v : other) : v;
  }
  /// Hardware is late where 256 bytes are read of every few thousand (channels_last), and at every new page.
  IPR_MEMBER void prefetch(const Element* row) const {
    const char* p = reinterpret_cast<const char*>(row + ahead);
    for (int i = 0; i < kVectors * kLanes * int{sizeof(Element)}; i += 64) __builtin_prefetch(p + i, 0, 2);
  }

  const Element* end;
  int64_t tail;  // columns in the last vector
  typename Lanes<Real>::Ints in_tail;
  int64_t ahead;
};

/// Calls visit.template operator()<vectors, has_tail>(whole): rows of `inner` columns are `whole` tiles of
/// four vectors, and one of so many.
template <class Real, class Visit>
IPR_INLINE void with_last_tile(int64_t inner, const Visit& visit) {
  constexpr int64_t kLanes = Lanes<Real>::kCount;
  const int64_t whole = inner < 5 * kLanes ? 0 : inner / (4 * kLanes) - (inner % (4 * kLanes) < kLanes);
  const int64_t vectors = (inner - whole * 4 * kLanes + kLanes - 1) / kLanes;
  if (inner % kLanes == 0) {
    if (vectors == 1) visit.template operator()<1, false>(whole);
    if (vectors == 2) visit.template operator()<2, false>(whole);
    if (vectors == 3) visit.template operator()<3, false>(whole);
    if (vectors == 4) visit.template operator()<4, false>(whole);
  } else {
    if (vectors == 1) visit.template operator()<1, true>(whole);
    if (vectors == 2) visit.template operator()<2, true>(whole);
    if (vectors == 3) visit.template operator()<3, true>(whole);
    if (vectors == 4) visit.template operator()<4, true>(whole);
    if (vectors == 5) visit.template operator()<5, true>(whole);
  }
}

/// Calls visit.template operator()<vectors, has_tail>(first_column) for the tiles of rows of `inner` columns.
template <class Real, class Visit>
IPR_INLINE void for_each_tile(int64_t inner, const Visit& visit) {
  with_last_tile<Real>(inner, [&]<int kVectors, bool kTail>(int64_t whole) {
    constexpr int64_t kWidth = 4 * Lanes<Real>::kCount;
    for (int64_t i = 0; i < whole; ++i) visit.template operator()<4, false>(i * kWidth);
    visit.template operator()<kVectors, kTail>(whole * kWidth);
  });
}

/// The strip of a block's rows from `column` on.
template <class Element, int kVectors, bool kTail>
IPR_INLINE Tile<Element, kVectors, kTail> tile_of(const ipr::cpu::Block& block, int64_t column) {
  const int64_t row_bytes = block.inner * int64_t{sizeof(Element)};
  return {block.inner, column, block.end, block.mid_stride * (kPrefetchBytes / row_bytes + 1)};
}

/// The largest logit of `slices` slices of `rows` rows, NaN left out; -inf where there is none.
template <class Element, class Real = RealOf<Element>>
Real maximum(const ipr::cpu::Block& block, int64_t slices, int64_t rows) {
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

/// Whether sums of exponentials need no reference, if `first` is the largest of a few of the logits: if their
/// total turns out to have no room in float32, or to be NaN, they did.
template <class Real>
bool near_zero(Real first) {
  return __builtin_fabs(first) < 40;
}
template <class Real>
bool has_room(Real total) {
  return total <= static_cast<Real>(1e37);
}

/// Whether sums are precise that were made with a reference: not where later logits tower above it by 16
/// binary orders on average, nor where it is -inf. `of`: what was summed.
template <class Real, class Sizes>
bool is_precise(Real reference, Real total, const Sizes& of) {
  const Real limit = static_cast<Real>(65536) * of.inner * of.mid * of.outer;
  return reference > -__builtin_inf() && total <= limit;
}

/// What one joint's gradient in a block or in pixels is made of.
template <class Real>
struct Upstream {
  template <class Sizes>
  Upstream(const Sizes& of, const ipr::cpu::Tables& tables, int64_t joint)
      : inner(static_cast<const Real*>(tables.inner) + joint * tables.step),
        mid(static_cast<const Real*>(tables.mid) + joint * tables.step),
        outer(static_cast<const Real*>(tables.outer) + joint * tables.step),
        constant(static_cast<const Real*>(tables.constant)[joint * tables.step]),
        // Differences to a float32 reference are exact or nearly so; what the reference lacks of logsumexp is
        // a common factor.
        reference(static_cast<Real>(tables.logsumexp[joint])),
        scale(static_cast<Real>(__builtin_exp(static_cast<double>(reference) - tables.logsumexp[joint]))),
        zero(constant == 0 && all_zero(inner, of.inner) && all_zero(mid, of.mid) &&
             all_zero(outer, of.outer)) {}

  static bool all_zero(const Real* values, int64_t count) {
    bool zero = true;
    for (int64_t i = 0; i < count; ++i) zero &= values[i] == 0;
    return zero;
  }

  const Real *inner, *mid, *outer;
  Real constant, reference, scale;
  bool zero;  // the joint is to be skipped, whatever its logits are
};

/// Whether all vectors of rows can be stored past the caches if rows are multiples of a vector apart.
template <class Element>
bool can_stream(const ipr::cpu::Gradient& gradient) {
  constexpr int64_t kLanes = Lanes<RealOf<Element>>::kCount;
  return gradient.stream && gradient.outer_stride % kLanes == 0 &&
         reinterpret_cast<uintptr_t>(gradient.begin) % (kLanes * sizeof(Element)) == 0;
}

}  // namespace
