// The inner loops of softmax_integral over channels_last heat maps, compiled once per instruction set
// (IPR_ISA names it): a vector holds neighbouring joints and, where pixels lie side by side, those of the
// next pixel.
#include "cpu/softmax_integral_pixels.h"

namespace ipr::cpu::IPR_ISA {
namespace {

/// A row of pixels as runs of logits without gaps. Lane l of a run's vector k is joint (k * lanes + l) %
/// joints: the same as in vector k % joints, so tables of lanes * joints numbers serve all, and a slot of
/// them, one vector, serves every joints-th vector.
template <class Stored>
struct Runs {
  using Real = RealOf<Stored>;
  static constexpr int64_t kLanes = Lanes<Real>::kCount;

  /// pixel_stride: of the gradient, where one is made: runs end where it has gaps too.
  explicit Runs(const Pixels& block, int64_t pixel_stride = 0)
      : block(block),
        dense(block.mid_stride == block.joints && (pixel_stride == 0 || pixel_stride == block.joints)),
        count(dense ? 1 : block.mid),
        length(dense ? block.mid * block.joints : block.joints) {}

  /// slot(lane, vectors) for the slots of each run, first lane `lane`; there vectors(visit) calls
  /// visit(logits, cell, inside) for the vectors of the slot: from `cell` of [mid, joints] on, with `inside`
  /// lanes in the run.
  template <class Slot>
  IPR_MEMBER void row(int64_t y, const Slot& slot) const {
    const Stored* run = static_cast<const Stored*>(block.begin) + y * block.outer_stride;
    const Stored* const end = static_cast<const Stored*>(block.end);
    const int64_t period = block.joints * kLanes;
    for (int64_t r = 0; r < count; ++r, run += block.mid_stride) {
      for (int64_t lane = 0; lane < period && lane < length; lane += kLanes) {
        slot(lane, [&](const auto& visit) IPR_MEMBER {
          int64_t k = lane;
          for (; k + kLanes <= length; k += period) {
            // Hardware does not see that these strides fill all of memory.
            __builtin_prefetch(reinterpret_cast<const char*>(run + k) + kPrefetchBytes, 0, 2);
            visit(load(run + k), r * length + k, kLanes);
          }
          if (k >= length) return;
          const Stored* const p = run + k;
          visit(end - p < kLanes ? load_first(p, length - k) : load(p), r * length + k, length - k);
        });
      }
    }
  }

  const Pixels& block;
  bool dense;
  int64_t count, length;
};

/// Per joint, from a table with numbers per lane, as Runs has them.
template <class Real, class Combine>
void fold(int64_t joints, const Real* lanes, Real* result, const Combine& combine) {
  constexpr int64_t kLanes = Lanes<Real>::kCount;
  for (int64_t j = 0; j < joints; j += kLanes) {
    auto folded = load(lanes + j);
    for (int64_t i = 1; i < kLanes; ++i) folded = combine(folded, load(lanes + i * joints + j));
    store(result + j, folded);
  }
}

template <class Real>
void spread(int64_t joints, const Real* of_joints, Real* lanes) {
  for (int64_t i = 0; i < Lanes<Real>::kCount; ++i)
    memcpy(lanes + i * joints, of_joints, joints * sizeof(Real));
}

template <class Stored>
struct Sums {
  using Real = RealOf<Stored>;
  using Vector = typename Lanes<Real>::Vector;
  static constexpr int64_t kLanes = Lanes<Real>::kCount;

  Sums(const Pixels& block, void* all_sums, int64_t step, void* scratch)
      : block(block),
        runs(block),
        all_sums(all_sums),
        step(step),
        arena{static_cast<char*>(scratch)},
        references(arena.zeros<Real>(block.joints)),
        largest(arena.zeros<Real>(block.joints)),
        lanes(arena.zeros<Real>(block.joints * kLanes)),
        reference_of_lanes(arena.zeros<Real>(block.joints * kLanes)),
        columns(arena.zeros<Real>(block.mid * block.joints)),
        rows(arena.zeros<Real>(block.outer * block.joints)) {}

  /// The largest logits of the first `height` rows, NaN left out, become the references of the joints that
  /// need one: those of others stay, so that they are what they would be beside any other joint.
  template <class Needs>
  void refer_to(int64_t height, const Needs& needs) {
    const Vector lowest = Vector{} - static_cast<Real>(__builtin_inf());
    for (int64_t i = 0; i < block.joints * kLanes; i += kLanes) store(lanes + i, lowest);
    for (int64_t y = 0; y < height; ++y) {
      runs.row(y, [&](int64_t lane, const auto& vectors) IPR_MEMBER {
        Vector found = load(lanes + lane);
        vectors([&](Vector v, int64_t, int64_t inside) IPR_MEMBER {
          if (inside < kLanes) v = first<Real>(inside) ? v : lowest;
          found = v > found ? v : found;
        });
        store(lanes + lane, found);
      });
    }
    fold(block.joints, lanes, largest, [](Vector a, Vector b) { return a > b ? a : b; });
    for (int64_t j = 0; j < block.joints; ++j) {
      if (!needs(record(j))) continue;
      *record(j).reference = largest[j];
      references[j] = largest[j] > -__builtin_inf() ? largest[j] : 0;
    }
    spread(block.joints, references, reference_of_lanes);
  }

