// Work sharing and merging for softmax_integral; the arithmetic over the volumes is in
// softmax_integral_kernel.cpp.
#include "cpu/softmax_integral.h"

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "cpu/isa.h"

namespace ipr::cpu {
namespace {

/// Enough to hide what a block costs besides its elements, few enough that B * J = 1 occupies some threads.
constexpr int64_t kBlockElements = 32768;
/// Where a block has all joints, so many that merging costs little, few enough that B = 1 occupies threads.
constexpr int64_t kPixelBlockElements = 262144;

/// How volumes are cut into blocks: each gives its sums with a reference of its own, which are then merged in
/// order. The cut depends on nothing but the sizes, so results are the same on any number of threads.
struct Blocks {
  explicit Blocks(const Volumes& v)
      : volumes(v),
        by_pixels(v.joint_stride < v.mid_stride),
        rows(by_pixels ? v.batch : v.batch * v.joints),
        row_elements(v.mid * v.inner * (by_pixels ? v.joints : 1)) {
    const int64_t wanted = (by_pixels ? kPixelBlockElements : kBlockElements) / row_elements;
    const int64_t slices = std::clamp<int64_t>(wanted, 1, v.outer);
    per_row = (v.outer + slices - 1) / slices;
  }

  int64_t count() const { return rows * per_row; }
  /// Blocks that make a thread worth waking.
  int64_t grain() const {
    return std::max<int64_t>(1, kBlockElements * per_row / (volumes.outer * row_elements));
  }

  const Volumes& volumes;
  bool by_pixels;  // channels_last: a block has some rows of pixels with all joints, in the order of memory
  int64_t rows, row_elements, per_row;
};

/// A block: the slices from `first` on of a joint, or of all joints of a person.
struct Position {
  Position(const Blocks& blocks, int64_t index)
      : part(index % blocks.per_row),
        first_joint(index / blocks.per_row * (blocks.by_pixels ? blocks.volumes.joints : 1)),
        first(blocks.volumes.outer * part / blocks.per_row),
        slices(blocks.volumes.outer * (part + 1) / blocks.per_row - first) {}

  int64_t offset(const Volumes& v) const {
    return first_joint / v.joints * v.batch_stride + first_joint % v.joints * v.joint_stride +
           first * v.outer_stride;
  }

  int64_t part;
  int64_t first_joint;  // batch * joints + joint
  int64_t first, slices;
};

/// A block of the logits, and the kernels for it.
struct Work {
  Work(const Volumes& v, Element element, const void* logits)
      : volumes(v),
        blocks(v),
        size(element_size(element)),
        kernel(static_cast<int>(element)),
        logits(logits) {
    const int64_t elements = (v.batch - 1) * v.batch_stride + (v.joints - 1) * v.joint_stride +
                             (v.outer - 1) * v.outer_stride + (v.mid - 1) * v.mid_stride + v.inner;
    end = static_cast<const char*>(logits) + elements * size;
  }

  int64_t scratch() const {
    const Volumes& v = volumes;
    return blocks.by_pixels ? pixel_scratch_bytes(v.joints, v.outer, v.mid, v.inner)
                            : scratch_bytes(v.mid, v.inner);
  }
  const char* begin(const Position& at) const {
    return static_cast<const char*>(logits) + at.offset(volumes) * size;
  }
  Block block(const Position& at) const {
    const Volumes& v = volumes;
    return {at.slices, v.mid, v.inner, v.outer_stride, v.mid_stride, begin(at), end};
  }
  Pixels pixels(const Position& at) const {
    const Volumes& v = volumes;
    return {v.joints,       at.slices,    v.mid,     v.inner, v.joint_stride,
            v.outer_stride, v.mid_stride, begin(at), end};
  }
  const PixelKernels& pixel_kernels() const {
    return volumes.inner == 1 && volumes.joint_stride == 1 ? IPR_OF_ISA(kSoftmaxIntegralMaps)
                                                           : IPR_OF_ISA(kSoftmaxIntegralVolumes);
  }

  /// sums: per joint and block a record; the first joint's.
  void forward(const Position& at, void* sums, int64_t step, void* scratch) const {
    if (blocks.by_pixels) {
      pixel_kernels().forward[kernel](pixels(at), sums, step, scratch);
    } else {
      IPR_OF_ISA(kSoftmaxIntegral).forward[kernel](block(at), sums, scratch);
    }
  }
  void backward(const Position& at, const Gradient& gradient, const Tables& tables, void* scratch) const {
    if (blocks.by_pixels) {
      pixel_kernels().backward[kernel](pixels(at), gradient, tables, scratch);
    } else {
      IPR_OF_ISA(kSoftmaxIntegral).backward[kernel](block(at), gradient, tables, scratch);
    }
  }

