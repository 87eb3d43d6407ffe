// softmax_integral of channels_last heat maps on CUDA devices, in one read of the logits.
//
// A map's rows are cut into parts, a block each. Its threads stand over neighbouring vectors of a row
// (map_tiling.h), some rows at a time, and keep the sums of their columns of each joint in registers. The
// sums of the rows are added up in shared memory after every step: one number for kMapColumns logits goes
// through it. Joints differ, so each has a reference of its own, common to the block: only where a logit
// towers above it, which after the first step is rare, does the block find a new one. At last the parts are
// merged, a joint by a warp: within a thread block cluster where the device has them, by a second kernel
// where not. Every sum has a fixed order, so results are equal from run to run, bit by bit.
//
// On paper; nothing of it is measured. 128 float32 maps of 17 x 64 x 48 are 26.7 MB: 6.2 us on an H200 at 4.3
// TB/s and 1.76 GHz, 18.6 bytes per clock and multiprocessor. Two parts each, of 204 threads, so 256 blocks
// at once, two a multiprocessor. Their step is 26 KB, all of it in flight; it takes some 1000 clocks to come,
// 380 to compute (7.5 instructions a logit: 1 maximum, 3 for the exponential, 2 sums, 1.5 for loads and the
// sums of rows) and 400 in barriers and sums of rows: 29 bytes per clock for two blocks, enough. Beginning
// and merge, some 3000 clocks, add to 11300 of reading: 65 to 80 % of the ceiling; bfloat16, of twice the
// logits per byte, 55 to 70 %.
#include <cmath>

#include "cuda/map_tiling.h"
#include "cuda/softmax_integral_maps.h"

