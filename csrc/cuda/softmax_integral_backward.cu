// The gradient of softmax_integral on CUDA devices: one read of the logits, one write.
#include "cuda/softmax_integral.h"
#include "cuda/softmax_integral_maps.h"
#include "cuda/tiling.h"

namespace ipr::cuda {
namespace {

template <class Element, int kVec>
__global__ void __launch_bounds__(kMaxThreads, kBlocks<Element>)
    gradient_parts(const Volumes v, const Tiling tiling, const Element* const logits,
                   const Volumes gradient_volumes, Element* const gradient, const Integral result,
                   const Integral upstream) {
  using Real = RealOf<Element>;
  const Part part(v, tiling);
  const Place place(tiling);
  const int64_t out_offset = part.offset_in(gradient_volumes);
  double* const scratch = reinterpret_cast<double*>(dynamic_shared());
  Real* const inner = reinterpret_cast<Real*>(scratch + 3 * kWarp);
  Real* const mid = inner + tiling.inner;
  Real* const outer = mid + tiling.mid;

  // Tables of the upstream gradients, minus their expectations.
  const auto at = [&](void* marginals, int64_t length, int axis, int i) {
    return upstream_at<Real>(result, upstream, marginals, part.row, length, axis, i);
  };
  const double of_logsumexp = upstream.logsumexp != nullptr ? upstream.logsumexp[part.row] : 0;
  bool any = !(of_logsumexp == 0);
  Array<double, 3> expectations = {};
  const auto expect = [&](int number, const void* marginals, void* gradients, int64_t length, int axis) {
    const Real* const p = static_cast<const Real*>(marginals) + part.row * length;
    for (int i = threadIdx.x; i < length; i += blockDim.x) {
      const double value = at(gradients, length, axis, i);
      any |= !(value == 0);
      expectations.at[number] += value * static_cast<double>(p[i]);
    }
  };
  expect(0, result.inner, upstream.inner, v.inner, v.inner_axis);
  expect(1, result.mid, upstream.mid, v.mid, v.mid_axis);
  expect(2, result.outer, upstream.outer, v.outer, v.outer_axis);
  const bool zero = !__syncthreads_or(any);
  expectations = block_sum(expectations, scratch);

  // exp(logit - logsumexp) = 2^(2 (logit * half - from)) * scale: one rounding, and no overflow of any logit.
  constexpr float half_log2e = kLog2e / 2;
  const double logsumexp = result.logsumexp[part.row];
  Real from, scale;
  if constexpr (sizeof(Real) == 4) {
    const double exact = logsumexp * half_log2e;
    from = static_cast<float>(exact);
    scale = exp2f(static_cast<float>(2 * (static_cast<double>(from) - exact)));
  } else {
    from = logsumexp;
    scale = 1;
  }
  for (int i = threadIdx.x; i < v.inner; i += blockDim.x) {
    inner[i] = static_cast<Real>(at(upstream.inner, v.inner, v.inner_axis, i) - expectations.at[0]) * scale;
  }
  for (int i = part.mid.begin + threadIdx.x; i < part.mid.end; i += blockDim.x) {
    const double value = at(upstream.mid, v.mid, v.mid_axis, i) - expectations.at[1];
    mid[i - part.mid.begin] = static_cast<Real>(value + of_logsumexp) * scale;
  }
  for (int i = part.outer.begin + threadIdx.x; i < part.outer.end; i += blockDim.x) {
    const double value = at(upstream.outer, v.outer, v.outer_axis, i) - expectations.at[2];
    outer[i - part.outer.begin] = static_cast<Real>(value) * scale;
  }
  __syncthreads();
  if (!place.used) return;

  for (int column = place.column * kVec; column < v.inner; column += tiling.columns * kVec) {
    Array<Real, kVec> of_columns;
#pragma unroll
    for (int i = 0; i < kVec; ++i) of_columns.at[i] = inner[column + i];
    for (int row = part.mid.begin + place.row; row < part.mid.end; row += kRows * tiling.rows) {
      for (int slice = part.outer.begin + place.slice; slice < part.outer.end; slice += tiling.slices) {
        const Element* const p = logits + part.offset + slice * v.outer_stride + row * v.mid_stride + column;
        Element* const out = gradient + out_offset + slice * gradient_volumes.outer_stride +
                             row * gradient_volumes.mid_stride + column;
        Pack<Element, kVec> packs[kRows];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          if (!zero && row + i * tiling.rows < part.mid.end) {
            packs[i] = Pack<Element, kVec>::load(p + i * tiling.rows * v.mid_stride);
          }
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const int own_row = row + i * tiling.rows;
          if (own_row < part.mid.end) {
            Array<Real, kVec> values = {};
            if (!zero) {
              const Array<Real, kVec> own = packs[i].reals();
              const Real of_row = mid[own_row - part.mid.begin] + outer[slice - part.outer.begin];
#pragma unroll
              for (int j = 0; j < kVec; ++j) {
                Real p_of;
                if constexpr (sizeof(Real) == 4) {
                  p_of = fast_exp2(2 * fmaf(own.at[j], half_log2e, -from));
                } else {
                  p_of = exp(own.at[j] - from);
                }
                values.at[j] = p_of * (of_columns.at[j] + of_row);
              }
            }
            Pack<Element, kVec>::of(values).store(out + i * tiling.rows * gradient_volumes.mid_stride);
          }
        }
      }
    }
  }
}

}  // namespace

const char* softmax_integral_backward(const Volumes& v, Element element, const void* logits,
                                      const Volumes& gradient_volumes, void* gradient, const Integral& result,
                                      const Integral& upstream, void* stream) {
  if (const auto done =
          differentiate_maps(v, element, logits, gradient_volumes, gradient, result, upstream, stream))
    return *done;
  const int64_t size = element_size(element);
  const int vec = std::min(vector_length(v, logits, size), vector_length(gradient_volumes, gradient, size));
  return dispatch(element, vec, [&](auto vector) -> const char* {
    using E = typename decltype(vector)::Element;
    constexpr int kVec = vector.kVec;
    if (too_long(v)) return kTooLong;
    const Tiling tiling = tile(v, kVec, kMaxParts);
    const int64_t blocks = v.rows() * tiling.parts();
    if (blocks > INT32_MAX) return "too many volumes in one batch";
    const int64_t bytes = 3 * kWarp * sizeof(double) + tiling.record() * sizeof(RealOf<E>);
    if (const char* error = allow_shared(gradient_parts<E, kVec>, bytes)) return error;
    const Launch how = {static_cast<unsigned>(blocks), static_cast<unsigned>(tiling.threads),
                        static_cast<unsigned>(bytes), 1, stream};
    return text(launch(gradient_parts<E, kVec>, how, v, tiling, static_cast<const E*>(logits),
                       gradient_volumes, static_cast<E*>(gradient), result, upstream));
  });
}

}  // namespace ipr::cuda