  const Volumes& volumes;
  Blocks blocks;
  int64_t size;
  int kernel;
  const void *logits, *end;
};

/// Divides the sums of an axis by their total; gives the mean index. In four chains, as one would wait for
/// every addition.
template <class Real>
Real normalize(const double* sums, int64_t length, Real* marginal) {
  double totals[4] = {}, moments[4] = {};
  for (int64_t i = 0; i < length; ++i) {
    totals[i % 4] += sums[i];
    moments[i % 4] += static_cast<double>(i) * sums[i];
  }
  const double scale = 1 / ((totals[0] + totals[1]) + (totals[2] + totals[3]));
  for (int64_t i = 0; i < length; ++i) marginal[i] = static_cast<Real>(sums[i] * scale);
  return static_cast<Real>(((moments[0] + moments[1]) + (moments[2] + moments[3])) * scale);
}

/// Marginals, means and logsumexp of one joint from the sums of its blocks: {reference, inner[], mid[],
/// outer[]} each.
template <class Real>
void merge(const Blocks& blocks, int64_t row, const Real* sums, int64_t stride, const Integral& result,
           double* totals) {
  const Volumes& v = blocks.volumes;
  const int64_t parts = blocks.per_row;
  constexpr double kLowest = -std::numeric_limits<double>::infinity();
  double reference = kLowest;
  for (int64_t part = 0; part < parts; ++part) reference = std::max<double>(reference, sums[part * stride]);

  std::fill(totals, totals + v.inner + v.mid + v.outer, 0.0);
  double total = 0;
  for (int64_t part = 0; part < parts; ++part) {
    const Real* const block = sums + part * stride;
    const double weight = reference > kLowest ? std::exp(static_cast<double>(block[0]) - reference) : 1;
    for (int64_t i = 0; i < v.inner + v.mid; ++i) totals[i] += weight * block[1 + i];
    const int64_t first = v.outer * part / parts, slices = v.outer * (part + 1) / parts - first;
    for (int64_t z = 0; z < slices; ++z) {
      const double slice = weight * block[1 + v.inner + v.mid + z];
      totals[v.inner + v.mid + first + z] = slice;
      total += slice;
    }
  }
  const double* axis = totals;
  const auto finish = [&](void* marginals, int64_t length, int index) {
    static_cast<Real*>(result.mean)[3 * row + index] =
        normalize(axis, length, static_cast<Real*>(marginals) + row * length);
    axis += length;
  };
  finish(result.inner, v.inner, v.inner_axis);
  finish(result.mid, v.mid, v.mid_axis);
  finish(result.outer, v.outer, v.outer_axis);
  result.logsumexp[row] = reference + std::log(total);
}

template <class Real>
void integrate(const Work& work, const Integral& result, ParallelFor parallel_for) {
  const Volumes& v = work.volumes;
  const Blocks& blocks = work.blocks;
  const int64_t stride = 1 + v.inner + v.mid + (v.outer + blocks.per_row - 1) / blocks.per_row;
  const std::unique_ptr<Real[]> sums(new Real[v.rows() * blocks.per_row * stride]);
  run(parallel_for, blocks.count(), blocks.grain(), [&](int64_t begin, int64_t end) {
    const Scratch scratch(work.scratch());
    for (int64_t index = begin; index < end; ++index) {
      const Position at(blocks, index);
      work.forward(at, sums.get() + (at.first_joint * blocks.per_row + at.part) * stride,
                   blocks.per_row * stride, scratch.get());
    }
  });
  run(parallel_for, v.rows(), 4096 / stride + 1, [&](int64_t begin, int64_t end) {
    const Scratch totals((v.inner + v.mid + v.outer) * sizeof(double));
    for (int64_t row = begin; row < end; ++row) {
      merge(blocks, row, sums.get() + row * blocks.per_row * stride, stride, result,
            static_cast<double*>(totals.get()));
    }
  });
}

/// Stores past the caches save a third of the traffic of a gradient that no cache would hold anyway. Not so
/// where the memory is new from the system: the first touch of a page leaves it in the cache, zeroed
/// (measured: 1.3x slower).
bool worth_streaming(void* gradient, int64_t bytes) {
#if defined(__linux__)
  if (bytes < 32 << 20) return false;
  const int64_t page = sysconf(_SC_PAGESIZE);
  const uintptr_t middle = (reinterpret_cast<uintptr_t>(gradient) + bytes / 2) / page * page;
  unsigned char resident = 0;
  return mincore(reinterpret_cast<void*>(middle), page, &resident) == 0 && (resident & 1) != 0;
#else
  return false;
#endif
}

/// The upstream gradients of an axis of a row, minus their expectation, which the softmax takes away; zeros
/// where all are zero. Those of the mean count cells from the one at the mean: where one cell holds almost
/// everything, the expectation then is a sum of small terms and not a difference of large ones.
template <class Real>
void fill_table(const void* marginals, const void* of_marginals, const void* means, const void* of_means,
                int64_t row, int64_t length, int axis, Real* table) {
  const Real* const p = static_cast<const Real*>(marginals) + row * length;
  const Real* const of_p = of_marginals ? static_cast<const Real*>(of_marginals) + row * length : nullptr;
  const double of_mean = of_means ? static_cast<const Real*>(of_means)[3 * row + axis] : 0;
  const double origin = std::rint(static_cast<double>(static_cast<const Real*>(means)[3 * row + axis]));
  const auto upstream = [&](int64_t i) {
    return (of_means ? (static_cast<double>(i) - origin) * of_mean : 0.0) + (of_p ? of_p[i] : Real{0});
  };
  bool zero = of_mean == 0;
  double expectation = 0;
  for (int64_t i = 0; i < length; ++i) {
    zero &= of_p == nullptr || of_p[i] == 0;
    expectation += upstream(i) * p[i];
  }
  for (int64_t i = 0; i < length; ++i) table[i] = zero ? 0 : static_cast<Real>(upstream(i) - expectation);
}

template <class Real>
void differentiate(const Work& work, const Volumes& gradient_volumes, void* gradient, const Integral& result,
                   const Integral& upstream, ParallelFor parallel_for) {
  const Volumes& v = work.volumes;
  const int64_t stride = v.inner + v.mid + v.outer + 1;
  const std::unique_ptr<Real[]> all_tables(new Real[v.rows() * stride]);
  run(parallel_for, v.rows(), 4096 / stride + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      Real* table = all_tables.get() + row * stride;
      const auto fill = [&](const void* marginals, const void* of_marginals, int64_t length, int axis) {
        fill_table(marginals, of_marginals, result.mean, upstream.mean, row, length, axis, table);
        table += length;
      };
      fill(result.inner, upstream.inner, v.inner, v.inner_axis);
      fill(result.mid, upstream.mid, v.mid, v.mid_axis);
      fill(result.outer, upstream.outer, v.outer, v.outer_axis);
      *table = upstream.logsumexp ? static_cast<Real>(upstream.logsumexp[row]) : 0;
    }
  });
  const bool stream =
      gradient != work.logits && worth_streaming(gradient, v.rows() * v.outer * v.mid * v.inner * work.size);
  const Volumes& g = gradient_volumes;
  run(parallel_for, work.blocks.count(), work.blocks.grain(), [&](int64_t begin, int64_t end) {
    const Scratch scratch(work.scratch());
    for (int64_t index = begin; index < end; ++index) {
      const Position at(work.blocks, index);
      const Real* const inner = all_tables.get() + at.first_joint * stride;
      const Real* const mid = inner + v.inner;
      const Real* const outer = mid + v.mid;
      const Tables tables = {inner, mid, outer + at.first, outer + v.outer, result.logsumexp + at.first_joint,
                             stride};
      const Gradient of_block = {static_cast<char*>(gradient) + at.offset(g) * work.size, g.joint_stride,
                                 g.outer_stride, g.mid_stride, stream};
      work.backward(at, of_block, tables, scratch.get());
    }
  });
}

