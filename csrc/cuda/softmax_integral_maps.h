// softmax_integral of channels_last heat maps on CUDA devices: what the functions of softmax_integral.h try
// first. Each returns nothing where these kernels do not take the maps; those of volumes then have to.
#pragma once

#include <optional>

#include "volumes.h"

namespace ipr::cuda {

/// Bytes of device memory that maps need besides their results.
std::optional<int64_t> maps_workspace(const Volumes& maps, Element element, const void* logits);

std::optional<const char*> integrate_maps(const Volumes& maps, Element element, const void* logits,
                                          const Integral& result, void* workspace, void* stream);

std::optional<const char*> differentiate_maps(const Volumes& maps, Element element, const void* logits,
                                              const Volumes& gradient_maps, void* gradient,
                                              const Integral& result, const Integral& upstream, void* stream);

}  // namespace ipr::cuda
