// Schemas, checks, allocation and dispatch of every operator, against torch's stable ABI only.
#include "ops.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <string>
#include <tuple>

#include "cpu/softmax_integral.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

using Sizes = std::array<int64_t, 5>;

std::string text(const Tensor& tensor) {
  std::string sizes;
  for (const int64_t size : tensor.sizes()) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  return "[" + sizes + "]";
}

template <size_t kDims>
Tensor empty(const std::array<int64_t, kDims>& sizes, const std::array<int64_t, kDims>& strides,
             ScalarType dtype) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(kDims, sizes.data(), strides.data(),
                               torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                               aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

Tensor empty(int64_t batch, int64_t joints, ScalarType dtype) {
  return empty<2>({batch, joints}, {joints, 1}, dtype);
}
Tensor empty(int64_t batch, int64_t joints, int64_t length, ScalarType dtype) {
  return empty<3>({batch, joints, length}, {joints * length, length, 1}, dtype);
}

void parallel_for(int64_t begin, int64_t end, int64_t grain, ipr::cpu::Body body, void* context) {
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(begin, end, grain, body, context));
}

/// Logits that a kernel can read in place, and how.
struct Logits {
  explicit Logits(const Tensor& given) : tensor(given) {
    STD_TORCH_CHECK(given.dim() == 5, "softmax_integral: logits must be [B, J, D, H, W], got ", text(given));
    STD_TORCH_CHECK(given.size(2) > 0 && given.size(3) > 0 && given.size(4) > 0,
                    "softmax_integral: logits [B, J, D, H, W] need D, H and W of at least 1, got ",
                    text(given));
    dtype = given.scalar_type();
    switch (dtype) {
      case ScalarType::Float:
        element = ipr::cpu::Element::kFloat32;
        break;
      case ScalarType::Double:
        element = ipr::cpu::Element::kFloat64;
        break;
      case ScalarType::BFloat16:
        element = ipr::cpu::Element::kBFloat16;
        break;
      case ScalarType::Half:
        element = ipr::cpu::Element::kFloat16;
        break;
      default:
        STD_TORCH_CHECK(false, "softmax_integral: logits must be float32, float64, bfloat16 or float16");
    }
    channels_last = given.stride(4) != 1 && given.stride(2) == 1 && given.size(2) > 1;
    if (!channels_last && given.stride(4) != 1) tensor = torch::stable::contiguous(given);
    for (int64_t i = 0; i < 5; ++i) sizes[i] = tensor.size(i), strides[i] = tensor.stride(i);
    STD_TORCH_CHECK(*ipr_ops_isa() != '\0',
                    "IPR_ISA names an instruction set that this build or this CPU lacks");
  }

  ScalarType result_dtype() const {
    return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  bool empty() const { return sizes[0] * sizes[1] == 0; }

  ipr::cpu::Volumes volumes(const Sizes& stride) const {
    if (channels_last)
      return {sizes[0], sizes[1], sizes[3], sizes[4], sizes[2], stride[0], stride[1], stride[3], stride[4]};
    return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], stride[0], stride[1], stride[2], stride[3]};
  }

  /// Of a dense tensor with the same order of axes.
  Sizes dense_strides() const {
    const auto [batch, given_joints, depth, height, width] = sizes;
    const int64_t volume = depth * height * width;
    const int64_t joints = given_joints > 0 ? given_joints : 1;  // as torch counts
    if (channels_last) return {joints * volume, depth, 1, width * joints * depth, joints * depth};
    return {joints * volume, volume, height * width, width, 1};
  }

  Tensor tensor;
  ScalarType dtype;
  ipr::cpu::Element element;
  bool channels_last;
  Sizes sizes, strides;
};

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> softmax_integral(const Tensor& given) {
  const Logits logits(given);
  const auto [batch, joints, depth, height, width] = logits.sizes;
  const ScalarType dtype = logits.result_dtype();
  Tensor mean = empty(batch, joints, 3, dtype);
  Tensor px = empty(batch, joints, width, dtype);
  Tensor py = empty(batch, joints, height, dtype);
  Tensor pz = empty(batch, joints, depth, dtype);
  Tensor logsumexp = empty(batch, joints, ScalarType::Double);
  if (!logits.empty()) {
    void *x = px.data_ptr(), *y = py.data_ptr(), *z = pz.data_ptr();
    ipr::cpu::Integral result = {x, y, z, mean.data_ptr(),
                                 0, 1, 2, static_cast<double*>(logsumexp.data_ptr())};
    if (logits.channels_last) result = {z, x, y, result.mean, 2, 0, 1, result.logsumexp};
    ipr::cpu::softmax_integral(logits.volumes(logits.strides), logits.element, logits.tensor.data_ptr(),
                               result, parallel_for);
  }
  return {mean, px, py, pz, logsumexp};
}

