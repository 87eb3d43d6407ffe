// softmax_integral on CUDA devices, in one read of the logits.
//
// A row's volume is cut into parts, a block each. A block's threads stand in a grid of columns (kVec
// neighbouring elements of the inner axis) x mid rows x outer slices, so that a thread keeps the sums of its
// columns, of its rows and of the slice at hand in registers, against a reference of its own that rises
// when logits tower above it. From time to time these sums are brought to a common reference and added up in
// shared memory, and at last the parts are merged: within a thread block cluster where the device has them,
// by a second kernel where not. Every sum has a fixed order, so results are equal from run to run, bit by
// bit.
#include <algorithm>

#include "cuda/softmax_integral.h"
#include "cuda/softmax_integral_maps.h"
#include "cuda/tiling.h"

namespace ipr::cuda {
namespace {

constexpr int kSteps = 8;  // slices of a thread between two flushes

/// The largest of the block's values; scratch: one per warp. All threads have left it when the next barrier
/// is passed.
template <class Real>
__device__ Real block_maximum(Real value, Real* scratch) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = maximum(__shfl_xor_sync(kAllLanes, value, step), value);
  }
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = scratch[0];
  for (int warp = 1; warp < blockDim.x / kWarp; ++warp) value = maximum(scratch[warp], value);
  return value;
}

/// What a thread has summed since the last flush, as exp(logit - reference).
template <class Real, int kVec>
struct Sums {
  Real reference = lowest<Real>();
  Array<Real, kVec> columns = {};
  Array<Real, kRows> rows = {};

  /// Raises the reference to `top` if that towers above it; `slice` is the sum of the slice at hand, `slices`
  /// are the `count` before it, `stride` apart.
  __device__ __forceinline__ void raise(Real top, Real& slice, Real* slices, int count, int stride) {
    if (top > reference + kLimit) {
      const Real factor = exp_of(reference - top);
#pragma unroll
      for (int i = 0; i < kVec; ++i) columns.at[i] *= factor;
#pragma unroll
      for (int i = 0; i < kRows; ++i) rows.at[i] *= factor;
      slice *= factor;
#pragma unroll 1
      for (int i = 0; i < count; ++i) slices[i * stride] *= factor;
      reference = top;
    }
  }
  /// Adds a vector of logits of row `row`.
  __device__ __forceinline__ void add(const Array<Real, kVec>& logits, int row, Real& slice) {
    Real sum = 0;
#pragma unroll
    for (int i = 0; i < kVec; ++i) {
      const Real value = exp_of(logits.at[i] - reference);
      columns.at[i] += value;
      sum += value;
    }
    rows.at[row] += sum;
    slice += sum;
  }
};

/// Shared memory of a block that sums: per thread the sums of its last flush, one value per warp, the record.
template <class Real, int kVec>
struct Shared {
  /// From one of a thread's columns to the next: neither writing them nor adding them up meets a bank twice.
  __host__ __device__ static int stride(const Tiling& tiling) { return tiling.threads + kWarp / kVec; }
  static int64_t size(const Tiling& tiling) {
    return (stride(tiling) * kVec + tiling.threads * (kRows + kSteps) + kWarp + tiling.record()) *
           int64_t{sizeof(Real)};
  }
  __device__ explicit Shared(const Tiling& tiling)
      : columns(reinterpret_cast<Real*>(dynamic_shared())),
        rows(columns + stride(tiling) * kVec),
        slices(rows + tiling.threads * kRows),
        maxima(slices + tiling.threads * kSteps),
        record(maxima + kWarp) {}
  Real *columns, *rows, *slices, *maxima, *record;
};

/// Where the sums of a flush belong: first cells of the three axes, how many steps were taken.
struct Flush {
  int column, row, slice, steps;
};