/// Blocks are cut between slices: the one slice of a large heat map is read as slices of one row.
bool is_large_map(const Volumes& v) { return v.outer == 1 && v.mid * v.inner > 2 * kBlockElements; }

Volumes by_rows(Volumes v) {
  std::swap(v.outer, v.mid);
  std::swap(v.outer_stride, v.mid_stride);
  std::swap(v.outer_axis, v.mid_axis);
  return v;
}

Integral by_rows(Integral integral) {
  std::swap(integral.outer, integral.mid);
  return integral;
}

}  // namespace

void softmax_integral(const Volumes& volumes, Element element, const void* logits, const Integral& result,
                      ParallelFor parallel_for) {
  const bool cut = is_large_map(volumes);
  const Volumes v = cut ? by_rows(volumes) : volumes;
  const Integral r = cut ? by_rows(result) : result;
  const Work work(v, element, logits);
  if (element == Element::kFloat64) {
    integrate<double>(work, r, parallel_for);
  } else {
    integrate<float>(work, r, parallel_for);
  }
}

void softmax_integral_backward(const Volumes& volumes, Element element, const void* logits,
                               const Volumes& gradient_volumes, void* gradient, const Integral& result,
                               const Integral& upstream, ParallelFor parallel_for) {
  const bool cut = is_large_map(volumes);
  const Volumes v = cut ? by_rows(volumes) : volumes;
  const Volumes g = cut ? by_rows(gradient_volumes) : gradient_volumes;
  const Integral r = cut ? by_rows(result) : result, u = cut ? by_rows(upstream) : upstream;
  const Work work(v, element, logits);
  if (element == Element::kFloat64) {
    differentiate<double>(work, g, gradient, r, u, parallel_for);
  } else {
    differentiate<float>(work, g, gradient, r, u, parallel_for);
  }
}

}  // namespace ipr::cpu