/// A table of upstream gradients: [B, J] or [B, J, length].
Tensor upstream_table(const char* name, const Tensor& table, const Logits& logits, int64_t length,
                      ScalarType dtype) {
  const bool fits = table.dim() == (length < 0 ? 2 : 3) && table.size(0) == logits.sizes[0] &&
                    table.size(1) == logits.sizes[1] && (length < 0 || table.size(2) == length);
  STD_TORCH_CHECK(fits && table.scalar_type() == dtype, "softmax_integral_backward: ", name, " of sizes ",
                  text(table), " does not fit logits [B, J, D, H, W] = ", text(logits.tensor),
                  ", or has another type than theirs");
  return torch::stable::contiguous(table);
}

Tensor softmax_integral_backward(const Tensor& given, const Tensor& logsumexp, const Tensor& a,
                                 const Tensor& b, const Tensor& c, const Tensor& s) {
  const Logits logits(given);
  const auto [batch, joints, depth, height, width] = logits.sizes;
  const ScalarType dtype = logits.result_dtype();
  const Tensor tables[] = {
      upstream_table("a", a, logits, width, dtype), upstream_table("b", b, logits, height, dtype),
      upstream_table("c", c, logits, depth, dtype), upstream_table("s", s, logits, -1, dtype),
      upstream_table("logsumexp", logsumexp, logits, -1, ScalarType::Double)};
  const Sizes strides = logits.dense_strides();
  Tensor gradient = empty<5>(logits.sizes, strides, logits.dtype);
  if (!logits.empty()) {
    const void *x = tables[0].data_ptr(), *y = tables[1].data_ptr(), *z = tables[2].data_ptr();
    ipr::cpu::Upstream upstream = {x, y, z, tables[3].data_ptr(), static_cast<double*>(tables[4].data_ptr())};
    if (logits.channels_last) upstream = {z, x, y, upstream.constant, upstream.logsumexp};
    ipr::cpu::softmax_integral_backward(logits.volumes(logits.strides), logits.element,
                                        logits.tensor.data_ptr(), logits.volumes(strides),
                                        gradient.data_ptr(), upstream, parallel_for);
  }
  return gradient;
}

}  // namespace

#define IPR_EXPORT __attribute__((visibility("default")))

IPR_EXPORT int ipr_ops_version() { return 1; }
#ifndef IPR_BUILD_INFO
#define IPR_BUILD_INFO "unknown | unknown | unknown"
#endif
IPR_EXPORT const char* ipr_ops_build_info() { return IPR_BUILD_INFO; }
IPR_EXPORT const char* ipr_ops_isa() { return ipr::cpu::isa(); }
IPR_EXPORT int ipr_ops_use_isa(const char* isa) { return ipr::cpu::use_isa(isa); }

STABLE_TORCH_LIBRARY(ipr, m) {
  m.def(
      "softmax_integral(Tensor logits) -> "
      "(Tensor mean, Tensor px, Tensor py, Tensor pz, Tensor logsumexp)");
  m.def(
      "softmax_integral_backward(Tensor logits, Tensor logsumexp, Tensor a, Tensor b, Tensor c, Tensor s) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ipr, CPU, m) {
  m.impl("softmax_integral", TORCH_BOX(&softmax_integral));
  m.impl("softmax_integral_backward", TORCH_BOX(&softmax_integral_backward));
}