/// Adds the threads' sums to the record. All threads take part, and may go on at once.
template <class Real, int kVec>
__device__ void flush(const Volumes& v, const Tiling& tiling, const Part& part,
                      const Shared<Real, kVec>& shared, const Sums<Real, kVec>& sums, const Flush& at) {
  const int stride = Shared<Real, kVec>::stride(tiling);  // of a thread's columns
  const int thread = threadIdx.x, threads = blockDim.x, grid = tiling.columns * tiling.rows * tiling.slices;
  Real* const record = shared.record;
  const Real before = record[0];
  const Real reference = maximum(block_maximum(sums.reference, shared.maxima), before);
  if (before > lowest<Real>() && reference > before) {
    const Real factor = exp_of(before - reference);
    for (int i = 1 + thread; i < tiling.record(); i += threads) record[i] *= factor;
  }
  if (thread < grid) {
    const Real factor = exp_of(sums.reference - reference);
#pragma unroll
    for (int i = 0; i < kVec; ++i) shared.columns[i * stride + thread] = sums.columns.at[i] * factor;
#pragma unroll
    for (int i = 0; i < kRows; ++i) shared.rows[i * threads + thread] = sums.rows.at[i] * factor;
    for (int i = 0; i < at.steps; ++i) shared.slices[i * threads + thread] *= factor;
  }
  __syncthreads();
  if (thread == 0) record[0] = reference;
  const int in_row = tiling.columns * kVec, in_slice = tiling.columns * tiling.rows;
  for (int i = thread; i < in_row && at.column + i < tiling.inner; i += threads) {
    const Real* column = shared.columns + i % kVec * stride + i / kVec;
    Real sum = 0;
    for (int j = 0; j < grid; j += tiling.columns) sum += column[j];
    record[1 + at.column + i] += sum;
  }
  for (int i = thread; i < kRows * tiling.rows && at.row + i < part.mid.end; i += threads) {
    const Real* row = shared.rows + i / tiling.rows * threads + i % tiling.rows * tiling.columns;
    Real sum = 0;
    for (int slice = 0; slice < tiling.slices; ++slice, row += in_slice) {
      for (int j = 0, k = i % tiling.columns; j < tiling.columns; ++j, k = k + 1 < tiling.columns ? k + 1 : 0)
        sum += row[k];
    }
    record[1 + tiling.inner + at.row - part.mid.begin + i] += sum;
  }
  for (int i = thread / kWarp; i < at.steps * tiling.slices && at.slice + i < part.outer.end;
       i += threads / kWarp) {
    const Real* slice = shared.slices + i / tiling.slices * threads + i % tiling.slices * in_slice;
    Real sum = 0;
    for (int j = thread % kWarp; j < in_slice; j += kWarp) sum += slice[j];
    sum = warp_sum(sum);
    if (thread % kWarp == 0) record[1 + tiling.inner + tiling.mid + at.slice - part.outer.begin + i] += sum;
  }
  __syncthreads();
}

/// Marginals, mean and logsumexp of a row from its parts' records. scratch: kMaxParts + 6 * kWarp doubles.
template <class Real, class RecordOf, class Read>
__device__ void merge(const Volumes& v, const Tiling& tiling, int64_t row, const RecordOf& record_of,
                      const Read& read, double* scratch, const Integral& result) {
  const int parts = tiling.parts();
  Real reference = lowest<Real>();
  for (int part = 0; part < parts; ++part) {
    reference = maximum(record_of(part)[0], reference);
  }
  double* const weights = scratch;
  for (int part = threadIdx.x; part < parts; part += blockDim.x) {
    weights[part] = exp(static_cast<double>(record_of(part)[0]) - static_cast<double>(reference));
  }
  __syncthreads();
  // Cells are numbered through: those of the inner axis (0), of the mid (1) and of the outer axis (2).
  const int v_inner = static_cast<int>(v.inner), v_mid = static_cast<int>(v.mid);
  const int cells = v_inner + v_mid + static_cast<int>(v.outer);
  const auto axis_of = [&](int cell) { return cell < v_inner ? 0 : cell < v_inner + v_mid ? 1 : 2; };
  const auto start_of = [&](int axis) { return axis == 0 ? 0 : axis == 1 ? v_inner : v_inner + v_mid; };
  // Over the parts that hold the cell: those whose number has its cut of the axis as a digit.
  const auto sum_at = [&](int cell) {
    const int axis = axis_of(cell), i = cell - start_of(axis);
    const int length = axis == 0 ? v_inner : axis == 1 ? v_mid : static_cast<int>(v.outer);
    const int cuts = axis == 0 ? 1 : axis == 1 ? tiling.mid_parts : tiling.outer_parts;
    const int first = 1 + (axis == 0 ? 0 : axis == 1 ? tiling.inner : tiling.inner + tiling.mid);
    int cut = static_cast<int>(static_cast<unsigned>(i) * cuts / length);
    while (part_of(length, cuts, cut).end <= i) ++cut;
    const int in_record = first + i - part_of(length, cuts, cut).begin;
    const int step = axis == 1 ? tiling.mid_parts : 1, count = parts / cuts;
    const int start = axis == 2 ? cut * tiling.mid_parts : cut;
    double sum = 0;
#pragma unroll 8
    for (int k = 0; k < count; ++k) {
      const int part = start + k * step;
      sum += weights[part] * static_cast<double>(record_of(part)[in_record]);
    }
    return sum;
  };
  const auto marginal_of = [&](int cell) {
    const int axis = axis_of(cell);
    const int64_t length = axis == 0 ? v.inner : axis == 1 ? v.mid : v.outer;
    void* const marginals = axis == 0 ? result.inner : axis == 1 ? result.mid : result.outer;
    return static_cast<Real*>(marginals) + (row * length + cell - start_of(axis));
  };
  Array<double, 6> totals = {};  // of each axis: the sum, and the sum of cell times value
#pragma unroll 1
  for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
    const double value = sum_at(cell), moment = (cell - start_of(axis_of(cell))) * value;
    *marginal_of(cell) = static_cast<Real>(value);
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      totals.at[2 * axis] += axis_of(cell) == axis ? value : 0;
      totals.at[2 * axis + 1] += axis_of(cell) == axis ? moment : 0;
    }
  }
  read();
  totals = block_sum(totals, scratch + kMaxParts);
