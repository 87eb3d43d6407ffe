// What the kernels use of CUDA beyond its C++: in one place, so that the emulator of tests/cuda, which runs
// the same kernels on the host, can provide it as well.
#pragma once

#ifdef IPR_CUDA_EMULATOR
#include "emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <utility>

namespace ipr::cuda {

/// This block's dynamic shared memory, aligned to 16 bytes.
__device__ __forceinline__ char* dynamic_shared() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

/// Clusters (sm_90 and newer): barrier of all threads of all blocks of this block's cluster, which also makes
/// their shared memory visible to each other.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;\n\tbarrier.cluster.wait.acquire;" ::: "memory");
#endif
}

/// The same variable in the shared memory of the cluster's block `rank`.
template <class T>
__device__ __forceinline__ T* at_rank(T* shared, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  T* there;
  asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(rank));
  return there;
#else
  return shared;
#endif
}

/// 2^x, to 2 units in the last place; denormals are zero.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Whether a kernel may be launched with clusters here: what runs was compiled for a chip that has them, and
/// is never for a newer chip than this one.
template <class... Parameters>
bool has_clusters(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90;
}

struct Launch {
  unsigned blocks, threads, shared_bytes;
  unsigned cluster;  // blocks per cluster; 1: none
  void* stream;
};

/// Starts kernel(arguments...); the cluster's blocks are neighbours in blockIdx.x.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(how.blocks);
  config.blockDim = dim3(how.threads);
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = static_cast<cudaStream_t>(how.stream);
  cudaLaunchAttribute attribute = {};
  if (how.cluster > 1) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = how.cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace ipr::cuda
#endif
