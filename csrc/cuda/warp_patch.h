// warp_patch on CUDA devices: what ops.cpp calls. Includes nothing of torch.
#pragma once

#include "warp.h"

namespace ipr::cuda {

/// Runs on the current device, in `stream` (a cudaStream_t), and returns what went wrong, or null.
const char* warp_patch(const Warp& warp, void* stream);

}  // namespace ipr::cuda
