// softmax_integral and its gradient as torch sees them: schemas, checks, allocation, dispatch.
#include "cpu/softmax_integral.h"

#include <algorithm>
#include <tuple>

#include "ops/tensor.h"
#ifdef USE_CUDA
#include "cuda/softmax_integral.h"
#endif

namespace ipr {
namespace {

using Sizes = std::array<int64_t, 5>;

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
        element = Element::kFloat32;
        break;
      case ScalarType::Double:
        element = Element::kFloat64;
        break;
      case ScalarType::BFloat16:
        element = Element::kBFloat16;
        break;
      case ScalarType::Half:
        element = Element::kFloat16;
        break;
      default:
        STD_TORCH_CHECK(false, "softmax_integral: logits must be float32, float64, bfloat16 or float16");
    }
    const bool rows = given.stride(4) == 1 || given.size(4) == 1;  // are contiguous
    const bool volumes = given.size(2) > 1 && given.stride(2) == 1;
    const bool maps = given.size(2) == 1 && given.stride(1) == 1 && given.size(1) > 1;
    channels_last = !rows && (volumes || maps);
    copied = !channels_last && !rows;
    if (copied) tensor = torch::stable::contiguous(given);
    for (int64_t i = 0; i < 5; ++i) sizes[i] = tensor.size(i), strides[i] = tensor.stride(i);
    STD_TORCH_CHECK(cpu::current_isa() != cpu::Isa::kNone,
                    "IPR_ISA names an instruction set that this build or this CPU lacks");
  }

  ScalarType result_dtype() const {
    return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  }
  bool empty() const { return sizes[0] * sizes[1] == 0; }

  Volumes volumes(const Sizes& stride) const {
    const auto [batch, joints, depth, height, width] = sizes;
    if (channels_last)
      return {batch, joints, height, width, depth, stride[0], stride[1], stride[3], stride[4], 1, 0, 2};
    return {batch, joints, depth, height, width, stride[0], stride[1], stride[2], stride[3], 2, 1, 0};
  }

  /// px, py, pz and what else there is per row, in the order of the volumes' axes.
  Integral integral(void* mean, void* px, void* py, void* pz, void* logsumexp) const {
    auto* const log = static_cast<double*>(logsumexp);
    return channels_last ? Integral{mean, py, px, pz, log} : Integral{mean, pz, py, px, log};
  }

  /// Of a dense tensor with the same order of axes.
  Sizes dense_strides() const {
    const auto [batch, given_joints, depth, height, width] = sizes;
    const int64_t volume = depth * height * width;
    const int64_t joints = given_joints > 0 ? given_joints : 1;  // as torch counts
    if (channels_last) return {joints * volume, depth, 1, width * joints * depth, joints * depth};
    return {joints * volume, volume, height * width, width, 1};
  }

  /// Whether every logit has memory of its own.
  bool overlap() const {
    std::array<int, 5> order = {0, 1, 2, 3, 4};
    std::sort(order.begin(), order.end(), [&](int a, int b) { return strides[a] < strides[b]; });
    int64_t extent = 1;
    for (const int axis : order) {
      if (sizes[axis] > 1 && strides[axis] < extent) return true;
      if (sizes[axis] > 1) extent = strides[axis] * sizes[axis];
    }
    return false;
  }

  Tensor tensor;
  ScalarType dtype;
  Element element;
  bool channels_last, copied;
  Sizes sizes, strides;
};

