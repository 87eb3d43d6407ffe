// softmax_integral on CUDA devices: what ops.cpp calls. Includes nothing of torch.
#pragma once

#include "volumes.h"

namespace ipr::cuda {

// Both run on the current device, in `stream` (a cudaStream_t), and return what went wrong, or null.

/// Bytes of device memory that softmax_integral needs besides its results.
int64_t softmax_integral_workspace(const Volumes& volumes, Element element, const void* logits);

const char* softmax_integral(const Volumes& volumes, Element element, const void* logits,
                             const Integral& result, void* workspace, void* stream);

/// `gradient` has the sizes of `logits` and may be the logits themselves.
const char* softmax_integral_backward(const Volumes& volumes, Element element, const void* logits,
                                      const Volumes& gradient_volumes, void* gradient, const Integral& result,
                                      const Integral& upstream, void* stream);

}  // namespace ipr::cuda
