// Runs CUDA kernels on the host: what csrc/cuda/device.h provides, for g++. Every CUDA thread is a fiber,
// which runs until it waits in a barrier or in an exchange of its warp; the blocks of a cluster run together.
// The order in which waiting threads go on is a setting, so that a missing barrier shows under one of the
// orders. Mistakes that a device leaves undefined (a barrier that a thread never reaches, a lane missing in a
// shuffle) end the program with a message; accesses out of bounds are AddressSanitizer's to find.
//
// Not emulated: races that need two threads at the same instant, the accuracy of approximate instructions,
// `__shared__` variables (kernels use dynamic_shared()), grids of two or three dimensions, streams (launches
// are synchronous).
#pragma once

#include <math.h>
#include <string.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

#include "numbers.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ the_emulator_has_no_static_shared_memory_use_dynamic_shared

inline constexpr int warpSize = 32;
// Of the thread that runs; set whenever one goes on.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInvalidClusterSize = 912,
};
const char* cudaGetErrorString(cudaError_t error);

enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlock,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrL2CacheSize,
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMaxSharedMemoryPerMultiprocessor,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
};
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace ipr::cuda {

struct Launch {
  unsigned blocks, threads, shared_bytes;
  unsigned cluster;  // blocks per cluster; 1: none
  void* stream;
};

namespace emulator {

/// Which of the threads that can go on does: the first or last of the cluster, or any. Also the order of
/// clusters.
enum class Order { kAscending, kDescending, kRandom };

/// What a test chooses. The initial values are those of an H200.
struct Device {
  int multiprocessors = 132, major = 9, minor = 0;
  int shared_bytes_optin = 227 << 10;
  Order order = Order::kAscending;
  unsigned seed = 0;  // of Order::kRandom
};
inline Device device;

/// What a test may ask afterwards.
struct Record {
  int launches = 0;  // that succeeded
  Launch last{};
};
inline Record record;

using Kernel = const void*;  // any kernel, as a key
using Where = std::source_location;

/// Ends the program with a message about the thread that runs.
[[noreturn]] void fail(const char* message, const char* what, const Where& where);

cudaError_t allow_shared(Kernel kernel, int bytes);
cudaError_t run(Kernel kernel, const Launch& how, void (*thread)(const void*), const void* context);

char* dynamic_shared();
char* at_rank(char* shared, unsigned rank);
/// All threads of the block; returns how many gave true.
int block_barrier(const char* what, bool predicate, const Where& where);
void cluster_barrier(const Where& where);
/// The values of all lanes in `mask`, once each of them has given its own.
std::array<uint64_t, 32> exchange(const char* what, unsigned mask, uint64_t value, const Where& where);

template <class T>
uint64_t bits_of(T value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}

/// The value of the lane that `source` names, or the own one where that lies outside the segment of `width`
/// lanes.
template <class T, class Source>
T shuffle(const char* what, unsigned mask, T value, int width, const Where& where, Source source) {
  const auto values = exchange(what, mask, bits_of(value), where);
  const int lane = static_cast<int>(threadIdx.x) % warpSize, first = lane - lane % width;
  int from = source(lane, first);
  if (from >= first + width) from = lane;
  if (from < 0 || !(mask >> from & 1)) fail("reads from a lane that is not in the mask", what, where);
  T result;
  memcpy(&result, &values[from], sizeof(T));
  return result;
}

}  // namespace emulator

/// This block's dynamic shared memory, aligned to 16 bytes; exactly as long as the launch said.
inline char* dynamic_shared() { return emulator::dynamic_shared(); }

inline void cluster_sync(const emulator::Where& where = emulator::Where::current()) {
  if (emulator::device.major >= 9) emulator::cluster_barrier(where);
}

template <class T>
T* at_rank(T* shared, unsigned rank) {
  if (emulator::device.major < 9) return shared;
  char* here = reinterpret_cast<char*>(const_cast<std::remove_cv_t<T>*>(shared));
  return reinterpret_cast<T*>(emulator::at_rank(here, rank));
}

/// 2^x; denormals are zero.
inline float fast_exp2(float x) {
  const float y = exp2f(fabsf(x) < 0x1p-126f ? 0.0f : x);
  return y < 0x1p-126f ? 0.0f : y;
}

/// Whether the device that a test chose has clusters.
template <class... Parameters>
bool has_clusters(void (*)(Parameters...)) {
  return emulator::device.major >= 9;
}

/// Starts kernel(arguments...) and waits for its end; the cluster's blocks are neighbours in blockIdx.x.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;
  };
  static_assert((sizeof(Parameters) + ... + 0) <= 4096, "a kernel's parameters have at most 4 KB");
  const Call call{kernel, {std::forward<Arguments>(arguments)...}};
  const auto thread = [](const void* context) {
    const Call& call = *static_cast<const Call*>(context);
    std::apply(call.kernel, call.parameters);
  };
  return emulator::run(reinterpret_cast<emulator::Kernel>(kernel), how, thread, &call);
}

}  // namespace ipr::cuda

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  return ipr::cuda::emulator::allow_shared(kernel, value);
}
template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}