Tensor empty(const Tensor& like, int64_t batch, int64_t joints, ScalarType dtype) {
  return empty<2>(like, {batch, joints}, {joints, 1}, dtype);
}
Tensor empty(const Tensor& like, int64_t batch, int64_t joints, int64_t length, ScalarType dtype) {
  return empty<3>(like, {batch, joints, length}, {joints * length, length, 1}, dtype);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> softmax_integral(const Tensor& given) {
  const Logits logits(given);
  const auto [batch, joints, depth, height, width] = logits.sizes;
  const ScalarType dtype = logits.result_dtype();
  Tensor mean = empty(given, batch, joints, 3, dtype);
  Tensor px = empty(given, batch, joints, width, dtype);
  Tensor py = empty(given, batch, joints, height, dtype);
  Tensor pz = empty(given, batch, joints, depth, dtype);
  Tensor logsumexp = empty(given, batch, joints, ScalarType::Double);
  if (logits.empty()) return {mean, px, py, pz, logsumexp};
  const Volumes volumes = logits.volumes(logits.strides);
  const Integral result =
      logits.integral(mean.data_ptr(), px.data_ptr(), py.data_ptr(), pz.data_ptr(), logsumexp.data_ptr());
  const void* const data = logits.tensor.data_ptr();
#ifdef USE_CUDA
  if (given.is_cuda()) {
    const OnDevice device(given);
    const int64_t bytes = cuda::softmax_integral_workspace(volumes, logits.element, data);
    std::optional<Tensor> workspace;
    if (bytes > 0) workspace = empty<1>(given, {bytes}, {1}, ScalarType::Byte);
    void* const memory = bytes > 0 ? workspace->data_ptr() : nullptr;
    check_cuda(cuda::softmax_integral(volumes, logits.element, data, result, memory, device.stream),
               "softmax_integral");
    return {mean, px, py, pz, logsumexp};
  }
#endif
  cpu::softmax_integral(volumes, logits.element, data, result, parallel_for);
  return {mean, px, py, pz, logsumexp};
}

using MaybeTensor = std::optional<Tensor>;

/// A result of the forward pass, or the upstream gradient of one, laid out as the forward pass made it.
struct Given {
  Given(const char* name, const MaybeTensor& maybe, const Logits& logits, int64_t length, ScalarType dtype) {
    if (!maybe.has_value()) return;
    const Tensor& given = *maybe;
    const bool fits = given.dim() == (length < 0 ? 2 : 3) && given.size(0) == logits.sizes[0] &&
                      given.size(1) == logits.sizes[1] && (length < 0 || given.size(2) == length);
    STD_TORCH_CHECK(fits && given.scalar_type() == dtype && same_device(given, logits.tensor),
                    "softmax_integral_backward: ", name, " of sizes ", text(given),
                    " does not fit logits [B, J, D, H, W] = ", text(logits.tensor),
                    ", or has another type or device than the forward pass gave it");
    tensor = torch::stable::contiguous(given);
  }
  void* data() const { return tensor.has_value() ? tensor->data_ptr() : nullptr; }
  MaybeTensor tensor;
};

/// mean, px, py, pz and logsumexp, or their upstream gradients.
struct GivenIntegral {
  GivenIntegral(const Logits& logits, const MaybeTensor& mean, const MaybeTensor& px, const MaybeTensor& py,
                const MaybeTensor& pz, const MaybeTensor& logsumexp, bool gradients)
      : mean(gradients ? "grad_mean" : "mean", mean, logits, 3, logits.result_dtype()),
        px(gradients ? "grad_px" : "px", px, logits, logits.sizes[4], logits.result_dtype()),
        py(gradients ? "grad_py" : "py", py, logits, logits.sizes[3], logits.result_dtype()),
        pz(gradients ? "grad_pz" : "pz", pz, logits, logits.sizes[2], logits.result_dtype()),
        logsumexp(gradients ? "grad_logsumexp" : "logsumexp", logsumexp, logits, -1, ScalarType::Double),
        integral(logits.integral(this->mean.data(), this->px.data(), this->py.data(), this->pz.data(),
                                 this->logsumexp.data())) {}
  Given mean, px, py, pz, logsumexp;
  Integral integral;
};

void differentiate(const Logits& logits, Tensor& gradient, const Sizes& strides, const Integral& result,
                   const Integral& upstream) {
  if (logits.empty()) return;
  const Volumes volumes = logits.volumes(logits.strides), gradient_volumes = logits.volumes(strides);
  const void* const data = logits.tensor.data_ptr();
#ifdef USE_CUDA
  if (logits.tensor.is_cuda()) {
    const OnDevice device(logits.tensor);
    check_cuda(cuda::softmax_integral_backward(volumes, logits.element, data, gradient_volumes,
                                               gradient.data_ptr(), result, upstream, device.stream),
               "softmax_integral_backward");
    return;
  }
#endif
  cpu::softmax_integral_backward(volumes, logits.element, data, gradient_volumes, gradient.data_ptr(), result,
                                 upstream, parallel_for);
}

Tensor softmax_integral_backward(const Tensor& given, const Tensor& mean, const Tensor& px, const Tensor& py,
                                 const Tensor& pz, const Tensor& logsumexp, const MaybeTensor& grad_mean,
                                 const MaybeTensor& grad_px, const MaybeTensor& grad_py,
                                 const MaybeTensor& grad_pz, const MaybeTensor& grad_logsumexp) {
  const Logits logits(given);
  const GivenIntegral result(logits, mean, px, py, pz, logsumexp, false);
  const GivenIntegral upstream(logits, grad_mean, grad_px, grad_py, grad_pz, grad_logsumexp, true);
  const Sizes strides = logits.dense_strides();
  Tensor gradient = empty<5>(given, logits.sizes, strides, logits.dtype);
  differentiate(logits, gradient, strides, result.integral, upstream.integral);
  return gradient;
}

void softmax_integral_backward_(Tensor given, const Tensor& mean, const Tensor& px, const Tensor& py,
                                const Tensor& pz, const Tensor& logsumexp, const MaybeTensor& grad_mean,
                                const MaybeTensor& grad_px, const MaybeTensor& grad_py,
                                const MaybeTensor& grad_pz, const MaybeTensor& grad_logsumexp) {
  const Logits logits(given);
  STD_TORCH_CHECK(!logits.copied && !logits.overlap(),
                  "softmax_integral: a gradient in place needs logits that are contiguous or channels_last, "
                  "every one with memory of its own; got sizes ",
                  text(given), " with other strides");
  const GivenIntegral result(logits, mean, px, py, pz, logsumexp, false);
  const GivenIntegral upstream(logits, grad_mean, grad_px, grad_py, grad_pz, grad_logsumexp, true);
  differentiate(logits, given, logits.strides, result.integral, upstream.integral);
}

}  // namespace
}  // namespace ipr