#pragma unroll 1
  for (int cell = threadIdx.x; cell < cells; cell += blockDim.x) {
    const int axis = axis_of(cell);
    const double sum = axis == 0 ? totals.at[0] : axis == 1 ? totals.at[2] : totals.at[4];
    Real* const marginal = marginal_of(cell);
    *marginal = static_cast<Real>(static_cast<double>(*marginal) / sum);
  }
  if (threadIdx.x == 0) {
    Real* const mean = static_cast<Real*>(result.mean) + 3 * row;
    mean[v.inner_axis] = static_cast<Real>(totals.at[1] / totals.at[0]);
    mean[v.mid_axis] = static_cast<Real>(totals.at[3] / totals.at[2]);
    mean[v.outer_axis] = static_cast<Real>(totals.at[5] / totals.at[4]);
    result.logsumexp[row] = static_cast<double>(reference) + log(totals.at[4]);
  }
}

/// Sums a part, and merges the row's parts unless `records` is to receive them.
template <class Element, int kVec>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<Element>)
    sum_parts(const Volumes v, const Tiling tiling, const Element* const logits, const Integral result,
              RealOf<Element>* const records) {
  using Real = RealOf<Element>;
  const Part part(v, tiling);
  const Place place(tiling);
  const Shared<Real, kVec> shared(tiling);
  for (int i = threadIdx.x; i < tiling.record(); i += blockDim.x)
    shared.record[i] = i > 0 ? 0 : lowest<Real>();
  __syncthreads();
  for (int column = 0; column < tiling.inner; column += tiling.columns * kVec) {
    const int own_column = column + place.column * kVec;
    for (int row = part.mid.begin; row < part.mid.end; row += kRows * tiling.rows) {
      const int own_row = row + place.row;
      for (int slice = part.outer.begin; slice < part.outer.end; slice += kSteps * tiling.slices) {
        const int steps = min(kSteps, ceil_div(part.outer.end - slice, tiling.slices));
        const int own_slice = slice + place.slice;
        const bool inside = place.used && own_column < tiling.inner;
        const int own_rows = inside ? ceil_div(part.mid.end - own_row, tiling.rows) : 0;
        const int own_steps = inside ? ceil_div(part.outer.end - own_slice, tiling.slices) : 0;
        const Element* p =
            logits + part.offset + own_slice * v.outer_stride + own_row * v.mid_stride + own_column;
        Sums<Real, kVec> sums;
#pragma unroll 1
        for (int step = 0; step < steps; ++step, p += tiling.slices * v.outer_stride) {
          Real total = 0;
          if (step < own_steps) {
            Pack<Element, kVec> packs[kRows];
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
              if (i < own_rows) packs[i] = Pack<Element, kVec>::load(p + i * tiling.rows * v.mid_stride);
            }
            Real top = lowest<Real>();
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
              if (i < own_rows) top = maximum(packs[i].largest(), top);
            }
            sums.raise(top, total, shared.slices + threadIdx.x, step, blockDim.x);
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
              if (i < own_rows) sums.add(packs[i].reals(), i, total);
            }
          }
          shared.slices[step * blockDim.x + threadIdx.x] = total;
        }
        flush(v, tiling, part, shared, sums, {column, row, slice, steps});
      }
    }
  }
  double* const scratch = reinterpret_cast<double*>(dynamic_shared());
  if (records != nullptr) {
    Real* const record = records + (part.row * tiling.parts() + part.number) * tiling.record();
    for (int i = threadIdx.x; i < tiling.record(); i += blockDim.x) record[i] = shared.record[i];
  } else {
    const bool several = tiling.parts() > 1;
    if (several) cluster_sync();
    const auto read = [&] {
      if (several) cluster_sync();  // until then the others' shared memory must not go away
    };
    if (part.number == 0) {
      const auto record_of = [&](int other) { return at_rank(shared.record, other); };
      merge<Real>(v, tiling, part.row, record_of, read, scratch, result);
    } else {
      read();
    }
  }
}