  void sum() {
    memset(columns, 0, block.mid * block.joints * sizeof(Real));
    for (int64_t y = 0; y < block.outer; ++y) {
      memset(lanes, 0, block.joints * kLanes * sizeof(Real));
      runs.row(y, [&](int64_t lane, const auto& vectors) IPR_MEMBER {
        const Vector reference = load(reference_of_lanes + lane);
        Vector total = load(lanes + lane);
        vectors([&](Vector v, int64_t cell, int64_t inside) IPR_MEMBER {
          Vector value = exp(v - reference);
          if (inside < kLanes) value = first<Real>(inside) ? value : Vector{};
          store(columns + cell, load(columns + cell) + value);
          total += value;
        });
        store(lanes + lane, total);
      });
      fold(block.joints, lanes, rows + y * block.joints, [](Vector a, Vector b) { return a + b; });
    }
    for (int64_t j = 0; j < block.joints; ++j) {
      record(j).take(block, j, columns, rows);
      *record(j).inner = record(j).total(block);
    }
  }

  Record<Real> record(int64_t joint) const { return {block, all_sums, step, joint}; }

  const Pixels& block;
  Runs<Stored> runs;
  void* all_sums;
  int64_t step;
  Arena arena;
  Real *references, *largest, *lanes, *reference_of_lanes, *columns, *rows;
};

/// With the maxima of the first row as references; joints that they do not suit get those of all rows, and
/// everything is summed again.
template <class Stored>
void forward(const Pixels& block, void* all_sums, int64_t step, void* scratch) {
  using OfJoint = Record<RealOf<Stored>>;
  Sums<Stored> sums(block, all_sums, step, scratch);
  sums.refer_to(1, [](const OfJoint&) { return true; });
  sums.sum();
  const auto imprecise = [&](const OfJoint& record) { return !record.precise(block); };
  bool again = false;
  for (int64_t j = 0; j < block.joints; ++j) again |= imprecise(sums.record(j));
  if (!again) return;
  sums.refer_to(block.outer, imprecise);
  sums.sum();
}

template <class Stored, bool kStream, class Real = RealOf<Stored>>
void differentiate(const Pixels& block, const Gradient& gradient, const Tables& tables, void* scratch) {
  using Vector = typename Lanes<Real>::Vector;
  constexpr int64_t kLanes = Lanes<Real>::kCount;
  const int64_t joints = block.joints;
  const Runs<Stored> runs(block, gradient.mid_stride);
  Arena arena = {static_cast<char*>(scratch)};
  auto* const upstreams = arena.zeros<Upstream<Real>>(joints);
  Real* const of_joints = arena.zeros<Real>(joints);
  Real* const references = arena.zeros<Real>(joints * kLanes);
  Real* const live = arena.zeros<Real>(joints * kLanes);
  Real* const columns = arena.zeros<Real>(block.mid * joints);
  Real* const rows = arena.zeros<Real>(joints * kLanes);
  for (int64_t j = 0; j < joints; ++j) {
    const Upstream<Real> upstream(block, tables, j);
    memcpy(static_cast<void*>(upstreams + j), &upstream, sizeof(upstream));
    of_joints[j] = upstream.reference;
    for (int64_t x = 0; x < block.mid; ++x) {
      columns[x * joints + j] = (upstream.mid[x] + upstream.inner[0] + upstream.constant) * upstream.scale;
    }
  }
  spread(joints, of_joints, references);
  for (int64_t j = 0; j < joints; ++j) of_joints[j] = upstreams[j].zero ? 0 : 1;
  spread(joints, of_joints, live);
  for (int64_t y = 0; y < block.outer; ++y) {
    for (int64_t j = 0; j < joints; ++j) of_joints[j] = upstreams[j].outer[y] * upstreams[j].scale;
    spread(joints, of_joints, rows);
    Stored* const out = static_cast<Stored*>(gradient.begin) + y * gradient.outer_stride;
    runs.row(y, [&](int64_t lane, const auto& vectors) IPR_MEMBER {
      const Vector reference = load(references + lane), of_row = load(rows + lane);
      const auto skipped = load(live + lane) == Vector{};
      vectors([&](Vector v, int64_t cell, int64_t inside) IPR_MEMBER {
        Vector value = exp(v - reference) * (load(columns + cell) + of_row);
        value = skipped ? Vector{} : value;
        Stored* const p = out + (runs.dense ? cell : cell / joints * gradient.mid_stride + cell % joints);
        if (inside < kLanes) {
          store_first(p, value, inside);
        } else if constexpr (kStream) {
          stream(p, value);
        } else {
          store(p, value);
        }
      });
    });
  }
}

template <class Stored>
void backward(const Pixels& block, const Gradient& gradient, const Tables& tables, void* scratch) {
  if (can_stream<Stored>(gradient) && Runs<Stored>(block, gradient.mid_stride).dense) {
    differentiate<Stored, true>(block, gradient, tables, scratch);
    end_stream();
  } else {
    differentiate<Stored, false>(block, gradient, tables, scratch);
  }
}

}  // namespace

extern const PixelKernels kSoftmaxIntegralMaps = {
    {forward<float>, forward<double>, forward<BFloat16>, forward<Float16>},
    {backward<float>, backward<double>, backward<BFloat16>, backward<Float16>},
};

}  // namespace ipr::cpu::IPR_ISA
