// How channels_last heat maps [B, H, W, J] are shared out to blocks and threads. Here outer is H, mid is W,
// and the joints are neighbours.
//
// A row of a map is a sequence of vectors of kVec logits. What joints a vector's lanes belong to repeats
// after J / gcd(J, kVec) vectors, a period, which hold kVec / gcd(J, kVec) whole pixels: of 17 joints and 4
// lanes, 17 vectors and 4 pixels. Some periods side by side are the columns of a block's grid of threads and
// some rows its slices, so that warps read what lies side by side, and all vectors of a thread have the same
// joints.
#pragma once

#include <numeric>

#include "cuda/tiling.h"

namespace ipr::cuda {
namespace {

// A thread's vectors per step: periods x rows. That many loads are in flight.
constexpr int kMapColumns = 2;
constexpr int kMapRows = 4;
/// Blocks that a multiprocessor has registers for.
template <class Real>
constexpr int kMapBlocks = sizeof(Real) == 8 ? 1 : 2;
constexpr int kMinVectors = 1024;     // of a part
constexpr int kMaxBuffer = 32 << 10;  // bytes

struct MapTiling {
  int parts;           // of a map's rows: a block each
  int period, pixels;  // vectors and pixels of a period
  int periods;         // of a row
  // Of a block's threads: periods side by side, every so manieth row.
  int groups, slices, threads;
  int rows;  // of the largest part

  __host__ __device__ int columns() const { return period * groups; }  // of threads
  __host__ __device__ int used() const { return columns() * slices; }  // threads
};

/// A thread's place in the block's grid.
template <int kVec>
struct MapPlace {
  __device__ MapPlace(const Volumes& v, const MapTiling& tiling)
      : slice(threadIdx.x / tiling.columns()),
        group(threadIdx.x % tiling.columns() / tiling.period),
        vector(threadIdx.x % tiling.columns() % tiling.period),
        joints(static_cast<int>(v.joints)),
        joint(vector * kVec % joints),
        used(slice < tiling.slices) {}
  /// visit(lane, joint)
  template <class Visit>
  __device__ __forceinline__ void each(const Visit& visit) const {
    int of_lane = joint;
#pragma unroll
    for (int i = 0; i < kVec; ++i, of_lane = of_lane + 1 < joints ? of_lane + 1 : 0) visit(i, of_lane);
  }
  /// Of the first of the thread's vectors in a step, from the map's start on.
  __device__ int64_t offset(const Volumes& v, const MapTiling& tiling, int row, int period) const {
    const int64_t pixel = int64_t{period} * tiling.pixels;
    return row * v.outer_stride + pixel * v.mid_stride + vector * kVec;
  }
  int slice, group, vector;
  int joints, joint;  // in all, of the first lane
  bool used;
};

/// A thread's vectors of a step.
template <class Element, int kVec>
struct MapTile {
  using Vector = Pack<Element, kVec>;
  /// -inf, which counts nothing, in place of those that there are not.
  __device__ __forceinline__ void load(const Element* p, int64_t row_step, int64_t column_step, int rows,
                                       int columns) {
    Array<RealOf<Element>, kVec> nothing;
#pragma unroll
    for (int i = 0; i < kVec; ++i) nothing.at[i] = -INFINITY;
#pragma unroll
    for (int i = 0; i < kMapRows; ++i, p += row_step) {
      const Element* vector = p;
#pragma unroll
      for (int j = 0; j < kMapColumns; ++j, vector += column_step) {
        at[i][j] = i < rows && j < columns ? Vector::load(vector) : Vector::of(nothing);
      }
    }
  }
  Vector at[kMapRows][kMapColumns];
};

// Launching.

/// Whether the volumes are maps whose joints are neighbours.
bool are_maps(const Volumes& v) { return v.inner == 1 && v.joint_stride == 1 && v.joints > 1; }

/// The longest vector that all of `maps` (and of `others`, which lie elsewhere) are whole numbers of, and
/// aligned to.
int map_vector_length(const Volumes& maps, const void* data, const Volumes& others, const void* others_data,
                      int64_t size) {
  int64_t length = 16 / size;
  const auto fits = [&](const Volumes& v, const void* begin) {
    const int64_t pixels = length / std::gcd(v.joints, length);
    const auto multiple = [&](int64_t axis, int64_t stride) { return axis <= 1 || stride % length == 0; };
    return reinterpret_cast<uintptr_t>(begin) % (length * size) == 0 && multiple(v.batch, v.batch_stride) &&
           multiple(v.outer, v.outer_stride) && multiple(v.mid, v.mid_stride * pixels) &&
           v.mid % pixels == 0 && (pixels == 1 || v.mid_stride == v.joints);
  };
  while (length > 1 && !(fits(maps, data) && fits(others, others_data))) length /= 2;
  return static_cast<int>(length);
}

/// Whether the kernels can take maps of these sizes: a period needs a thread per vector, and there are
/// numbers in shared memory for each column and joint, of which this is the least, before they are counted in
/// 32 bits.
bool fit(const Volumes& v, int vec) {
  const int64_t numbers = (v.mid + v.outer / kWarp) * v.joints;
  return v.joints / std::gcd<int64_t>(v.joints, vec) <= kMaxThreads && numbers <= device().shared_bytes;
}

/// Into no more than max_parts, none of them small, so that the blocks fill the GPU `times` times and those
/// of a multiprocessor have room in its shared memory for a number per column or row and joint.
template <class Real>
MapTiling tile_maps(const Volumes& v, int vec, int max_parts, int times) {
  const auto [multiprocessors, shared_bytes] = device();
  const int64_t wanted = int64_t{times} * kMapBlocks<Real> * multiprocessors / v.batch;
  const int64_t vectors = v.outer * v.mid * v.joints / vec, most = std::min<int64_t>(v.outer, max_parts);
  const int64_t most_rows =
      (shared_bytes / kMapBlocks<Real> - kMaxBuffer) / (int64_t{sizeof(Real)} * v.joints) - v.mid - 3;
  MapTiling t;
  t.parts = power_of_two(std::min({wanted, vectors / kMinVectors, most}));
  while (ceil_div<int64_t>(v.outer, t.parts) > most_rows && 2 * t.parts <= most) t.parts *= 2;
  t.rows = static_cast<int>(ceil_div<int64_t>(v.outer, t.parts));
  const int common = static_cast<int>(std::gcd<int64_t>(v.joints, vec));
  t.period = static_cast<int>(v.joints) / common;
  t.pixels = vec / common;
  t.periods = static_cast<int>(v.mid) / t.pixels;
  // As many threads as are needed for as few turns as there must be.
  const int turns = ceil_div(t.periods, kMaxThreads / t.period * kMapColumns);
  t.groups = ceil_div(t.periods, turns * kMapColumns);
  const int steps = ceil_div(t.rows, kMaxThreads / t.columns() * kMapRows);
  t.slices = ceil_div(t.rows, steps * kMapRows);
  t.threads = ceil_div(t.used(), kWarp) * kWarp;
  return t;
}

}  // namespace
}  // namespace ipr::cuda