template <class Real>
__global__ void __launch_bounds__(kMaxThreads, 1)
    merge_parts(const Volumes v, const Tiling tiling, const Real* const records, const Integral result) {
  const int64_t row = blockIdx.x;
  const auto record_of = [&](int part) { return records + (row * tiling.parts() + part) * tiling.record(); };
  merge<Real>(v, tiling, row, record_of, [] {}, reinterpret_cast<double*>(dynamic_shared()), result);
}

struct Plan {
  Tiling tiling;
  bool in_one;  // one kernel does it all: a row is one part, or the parts are a cluster
};

template <class Element, int kVec>
Plan plan(const Volumes& v) {
  const bool clusters = has_clusters(sum_parts<Element, kVec>);
  const Tiling tiling = tile(v, kVec, clusters ? kMaxCluster : kMaxParts);
  return {tiling, clusters || tiling.parts() == 1};
}

}  // namespace

int64_t softmax_integral_workspace(const Volumes& v, Element element, const void* logits) {
  if (const auto bytes = maps_workspace(v, element, logits)) return *bytes;
  return dispatch(element, vector_length(v, logits, element_size(element)), [&](auto vector) -> int64_t {
    using E = typename decltype(vector)::Element;
    if (too_long(v)) return 0;
    const auto [tiling, in_one] = plan<E, vector.kVec>(v);
    return in_one ? 0 : v.rows() * tiling.parts() * tiling.record() * sizeof(RealOf<E>);
  });
}

const char* softmax_integral(const Volumes& v, Element element, const void* logits, const Integral& result,
                             void* workspace, void* stream) {
  if (const auto done = integrate_maps(v, element, logits, result, workspace, stream)) return *done;
  return dispatch(element, vector_length(v, logits, element_size(element)), [&](auto vector) -> const char* {
    using E = typename decltype(vector)::Element;
    using Real = RealOf<E>;
    constexpr int kVec = vector.kVec;
    if (too_long(v)) return kTooLong;
    const auto [tiling, in_one] = plan<E, kVec>(v);
    const int64_t blocks = v.rows() * tiling.parts();
    if (blocks > INT32_MAX) return "too many volumes in one batch";
    const int merging = (kMaxParts + 6 * kWarp) * sizeof(double);
    const int64_t bytes = std::max<int64_t>(Shared<Real, kVec>::size(tiling), merging);
    if (const char* error = allow_shared(sum_parts<E, kVec>, bytes)) return error;
    const auto size = [](int64_t n) { return static_cast<unsigned>(n); };
    const Launch sum = {size(blocks), size(tiling.threads), size(bytes), in_one ? size(tiling.parts()) : 1,
                        stream};
    Real* const records = in_one ? nullptr : static_cast<Real*>(workspace);
    const char* error =
        text(launch(sum_parts<E, kVec>, sum, v, tiling, static_cast<const E*>(logits), result, records));
    if (error != nullptr || in_one) return error;
    const Launch merge = {size(v.rows()), 256, size(merging), 1, stream};
    return text(launch(merge_parts<Real>, merge, v, tiling, static_cast<const Real*>(records), result));
  });
}

}  // namespace ipr::cuda
