// How volumes are shared out to blocks and threads, and what the kernels of softmax_integral have in common.
// A block takes a part of a row's volume; its threads stand in a grid of columns (some neighbouring elements
// of the inner axis) x mid rows x outer slices.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstdint>

#include "cuda/elements.h"
#include "volumes.h"

namespace ipr::cuda {
namespace {

constexpr int kRows = 4;       // of a thread per step: that many loads are in flight
constexpr int kMaxParts = 64;  // of a row
constexpr int kMaxCluster = 8;
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr float kLog2e = 1.44269504f;
// A logit above the reference by more than this raises it: the larger an exponent, the coarser its
// rounding.
constexpr int kLimit = 5;
constexpr int kMaxThreads = 256;
/// Blocks that a multiprocessor has registers for: so many keep enough loads in flight.
template <class Element>
constexpr int kBlocks = sizeof(Element) == 8 ? 1 : 3;

/// How the work is shared out.
struct Tiling {
  int outer_parts, mid_parts;  // of a volume: a block each
  // Of a block's threads. A thread takes kRows rows at a time, `rows` apart, of every `slices`-th slice.
  int columns, rows, slices, threads;
  int inner, mid, outer;  // sizes of the largest part

  __host__ __device__ int parts() const { return outer_parts * mid_parts; }
  /// Of a part's sums: {reference, inner[], mid[], outer[]}.
  __host__ __device__ int record() const { return 1 + inner + mid + outer; }
};

struct Range {
  int begin, end;
};

template <class Int>
__host__ __device__ constexpr Int ceil_div(Int a, Int b) {
  return (a + b - 1) / b;
}

/// The cells of one of `parts` equal parts of an axis.
__device__ __forceinline__ Range part_of(int64_t axis, int parts, int part) {
  const unsigned length = static_cast<unsigned>(axis), cuts = static_cast<unsigned>(parts);
  return {static_cast<int>(length * part / cuts), static_cast<int>(length * (part + 1) / cuts)};
}

/// A thread's place in the block's grid.
struct Place {
  __device__ explicit Place(const Tiling& tiling)
      : column(threadIdx.x % tiling.columns),
        row(threadIdx.x / tiling.columns % tiling.rows),
        slice(threadIdx.x / tiling.columns / tiling.rows),
        used(slice < tiling.slices) {}
  int column, row, slice;
  bool used;
};

/// The part of this block.
struct Part {
  __device__ Part(const Volumes& v, const Tiling& tiling)
      : row(blockIdx.x / tiling.parts()),
        number(blockIdx.x % tiling.parts()),
        outer(part_of(v.outer, tiling.outer_parts, number / tiling.mid_parts)),
        mid(part_of(v.mid, tiling.mid_parts, number % tiling.mid_parts)),
        offset(offset_in(v)) {}
  /// Of the row's volume.
  __device__ int64_t
  offset_in(const Volumes& v) const {  // rows are fewer than 2^31, and division of 64 bits slow
    const unsigned joints = static_cast<unsigned>(v.joints), number_of_row = static_cast<unsigned>(row);
    return number_of_row / joints * v.batch_stride + number_of_row % joints * v.joint_stride;
  }
  int64_t row;
  int number;
  Range outer, mid;
  int64_t offset;  // of the row's volume of logits
};

/// The least number: as a reference it is right for -inf and for what no other reference was found for.
template <class Real>
__device__ __forceinline__ Real lowest() {
  return sizeof(Real) == 4 ? static_cast<Real>(-FLT_MAX) : static_cast<Real>(-DBL_MAX);
}

/// The larger one; the other one where one is NaN.
__device__ __forceinline__ float maximum(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ double maximum(double a, double b) { return fmax(a, b); }

/// exp(difference)
__device__ __forceinline__ float exp_of(float difference) { return fast_exp2(difference * kLog2e); }
__device__ __forceinline__ double exp_of(double difference) { return exp(difference); }

template <class Real>
__device__ __forceinline__ Real warp_sum(Real value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

/// The block's sums of kCount values; scratch: kCount per warp, as above.
template <int kCount>
__device__ Array<double, kCount> block_sum(Array<double, kCount> values, double* scratch) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const double sum = warp_sum(values.at[i]);
    if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp * kCount + i] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    values.at[i] = 0;
    for (int warp = 0; warp < blockDim.x / kWarp; ++warp) values.at[i] += scratch[warp * kCount + i];
  }
  return values;
}

/// Upstream gradient at cell i of a marginal; those of the mean count cells from the one at the mean: where
/// one cell holds almost everything, the expectation then is a sum of small terms and not a difference of
/// large ones.
template <class Real>
__device__ __forceinline__ double upstream_at(const Integral& result, const Integral& upstream,
                                              void* marginals, int64_t row, int64_t length, int axis, int i) {
  double value = 0;
  const Real of_mean = upstream.mean == nullptr ? 0 : static_cast<const Real*>(upstream.mean)[3 * row + axis];
  if (!(of_mean == 0)) {  // a mean that is NaN is nothing to who does not ask for it
    const double mean = static_cast<const Real*>(result.mean)[3 * row + axis];
    value = (i - rint(mean)) * static_cast<double>(of_mean);
  }
  if (marginals != nullptr)
    value += static_cast<double>(static_cast<const Real*>(marginals)[row * length + i]);
  return value;
}

// Launching.

struct Device {
  int multiprocessors, shared_bytes;
};

const char* text(cudaError_t error) { return error == cudaSuccess ? nullptr : cudaGetErrorString(error); }

Device device() {
  int index = 0;
  Device result = {1, 48 << 10};
  cudaGetDevice(&index);
  cudaDeviceGetAttribute(&result.multiprocessors, cudaDevAttrMultiProcessorCount, index);
  cudaDeviceGetAttribute(&result.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  return result;
}

/// The largest power of two that is at most n, or 1: what clusters may count.
int power_of_two(int64_t n) {
  int power = 1;
  while (2 * power <= n) power *= 2;
  return power;
}

Tiling tile(const Volumes& v, int vec, int64_t max_parts) {
  // Enough blocks that the last ones to end leave few multiprocessors idle, each with enough to read.
  const int64_t vectors = v.outer * v.mid * (v.inner / vec), wanted = 32 * device().multiprocessors;
  const int64_t parts =
      std::max<int64_t>(1, std::min({ceil_div<int64_t>(wanted, v.rows()), vectors / 2048, max_parts}));
  Tiling t;
  t.outer_parts = power_of_two(std::min(parts, v.outer));
  t.mid_parts = power_of_two(std::min(parts / t.outer_parts, v.mid / kRows));
  t.inner = static_cast<int>(v.inner);
  t.mid = static_cast<int>(ceil_div<int64_t>(v.mid, t.mid_parts));
  t.outer = static_cast<int>(ceil_div<int64_t>(v.outer, t.outer_parts));
  t.columns = static_cast<int>(std::min<int64_t>(v.inner / vec, kMaxThreads));
  t.rows = std::min(kMaxThreads / t.columns, ceil_div(t.mid, kRows));
  t.slices = std::min(kMaxThreads / t.columns / t.rows, t.outer);
  t.threads = ceil_div(t.columns * t.rows * t.slices, kWarp) * kWarp;
  return t;
}

/// The longest vector that every row of the volumes is a whole number of, and aligned to.
int vector_length(const Volumes& v, const void* data, int64_t size) {
  int64_t bytes = 16;
  const auto fits = [&](int64_t length, int64_t stride) { return length <= 1 || stride * size % bytes == 0; };
  while (bytes > size && !(reinterpret_cast<uintptr_t>(data) % bytes == 0 && v.inner * size % bytes == 0 &&
                           fits(v.batch, v.batch_stride) && fits(v.joints, v.joint_stride) &&
                           fits(v.outer, v.outer_stride) && fits(v.mid, v.mid_stride))) {
    bytes /= 2;
  }
  return static_cast<int>(bytes / size);
}

const char* const kTooLong = "the volume's axes are too long for this GPU's shared memory";
/// Before sizes are counted in 32 bits.
bool too_long(const Volumes& v) {
  return v.inner + v.mid / kMaxParts + v.outer / kMaxParts > device().shared_bytes;
}

template <class Kernel>
const char* allow_shared(Kernel kernel, int64_t bytes) {
  if (bytes <= 48 << 10) return nullptr;
  if (bytes > device().shared_bytes) return kTooLong;
  return text(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
}

template <class E, int kLength>
struct Vector {
  using Element = E;
  static constexpr int kVec = kLength;
};

/// visit(Vector<...>()) for the element and the vector length.
template <class Visit>
auto dispatch(Element element, int vec, const Visit& visit) {
  const auto halves = [&](auto type) {
    using Half = decltype(type);
    return vec == 8   ? visit(Vector<Half, 8>())
           : vec == 4 ? visit(Vector<Half, 4>())
           : vec == 2 ? visit(Vector<Half, 2>())
                      : visit(Vector<Half, 1>());
  };
  switch (element) {
    case Element::kFloat32:
      return vec == 4   ? visit(Vector<float, 4>())
             : vec == 2 ? visit(Vector<float, 2>())
                        : visit(Vector<float, 1>());
    case Element::kFloat64:
      return vec == 2 ? visit(Vector<double, 2>()) : visit(Vector<double, 1>());
    case Element::kBFloat16:
      return halves(__nv_bfloat16());
    default:
      return halves(__half());
  }
}

}  // namespace
}  // namespace ipr::cuda