// Barriers and exchanges know where in the kernel they stand: threads may only meet in the same one.

#define IPR_HERE const ipr::cuda::emulator::Where& where = ipr::cuda::emulator::Where::current()

inline void __syncthreads(IPR_HERE) { ipr::cuda::emulator::block_barrier("__syncthreads", false, where); }
inline int __syncthreads_or(int predicate, IPR_HERE) {
  return ipr::cuda::emulator::block_barrier("__syncthreads_or", predicate != 0, where) > 0;
}
inline int __syncthreads_and(int predicate, IPR_HERE) {
  return ipr::cuda::emulator::block_barrier("__syncthreads_and", predicate == 0, where) == 0;
}
inline int __syncthreads_count(int predicate, IPR_HERE) {
  return ipr::cuda::emulator::block_barrier("__syncthreads_count", predicate != 0, where);
}

inline void __syncwarp(unsigned mask = 0xffffffff, IPR_HERE) {
  ipr::cuda::emulator::exchange("__syncwarp", mask, 0, where);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = warpSize, IPR_HERE) {
  return ipr::cuda::emulator::shuffle("__shfl_sync", mask, value, width, where,
                                      [=](int, int first) { return first + (lane & (width - 1)); });
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = warpSize, IPR_HERE) {
  return ipr::cuda::emulator::shuffle("__shfl_xor_sync", mask, value, width, where,
                                      [=](int own, int) { return own ^ flip; });
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize, IPR_HERE) {
  return ipr::cuda::emulator::shuffle("__shfl_down_sync", mask, value, width, where,
                                      [=](int own, int) { return own + static_cast<int>(delta); });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize, IPR_HERE) {
  return ipr::cuda::emulator::shuffle("__shfl_up_sync", mask, value, width, where, [=](int own, int first) {
    return own - static_cast<int>(delta) < first ? own : own - static_cast<int>(delta);
  });
}
inline unsigned __ballot_sync(unsigned mask, int predicate, IPR_HERE) {
  unsigned votes = 0;
  const auto values = ipr::cuda::emulator::exchange("__ballot_sync", mask, predicate != 0, where);
  for (int lane = 0; lane < warpSize; ++lane) votes |= static_cast<unsigned>(values[lane]) << lane;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, IPR_HERE) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, IPR_HERE) {
  return __ballot_sync(mask, predicate == 0, where) == 0;
}

#undef IPR_HERE

template <class A, class B>
constexpr std::common_type_t<A, B> min(A a, B b) {
  const std::common_type_t<A, B> x = a, y = b;
  return y < x ? y : x;
}
template <class A, class B>
constexpr std::common_type_t<A, B> max(A a, B b) {
  const std::common_type_t<A, B> x = a, y = b;
  return x < y ? y : x;
}

template <class T>
T __ldg(const T* from) {
  return *from;
}
template <class T>
T __ldcs(const T* from) {
  return *from;
}
template <class T>
void __stcs(T* to, T value) {
  *to = value;
}

/// Bytes of x (0 to 3) and y (4 to 7), chosen by the selector's lowest digits of 4 bits.
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t both = uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    result |= static_cast<unsigned>(both >> (8 * (selector >> (4 * i) & 7)) & 255) << (8 * i);
  }
  return result;
}
/// The low word of high:low, shifted to the right by `shift` modulo 32.
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift % 32));
}
