// The gradient of softmax_integral of channels_last heat maps on CUDA devices: one read of the logits, one
// write, both in the order of memory (map_tiling.h).
//
// On paper; nothing of it is measured. 128 float32 maps of 17 x 64 x 48 are 53.5 MB to read and to
// write: 12.4 us on an H200 at 4.3 TB/s, some 22000 clocks; 5.5 instructions a logit where there is time
// for 50. Four parts each: their tables take 15 % of a part to read, which the L2 cache mostly has, and 3000
// clocks, half of them while other blocks move memory: 75 to 85 % of the ceiling.
#include <cmath>

#include "cuda/map_tiling.h"
#include "cuda/softmax_integral_maps.h"

namespace ipr::cuda {
namespace {

/// Shared memory of a block: upstream gradients minus their expectations, per column and joint and per row
/// and joint; per joint what logits are taken from, and whether there is a gradient at all.
template <class Real>
struct MapTables {
  static int64_t size(const Volumes& v, const MapTiling& tiling) {
    return v.joints * (int64_t{sizeof(Real)} * (v.mid + tiling.rows + 1) + int64_t{sizeof(int)});
  }
  __device__ MapTables(const Volumes& v, const MapTiling& tiling)
      : mid(reinterpret_cast<Real*>(dynamic_shared())),
        outer(mid + v.mid * v.joints),
        from(outer + tiling.rows * v.joints),
        zero(reinterpret_cast<int*>(from + v.joints)) {}
  Real *mid, *outer, *from;
  int* zero;
};

/// The tables of a joint, by a warp.
template <class Real>
__device__ __forceinline__ void fill(const Volumes& v, const MapTables<Real>& tables, int64_t row,
                                     const Range& rows, const Integral& result, const Integral& upstream) {
  const int lane = threadIdx.x % kWarp, joints = static_cast<int>(v.joints);
  const int joint = static_cast<int>(row % v.joints);
  const auto at_mid = [&](int x) {
    return upstream_at<Real>(result, upstream, upstream.mid, row, v.mid, v.mid_axis, x);
  };
  const auto at_outer = [&](int y) {
    return upstream_at<Real>(result, upstream, upstream.outer, row, v.outer, v.outer_axis, y);
  };
  const double of_logsumexp = upstream.logsumexp != nullptr ? upstream.logsumexp[row] : 0;
  // The inner axis is one cell, whose gradient is its expectation.
  const double of_inner = upstream_at<Real>(result, upstream, upstream.inner, row, 1, v.inner_axis, 0);
  bool any = !(of_logsumexp == 0) || !(of_inner == 0);
  double of_mid = 0, of_outer = 0;
#pragma unroll 2
  for (int x = lane; x < v.mid; x += kWarp) {
    const double value = at_mid(x);
    any |= !(value == 0);
    of_mid += value * static_cast<double>(static_cast<const Real*>(result.mid)[row * v.mid + x]);
  }
#pragma unroll 2
  for (int y = lane; y < v.outer; y += kWarp) {
    const double value = at_outer(y);
    any |= !(value == 0);
    of_outer += value * static_cast<double>(static_cast<const Real*>(result.outer)[row * v.outer + y]);
  }
  of_mid = warp_sum(of_mid);
  of_outer = warp_sum(of_outer);
  const bool zero = !__any_sync(kAllLanes, any);

  // exp(logit - logsumexp) = 2^(2 (logit * half - from)) * scale: one rounding, and no overflow of any logit.
  const double logsumexp = result.logsumexp[row];
  Real from, scale;
  if constexpr (sizeof(Real) == 4) {
    const double exact = logsumexp * (kLog2e / 2);
    from = static_cast<float>(exact);
    scale = exp2f(static_cast<float>(2 * (static_cast<double>(from) - exact)));
  } else {
    from = logsumexp;
    scale = 1;
  }
  for (int x = lane; x < v.mid; x += kWarp) {
    tables.mid[x * joints + joint] = static_cast<Real>(at_mid(x) - of_mid) * scale;
  }
  for (int y = rows.begin + lane; y < rows.end; y += kWarp) {
    const double value = at_outer(y) - of_outer + of_logsumexp;
    tables.outer[(y - rows.begin) * joints + joint] = static_cast<Real>(value) * scale;
  }
  if (lane == 0) {
    tables.from[joint] = from;
    tables.zero[joint] = zero;
  }
}

template <class Element, int kVec>
__global__ void __launch_bounds__(kMaxThreads, kMapBlocks<RealOf<Element>>)
    gradient_maps(const Volumes v, const MapTiling tiling, const Element* const logits,
                  const Volumes gradient_volumes, Element* const gradient, const Integral result,
                  const Integral upstream) {
  using Real = RealOf<Element>;
  const int64_t map = blockIdx.x / tiling.parts;
  const Range rows = part_of(v.outer, tiling.parts, blockIdx.x % tiling.parts);
  const MapPlace<kVec> place(v, tiling);
  const MapTables<Real> tables(v, tiling);
  const int joints = static_cast<int>(v.joints);
  for (int joint = threadIdx.x / kWarp; joint < joints; joint += blockDim.x / kWarp)
    fill(v, tables, map * joints + joint, rows, result, upstream);
  __syncthreads();
  if (!place.used) return;

  const int64_t row_step = tiling.slices * v.outer_stride;
  const int64_t out_row_step = tiling.slices * gradient_volumes.outer_stride;
  const int64_t column_step = tiling.groups * (tiling.pixels * v.mid_stride);
  const int64_t out_column_step = tiling.groups * (tiling.pixels * gradient_volumes.mid_stride);
  constexpr float half_log2e = kLog2e / 2;
  Array<int, kVec> joint;
  Array<Real, kVec> from;
  Array<bool, kVec> zero;
  place.each([&](int i, int of_lane) {
    joint.at[i] = of_lane;
    from.at[i] = tables.from[of_lane];
    zero.at[i] = tables.zero[of_lane];
  });
  for (int period = place.group; period < tiling.periods; period += tiling.groups * kMapColumns) {
    const int own_columns = ceil_div(tiling.periods - period, tiling.groups);
    Array<Real, kVec> of_columns[kMapColumns];
#pragma unroll
    for (int j = 0; j < kMapColumns; ++j) {
      const int first = ((period + j * tiling.groups) * tiling.period + place.vector) * kVec;
#pragma unroll
      for (int k = 0; k < kVec; ++k) of_columns[j].at[k] = j < own_columns ? tables.mid[first + k] : 0;
    }
    const int begin = rows.begin + place.slice;
    const Element* p = logits + map * v.batch_stride + place.offset(v, tiling, begin, period);
    Element* out = gradient + map * gradient_volumes.batch_stride +
                   place.offset(gradient_volumes, tiling, begin, period);
#pragma unroll 1
    for (int row = begin; row < rows.end; row += tiling.slices * kMapRows) {
      const int own_rows = ceil_div(rows.end - row, tiling.slices);
      MapTile<Element, kVec> tile;
      tile.load(p, row_step, column_step, own_rows, own_columns);
#pragma unroll
      for (int i = 0; i < kMapRows; ++i) {
        if (i >= own_rows) continue;
        const Real* const outer = tables.outer + (row + i * tiling.slices - rows.begin) * joints;
        Array<Real, kVec> of_row;
#pragma unroll
        for (int k = 0; k < kVec; ++k) of_row.at[k] = outer[joint.at[k]];
#pragma unroll
        for (int j = 0; j < kMapColumns; ++j) {
          Array<Real, kVec> values = tile.at[i][j].reals();
#pragma unroll
          for (int k = 0; k < kVec; ++k) {
            Real p_of;
            if constexpr (sizeof(Real) == 4) {
              p_of = fast_exp2(2 * fmaf(values.at[k], half_log2e, -from.at[k]));
            } else {
              p_of = exp(values.at[k] - from.at[k]);
            }
            values.at[k] = zero.at[k] ? 0 : p_of * (of_columns[j].at[k] + of_row.at[k]);
          }
          if (j < own_columns)
            Pack<Element, kVec>::of(values).store(out + i * out_row_step + j * out_column_step);
        }
      }
      p += kMapRows * row_step;
      out += kMapRows * out_row_step;
    }
  }
}

}  // namespace

std::optional<const char*> differentiate_maps(const Volumes& v, Element element, const void* logits,
                                              const Volumes& gradient_volumes, void* gradient,
                                              const Integral& result, const Integral& upstream,
                                              void* stream) {
  if (!are_maps(v) || !are_maps(gradient_volumes)) return {};
  const int vec = map_vector_length(v, logits, gradient_volumes, gradient, element_size(element));
  return dispatch(element, vec, [&](auto vector) -> std::optional<const char*> {
    using E = typename decltype(vector)::Element;
    using Real = RealOf<E>;
    constexpr int kVec = vector.kVec;
    if (!fit(v, kVec)) return {};
    // More blocks than run at a time: the tables of the later ones are made while others move memory.
    const MapTiling tiling = tile_maps<Real>(v, kVec, kMaxParts, 2);
    const int64_t blocks = v.batch * tiling.parts, bytes = MapTables<Real>::size(v, tiling);
    if (bytes > device().shared_bytes) return {};
    if (blocks > INT32_MAX) return "too many heat maps in one batch";
    if (const char* error = allow_shared(gradient_maps<E, kVec>, bytes)) return error;
    const Launch how = {static_cast<unsigned>(blocks), static_cast<unsigned>(tiling.threads),
                        static_cast<unsigned>(bytes), 1, stream};
    return text(launch(gradient_maps<E, kVec>, how, v, tiling, static_cast<const E*>(logits),
                       gradient_volumes, static_cast<E*>(gradient), result, upstream));
  });
}

}  // namespace ipr::cuda
