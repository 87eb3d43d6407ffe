// What the operators share of torch's stable ABI: tensors, devices, threads.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#ifdef USE_CUDA
#include <torch/csrc/stable/accelerator.h>
// One library for every torch: where that is a CPU build this is missing, and nothing calls it.
#pragma weak aoti_torch_get_current_cuda_stream
#endif

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"

namespace ipr {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

std::string text(const Tensor& tensor) {
  std::string sizes;
  for (const int64_t size : tensor.sizes()) sizes += (sizes.empty() ? "" : ", ") + std::to_string(size);
  return "[" + sizes + "]";
}

int32_t device_type(const Tensor& tensor) {
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  return type;
}

bool same_device(const Tensor& a, const Tensor& b) {
  return device_type(a) == device_type(b) && a.get_device_index() == b.get_device_index();
}

/// On the device of `like`.
template <size_t kDims>
Tensor empty(const Tensor& like, const std::array<int64_t, kDims>& sizes,
             const std::array<int64_t, kDims>& strides, ScalarType dtype) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(kDims, sizes.data(), strides.data(),
                               torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
                               device_type(like), like.get_device_index(), &handle));
  return Tensor(handle);
}

void parallel_for(int64_t begin, int64_t end, int64_t grain, cpu::Body body, void* context) {
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(begin, end, grain, body, context));
}

#ifdef USE_CUDA
/// Makes the device of a tensor the current one, and says on which stream torch works there.
struct OnDevice {
  explicit OnDevice(const Tensor& tensor) : guard(tensor.get_device_index()) {
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  }
  torch::stable::accelerator::DeviceGuard guard;
  void* stream = nullptr;
};

void check_cuda(const char* error, const char* name) { STD_TORCH_CHECK(error == nullptr, name, ": ", error); }
#endif

}  // namespace
}  // namespace ipr