STABLE_TORCH_LIBRARY_FRAGMENT(ipr, m) {
  m.def(
      "softmax_integral(Tensor logits) -> "
      "(Tensor mean, Tensor px, Tensor py, Tensor pz, Tensor logsumexp)");
  const std::string backward =
      "Tensor mean, Tensor px, Tensor py, Tensor pz, Tensor logsumexp, Tensor? grad_mean, Tensor? grad_px, "
      "Tensor? grad_py, Tensor? grad_pz, Tensor? grad_logsumexp) -> ";
  m.def(("softmax_integral_backward(Tensor logits, " + backward + "Tensor").c_str());
  m.def(("softmax_integral_backward_(Tensor(a!) logits, " + backward + "()").c_str());
}

STABLE_TORCH_LIBRARY_IMPL(ipr, CPU, m) {
  m.impl("softmax_integral", TORCH_BOX(&ipr::softmax_integral));
  m.impl("softmax_integral_backward", TORCH_BOX(&ipr::softmax_integral_backward));
  m.impl("softmax_integral_backward_", TORCH_BOX(&ipr::softmax_integral_backward_));
}

#ifdef USE_CUDA
STABLE_TORCH_LIBRARY_IMPL(ipr, CUDA, m) {
  m.impl("softmax_integral", TORCH_BOX(&ipr::softmax_integral));
  m.impl("softmax_integral_backward", TORCH_BOX(&ipr::softmax_integral_backward));
  m.impl("softmax_integral_backward_", TORCH_BOX(&ipr::softmax_integral_backward_));
}
#endif