namespace ipr::cuda {
namespace {

/// Of a part's sums, per joint: {reference, mid[], outer[]}; odd, so that neighbouring joints are in
/// different banks.
__host__ __device__ int64_t record_size(const Volumes& v, const MapTiling& tiling) {
  return (1 + v.mid + tiling.rows) | 1;
}

/// Shared memory of a block that sums: what its threads add up, per joint a factor and a record.
template <class Real, int kVec>
struct MapShared {
  __host__ __device__ static int64_t buffered(const MapTiling& tiling) {
    static_assert(kMapRows >= kMapColumns);
    return tiling.used() * kVec * kMapRows;
  }
  static int64_t size(const Volumes& v, const MapTiling& tiling) {
    return (buffered(tiling) + v.joints + v.joints * record_size(v, tiling)) * int64_t{sizeof(Real)};
  }
  __device__ MapShared(const Volumes& v, const MapTiling& tiling)
      : buffer(reinterpret_cast<Real*>(dynamic_shared())),
        factors(buffer + buffered(tiling)),
        records(factors + v.joints) {}
  Real *buffer, *factors, *records;
};

/// In the widest words.
template <class Real, int kVec>
__device__ __forceinline__ void store(Real* to, const Array<Real, kVec>& values) {
  constexpr int kWide = kVec * sizeof(Real) > 16 ? 16 / sizeof(Real) : kVec;
#pragma unroll
  for (int i = 0; i < kVec; i += kWide) {
    Array<Real, kWide> wide;
#pragma unroll
    for (int j = 0; j < kWide; ++j) wide.at[j] = values.at[i + j];
    Pack<Real, kWide>::of(wide).store(to + i);
  }
}

/// take(row, joint, value) for the values of each row of `lanes` numbers and each joint, of which every
/// joints-th is one, combined. All threads take part.
template <class Real, class Combine, class Take>
__device__ __forceinline__ void fold(const Real* buffer, int rows, int lanes, int joints, Real start,
                                     const Combine& combine, const Take& take) {
  const int values = rows * joints;
  int split = 1;  // neighbouring threads share a value
  while (split < kWarp && 2 * split * values <= blockDim.x) split *= 2;
  for (int first = 0; first < values; first += blockDim.x / split) {
    const int number = first + threadIdx.x / split, row = number / joints, joint = number % joints;
    Real value = start;
    if (number < values) {
      const Real* const from = buffer + row * lanes;
#pragma unroll 4
      for (int i = joint + threadIdx.x % split * joints; i < lanes; i += split * joints)
        value = combine(from[i], value);
    }
#pragma unroll 1
    for (int step = split / 2; step > 0; step /= 2)
      value = combine(__shfl_xor_sync(kAllLanes, value, step), value);
    if (number < values && threadIdx.x % split == 0) take(row, joint, value);
  }
}

/// Gives a new reference to the joints above whose reference some lane's `top` towers, and brings to it
/// what was summed. All threads take part.
template <class Real, int kVec>
__device__ __forceinline__ void raise(const Volumes& v, const MapTiling& tiling,
                                      const MapShared<Real, kVec>& shared, const MapPlace<kVec>& place,
                                      const Array<Real, kVec>& top) {
  const int size = static_cast<int>(record_size(v, tiling)), joints = static_cast<int>(v.joints);
  if (place.used) store(shared.buffer + threadIdx.x * kVec, top);
  __syncthreads();
  const auto larger = [](Real a, Real b) { return maximum(a, b); };
  fold(shared.buffer, 1, tiling.used() * kVec, joints, lowest<Real>(), larger,
       [&](int, int joint, Real found) {
         Real& reference = shared.records[joint * size];
         const Real next = found > reference + kLimit ? found : reference;
         shared.factors[joint] = next == reference ? 1 : exp_of(reference - next);
         reference = next;
       });
  __syncthreads();
  for (int joint = threadIdx.x / kWarp; joint < joints; joint += blockDim.x / kWarp) {
    const Real factor = shared.factors[joint];
    for (int i = 1 + threadIdx.x % kWarp; i < size; i += kWarp) shared.records[joint * size + i] *= factor;
  }
}

/// Marginals, mean and logsumexp of a joint from its parts' records, by a warp.
template <class Real, class RecordOf>
__device__ __forceinline__ void merge_joint(const Volumes& v, const MapTiling& tiling, int64_t row,
                                            const RecordOf& record_of, const Integral& result) {
  const int lane = threadIdx.x % kWarp, parts = tiling.parts;
  const int width = static_cast<int>(v.mid), height = static_cast<int>(v.outer);
  const Real own = lane < parts ? record_of(lane)[0] : lowest<Real>();
  Real reference = own;
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    reference = maximum(__shfl_xor_sync(kAllLanes, reference, step), reference);
  }
  const double own_weight = exp(static_cast<double>(own) - static_cast<double>(reference));
  Real* const mid = static_cast<Real*>(result.mid) + row * width;
  Real* const outer = static_cast<Real*>(result.outer) + row * height;
  Array<double, 4> totals = {};  // of x and of y: the sum, and the sum of cell times value
#pragma unroll 1
  for (int x = lane; x - lane < width; x += kWarp) {
    double sum = 0;
#pragma unroll 2
    for (int part = 0; part < parts; ++part) {
      const double weight = __shfl_sync(kAllLanes, own_weight, part);
      if (x < width) sum += weight * static_cast<double>(record_of(part)[1 + x]);
    }
    if (x < width) mid[x] = static_cast<Real>(sum);
    totals.at[0] += sum;
    totals.at[1] += x * sum;
  }
#pragma unroll 1
  for (int y = lane; y - lane < height; y += kWarp) {
    int part = static_cast<int>(static_cast<unsigned>(min(y, height - 1)) * parts / height);
    while (part_of(height, parts, part).end <= min(y, height - 1)) ++part;
    const double weight = __shfl_sync(kAllLanes, own_weight, part);
    if (y < height) {
      const int cell = 1 + width + y - part_of(height, parts, part).begin;
      const double sum = weight * static_cast<double>(record_of(part)[cell]);
      outer[y] = static_cast<Real>(sum);
      totals.at[2] += sum;
      totals.at[3] += y * sum;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) totals.at[i] = warp_sum(totals.at[i]);
  for (int x = lane; x < width; x += kWarp) mid[x] = static_cast<Real>(mid[x] / totals.at[0]);
  for (int y = lane; y < height; y += kWarp) outer[y] = static_cast<Real>(outer[y] / totals.at[2]);
  if (lane == 0) {
    const double inner = totals.at[2] / totals.at[2];  // 1, or NaN
    static_cast<Real*>(result.inner)[row] = static_cast<Real>(inner);
    Real* const mean = static_cast<Real*>(result.mean) + 3 * row;
    mean[v.inner_axis] = static_cast<Real>(inner - inner);
    mean[v.mid_axis] = static_cast<Real>(totals.at[1] / totals.at[0]);
    mean[v.outer_axis] = static_cast<Real>(totals.at[3] / totals.at[2]);
    result.logsumexp[row] = static_cast<double>(reference) + log(totals.at[2]);
  }
}

/// Sums a part, and merges the map's parts unless `records` is to receive them.
template <class Element, int kVec>
__global__ void __launch_bounds__(kMaxThreads, kMapBlocks<RealOf<Element>>)
    sum_maps(const Volumes v, const MapTiling tiling, const Element* const logits, const Integral result,
             RealOf<Element>* const records) {
  using Real = RealOf<Element>;
  const int map = blockIdx.x / tiling.parts, part = blockIdx.x % tiling.parts;
  const Range rows = part_of(v.outer, tiling.parts, part);
  const MapPlace<kVec> place(v, tiling);
  const MapShared<Real, kVec> shared(v, tiling);
  const int joints = static_cast<int>(v.joints), size = static_cast<int>(record_size(v, tiling));
  const int lanes = tiling.columns() * kVec, in_step = tiling.slices * kMapRows;
  const int64_t row_step = tiling.slices * v.outer_stride;
  const int64_t column_step = tiling.groups * (tiling.pixels * v.mid_stride);
  for (int i = threadIdx.x; i < joints * size; i += blockDim.x)
    shared.records[i] = i % size > 0 ? 0 : lowest<Real>();
  Array<Real, kVec> reference;
#pragma unroll
  for (int i = 0; i < kVec; ++i) reference.at[i] = lowest<Real>();

  for (int period = 0; period < tiling.periods; period += tiling.groups * kMapColumns) {
    const int own_period = period + place.group;
    const int own_columns = place.used ? ceil_div(tiling.periods - own_period, tiling.groups) : 0;
    const Element* p =
        logits + map * v.batch_stride + place.offset(v, tiling, rows.begin + place.slice, own_period);
    Array<Real, kVec> columns[kMapColumns] = {};
#pragma unroll 1
    for (int row = rows.begin; row < rows.end; row += in_step, p += kMapRows * row_step) {
      MapTile<Element, kVec> tile;
      tile.load(p, row_step, column_step, ceil_div(rows.end - row - place.slice, tiling.slices), own_columns);
      auto highest = tile.at[0][0];
#pragma unroll
      for (int i = 1; i < kMapRows * kMapColumns; ++i)
        highest = highest.larger(tile.at[i / kMapColumns][i % kMapColumns]);
      const Array<Real, kVec> top = highest.reals();
      bool towers = false;
#pragma unroll
      for (int i = 0; i < kVec; ++i) towers |= top.at[i] > reference.at[i] + kLimit;
      // All have left the buffer to which the sums of the rows go.
      if (__syncthreads_or(towers)) {
        raise(v, tiling, shared, place, top);
        place.each([&](int i, int joint) {
          const Real factor = shared.factors[joint];
          reference.at[i] = shared.records[joint * size];
#pragma unroll
          for (int j = 0; j < kMapColumns; ++j) columns[j].at[i] *= factor;
        });
      }
#pragma unroll
      for (int i = 0; i < kMapRows; ++i) {
        Array<Real, kVec> sums = {};
#pragma unroll
        for (int j = 0; j < kMapColumns; ++j) {
          const Array<Real, kVec> values = tile.at[i][j].reals();
#pragma unroll
          for (int k = 0; k < kVec; ++k) {
            const Real value = exp_of(values.at[k] - reference.at[k]);
            columns[j].at[k] += value;
            sums.at[k] += value;
          }
        }
        if (place.used) store(shared.buffer + (i * tiling.used() + threadIdx.x) * kVec, sums);
      }
      __syncthreads();
      const auto sum = [](Real a, Real b) { return a + b; };
      fold(shared.buffer, in_step, lanes, joints, Real{0}, sum, [&](int i, int joint, Real value) {
        if (row + i < rows.end) shared.records[joint * size + 1 + v.mid + row - rows.begin + i] += value;
      });
    }
    __syncthreads();
    if (place.used) {
#pragma unroll
      for (int j = 0; j < kMapColumns; ++j)
        store(shared.buffer + (j * tiling.used() + threadIdx.x) * kVec, columns[j]);
    }
    __syncthreads();
    const int first = period * tiling.period * kVec, end = static_cast<int>(v.mid) * joints;
    for (int j = 0; j < kMapColumns; ++j) {
      for (int i = threadIdx.x; i < lanes && first + j * lanes + i < end; i += blockDim.x) {
        Real sum = 0;
        for (int slice = 0; slice < tiling.slices; ++slice)
          sum += shared.buffer[(j * tiling.slices + slice) * lanes + i];
        const int number = first + j * lanes + i;
        shared.records[number % joints * size + 1 + number / joints] = sum;
      }
    }
  }

  __syncthreads();
  if (records != nullptr) {
    Real* const record = records + int64_t{blockIdx.x} * joints * size;
    for (int i = threadIdx.x; i < joints * size; i += blockDim.x) record[i] = shared.records[i];
    return;
  }
  const bool several = tiling.parts > 1;
  if (several) cluster_sync();
  const int warps = blockDim.x / kWarp;
  for (int joint = threadIdx.x / kWarp * tiling.parts + part; joint < joints; joint += warps * tiling.parts) {
    const auto record_of = [&](int other) { return at_rank(shared.records + joint * size, other); };
    merge_joint<Real>(v, tiling, int64_t{map} * joints + joint, record_of, result);
  }
  if (several) cluster_sync();  // until then the others' shared memory must not go away
}

template <class Real>
__global__ void __launch_bounds__(kMaxThreads, 1)
    merge_maps(const Volumes v, const MapTiling tiling, const Real* const records, const Integral result) {
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (row >= v.batch * v.joints) return;
  const int64_t size = record_size(v, tiling), map = row / v.joints, joint = row % v.joints;
  const auto record_of = [&](int part) {
    return records + ((map * tiling.parts + part) * v.joints + joint) * size;
  };
  merge_joint<Real>(v, tiling, row, record_of, result);
}

struct MapPlan {
  MapTiling tiling;
  bool in_one;  // one kernel does it all: a map is one part, or the parts are a cluster
  int64_t shared_bytes;
};

/// Nothing where the GPU has not the shared memory for it.
template <class Element, int kVec>
std::optional<MapPlan> plan(const Volumes& v) {
  using Real = RealOf<Element>;
  if (!fit(v, kVec)) return {};
  const bool clusters = has_clusters(sum_maps<Element, kVec>);
  // As many blocks as run at the same time: more would merge more often.
  const MapTiling tiling = tile_maps<Real>(v, kVec, clusters ? kMaxCluster : kWarp, 1);
  const MapPlan found = {tiling, clusters || tiling.parts == 1, MapShared<Real, kVec>::size(v, tiling)};
  if (found.shared_bytes > device().shared_bytes) return {};
  return found;
}

}  // namespace

std::optional<int64_t> maps_workspace(const Volumes& v, Element element, const void* logits) {
  if (!are_maps(v)) return {};
  const int vec = map_vector_length(v, logits, v, logits, element_size(element));
  return dispatch(element, vec, [&](auto vector) -> std::optional<int64_t> {
    using E = typename decltype(vector)::Element;
    const auto found = plan<E, vector.kVec>(v);
    if (!found) return {};
    const auto [tiling, in_one, bytes] = *found;
    return in_one ? 0 : v.rows() * tiling.parts * record_size(v, tiling) * int64_t{sizeof(RealOf<E>)};
  });
}

std::optional<const char*> integrate_maps(const Volumes& v, Element element, const void* logits,
                                          const Integral& result, void* workspace, void* stream) {
  if (!are_maps(v)) return {};
  const int vec = map_vector_length(v, logits, v, logits, element_size(element));
  return dispatch(element, vec, [&](auto vector) -> std::optional<const char*> {
    using E = typename decltype(vector)::Element;
    using Real = RealOf<E>;
    constexpr int kVec = vector.kVec;
    const auto found = plan<E, kVec>(v);
    if (!found) return {};
    const auto [tiling, in_one, bytes] = *found;
    const int64_t blocks = v.batch * tiling.parts;
    if (blocks > INT32_MAX) return "too many heat maps in one batch";
    if (const char* error = allow_shared(sum_maps<E, kVec>, bytes)) return error;
    const auto size = [](int64_t n) { return static_cast<unsigned>(n); };
    const Launch sum = {size(blocks), size(tiling.threads), size(bytes), in_one ? size(tiling.parts) : 1,
                        stream};
    Real* const records = in_one ? nullptr : static_cast<Real*>(workspace);
    const char* error =
        text(launch(sum_maps<E, kVec>, sum, v, tiling, static_cast<const E*>(logits), result, records));
    if (error != nullptr || in_one) return error;
    const Launch merge = {size(ceil_div<int64_t>(v.rows(), kMaxThreads / kWarp)), kMaxThreads, 0, 1, stream};
    return text(launch(merge_maps<Real>, merge, v, tiling, static_cast<const Real*>(records), result));
  });
}

}  // namespace ipr::cuda
