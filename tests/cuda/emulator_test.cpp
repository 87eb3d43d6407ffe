// Small kernels that use everything the emulator offers, and faults to plant in them:
//   emulator_test ascending|descending|SEED [FAULT]
// Exit status 0 if every kernel gave the right result; without a fault that is what must happen.
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "cuda/device.h"

namespace ipr::cuda {
namespace {

constexpr unsigned kAll = 0xffffffff;

enum Fault {
  kNone,
  kNoBarrierBeforeReading,
  kNoBarrierBeforeWriting,
  kNoWarpBarrier,
  kNoClusterBarrierFirst,
  kNoClusterBarrierLast,
  kPastTheInput,
  kBeforeTheInput,
  kPastShared,
  kPastTheResult,
  kUninitialised,
  kMisaligned,
  kThreadLeavesBarrierOut,
  kThreadsInTwoBarriers,
  kLaneLeavesShuffleOut,
  kLaneOutsideMask,
  kSourceOutsideMask,
  kOrderOfBlocks,
  kFaults
};
constexpr const char* kNames[] = {"none",
                                  "no_barrier_before_reading",
                                  "no_barrier_before_writing",
                                  "no_warp_barrier",
                                  "no_cluster_barrier_first",
                                  "no_cluster_barrier_last",
                                  "past_the_input",
                                  "before_the_input",
                                  "past_shared",
                                  "past_the_result",
                                  "uninitialised",
                                  "misaligned",
                                  "thread_leaves_barrier_out",
                                  "threads_in_two_barriers",
                                  "lane_leaves_shuffle_out",
                                  "lane_outside_mask",
                                  "source_outside_mask",
                                  "order_of_blocks"};
static_assert(std::size(kNames) == kFaults);

/// sums[block] = sum of the block's share of in[count]: vectors, a scalar tail, shuffles, one value per warp
/// in shared memory.
__global__ void __launch_bounds__(256) sum_blocks(const float* in, int count, float* sums, Fault fault) {
  float* warps = reinterpret_cast<float*>(dynamic_shared());
  const int thread = threadIdx.x, lane = thread % 32,
            per_block = ((count + 3) / 4 + gridDim.x - 1) / gridDim.x * 4;
  const int begin = min(blockIdx.x * per_block, count), end = min(begin + per_block, count);
  const int vectors_end = fault == kPastTheInput ? (end + 3) / 4 * 4 : max(begin, end / 4 * 4);
  float sum = 0;
  for (int i = begin + thread * 4; i < vectors_end; i += blockDim.x * 4) {
    const uint4 four = __ldcs(reinterpret_cast<const uint4*>(in + i + (fault == kMisaligned)));
    sum +=
        __uint_as_float(four.x) + __uint_as_float(four.y) + __uint_as_float(four.z) + __uint_as_float(four.w);
  }
  if (const int i = vectors_end + thread; i < end) sum += in[i - (fault == kBeforeTheInput ? end : 0)];
  if (fault == kLaneLeavesShuffleOut && thread == 37) return;
  const unsigned mask = fault == kLaneOutsideMask ? kAll >> 1 : kAll;
  for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(mask, sum, flip);
  if (lane == 0 && !(fault == kUninitialised && thread == 64))
    warps[thread / 32 + (fault == kPastShared)] = sum;
  if (fault == kThreadLeavesBarrierOut && thread == 41) return;
  if (fault == kThreadsInTwoBarriers && thread < 32)
    __syncthreads();
  else if (fault != kNoBarrierBeforeReading)
    __syncthreads();
  if (thread >= 32) return;
  const int used = blockDim.x / 32;
  sum = lane < used ? warps[lane] : 0.0f;
  for (int delta = 16; delta > 0; delta /= 2) {
    sum += __shfl_down_sync(fault == kSourceOutsideMask && lane < 16 ? 0xffffu : kAll, sum, delta);
  }
  if (lane == 0) sums[blockIdx.x + (fault == kPastTheResult && blockIdx.x + 1 == gridDim.x)] = sum;
}

/// out[i] = in[(i + steps) % count]: one place per step, through shared memory.
__global__ void rotate(const int* in, int steps, int* out, Fault fault) {
  int* place = reinterpret_cast<int*>(dynamic_shared());
  const unsigned thread = threadIdx.x;
  int value = in[thread];
  for (int step = 0; step < steps; ++step) {
    place[thread] = value;
    __syncthreads();
    value = place[(thread + 1) % blockDim.x];
    if (fault != kNoBarrierBeforeWriting) __syncthreads();
  }
  out[thread] = value;
}

/// out[i] = the warp's value of lane 31 - i, through shared memory that only the warp uses.
__global__ void mirror(const double* in, double* out, Fault fault) {
  double* place = reinterpret_cast<double*>(dynamic_shared());
  const unsigned thread = threadIdx.x, warp = thread / 32 * 32;
  place[thread] = in[thread];
  if (fault != kNoWarpBarrier) __syncwarp();
  out[thread] = place[warp + 31 - thread % 32];
}

/// out[c] = sum of the values of cluster c, of which the blocks put one each into their shared memory.
__global__ void sum_clusters(const int* in, int cluster, int* out, Fault fault) {
  int* own = reinterpret_cast<int*>(dynamic_shared());
  const unsigned rank = blockIdx.x % cluster;
  if (threadIdx.x == 0) *own = in[blockIdx.x];
  if (fault != kNoClusterBarrierFirst) cluster_sync();
  if (rank == 0 && threadIdx.x < 32) {
    const int lane = threadIdx.x;
    int sum = lane < cluster ? *at_rank(own, lane) : 0;
    for (int flip = 16; flip > 0; flip /= 2) sum += __shfl_xor_sync(kAll, sum, flip);
    if (lane == 0) out[blockIdx.x / cluster] = sum;
  }
  if (fault != kNoClusterBarrierLast) cluster_sync();
}

/// out[block] = bits: anyone's value above 0, everyone's, any of the warp's, the number in the first warp.
__global__ void vote(const int* in, int* out) {
  const bool above = in[blockIdx.x * blockDim.x + threadIdx.x] > 0;
  const int any = __syncthreads_or(above), all = __syncthreads_and(above);
  const unsigned ballot = __ballot_sync(kAll, above);
  const int in_warp = __any_sync(kAll, above);
  unsigned first = 0;
  for (int lane = 0; lane < 32; ++lane) first += __shfl_sync(kAll, static_cast<unsigned>(above), lane);
  if (threadIdx.x == 0 && first == static_cast<unsigned>(__builtin_popcount(ballot))) {
    out[blockIdx.x] = any + 2 * all + 4 * in_warp + 8 * static_cast<int>(first);
  }
}

/// Every 16-bit number as a float, and back.
__global__ void convert(const __half* halves, const __nv_bfloat16* brains, float2* wide, __half2* half,
                        __nv_bfloat162* brain) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  wide[i] = make_float2(__half2float(halves[i]), __bfloat162float(brains[i]));
  half[i] = __floats2half2_rn(wide[i].x, wide[i].y);
  brain[i] = __floats2bfloat162_rn(wide[i].x, wide[i].y);
}

/// out[0] counts the blocks. Wrong: a block that relies on others having come before it.
__global__ void count_blocks(int* out, Fault fault) {
  if (fault != kOrderOfBlocks) return;
  out[0] = static_cast<int>(blockIdx.x) == out[0] ? out[0] + 1 : -1;
}

bool right = true;

template <class T>
void expect(const char* what, T got, T expected) {
  if (got == expected) return;
  printf("wrong result: %s: %g instead of %g\n", what, static_cast<double>(got),
         static_cast<double>(expected));
  right = false;
}

void sums(Fault fault) {
  for (const int count : {1, 3, 4, 127, 1030, 5000, 5003}) {
    std::vector<float> in(count), sums(3, -1.0f);
    std::iota(in.begin(), in.end(), 1.0f);
    const Launch how{3, 256, 8 * sizeof(float), 1, nullptr};
    expect("launch", launch(sum_blocks, how, in.data(), count, sums.data(), fault), cudaSuccess);
    expect("sum", sums[0] + sums[1] + sums[2],
           static_cast<float>(count / 2 * (count + 1) + count % 2 * (count + 1) / 2));
  }
}

void neighbours(Fault fault) {
  constexpr int kThreads = 96;
  std::vector<int> in(kThreads), out(kThreads);
  std::iota(in.begin(), in.end(), 0);
  launch(rotate, {1, kThreads, kThreads * sizeof(int), 1, nullptr}, in.data(), 5, out.data(), fault);
  for (int i = 0; i < kThreads; ++i) expect("rotate", out[i], (i + 5) % kThreads);
  std::vector<double> values(in.begin(), in.end()), mirrored(kThreads);
  launch(mirror, {1, kThreads, kThreads * sizeof(double), 1, nullptr}, values.data(), mirrored.data(), fault);
  for (int i = 0; i < kThreads; ++i) expect("mirror", mirrored[i], i / 32 * 32 + 31.0 - i % 32);
}

void clusters(Fault fault) {
  for (const int cluster : {1, 2, 5, 8}) {
    std::vector<int> in(3 * cluster), out(3, -1);
    std::iota(in.begin(), in.end(), 1);
    const Launch how{3u * cluster, 64, sizeof(int), static_cast<unsigned>(cluster), nullptr};
    expect("launch", launch(sum_clusters, how, in.data(), cluster, out.data(), fault), cudaSuccess);
    for (int i = 0; i < 3; ++i) expect("cluster", out[i], cluster * (2 * i * cluster + cluster + 1) / 2);
  }
}

void votes() {
  std::vector<int> in(4 * 64), out(4, -1);
  std::fill(in.begin() + 64, in.begin() + 128,
            1);  // block 1: all; 2: one of the second warp; 3: three of the first
  in[2 * 64 + 40] = in[3 * 64 + 1] = in[3 * 64 + 5] = in[3 * 64 + 31] = 1;
  launch(vote, {4, 64, 0, 1, nullptr}, in.data(), out.data());
  const int expected[] = {0, 7 + 8 * 32, 1, 5 + 8 * 3};
  for (int i = 0; i < 4; ++i) expect("vote", out[i], expected[i]);
}

void conversions() {
  constexpr int kNumbers = 1 << 16;
  std::vector<__half> halves(kNumbers);
  std::vector<__nv_bfloat16> brains(kNumbers);
  for (int i = 0; i < kNumbers; ++i) halves[i].bits = brains[i].bits = static_cast<uint16_t>(i);
  std::vector<float2> wide(kNumbers);
  std::vector<__half2> half(kNumbers);
  std::vector<__nv_bfloat162> brain(kNumbers);
  launch(convert, {kNumbers / 256, 256, 0, 1, nullptr}, halves.data(), brains.data(), wide.data(),
         half.data(), brain.data());
  for (int i = 0; i < kNumbers; ++i) {
    expect("half", int{half[i].x.bits}, wide[i].x == wide[i].x ? i : 0x7fff);
    expect("bf16", int{brain[i].y.bits}, wide[i].y == wide[i].y ? i : 0x7fff);
    if (i + 1 >= 0x7c00) continue;  // what lies between two neighbours goes to the even one
    const float middle = (wide[i].x + wide[i + 1].x) / 2;
    expect("rounded half", int{__float2half_rn(middle).bits}, i + i % 2);
    expect("rounded half", int{__float2half_rn(nextafterf(middle, 0.0f)).bits}, i);
    const float brain_middle = wide[i].y / 2 + wide[i + 1].y / 2;
    expect("rounded bf16", int{__float2bfloat16_rn(brain_middle).bits}, i + i % 2);
  }
  const float values[][2] = {{1.0f, 0x3c00},     {-2.5f, 0xc100},    {65504.0f, 0x7bff},
                             {65519.0f, 0x7bff}, {65520.0f, 0x7c00}, {0x1p-24f, 1},
                             {0x1p-25f, 0},      {0x1.8p-25f, 1},    {-1e9f, 0xfc00}};
  for (const auto& [value, bits] : values)
    expect("half", static_cast<float>(__float2half_rn(value).bits), bits);
  expect("exp2", fast_exp2(-3.0f), 0.125f);
  expect("exp2 of -inf", fast_exp2(-std::numeric_limits<float>::infinity()), 0.0f);
  expect("exp2 without denormals", fast_exp2(-126.5f), 0.0f);
}

/// What CUDA refuses, and the attributes.
void rules(Fault fault) {
  const emulator::Device before = emulator::device;
  int counted = 0;
  const auto start = [&](unsigned blocks, unsigned threads, unsigned bytes, unsigned cluster) {
    return launch(count_blocks, {blocks, threads, bytes, cluster, nullptr}, &counted, fault);
  };
  expect("1024 threads", start(1, 1024, 0, 1), cudaSuccess);
  expect("1025 threads", start(1, 1025, 0, 1), cudaErrorInvalidConfiguration);
  expect("no threads", start(1, 0, 0, 1), cudaErrorInvalidConfiguration);
  expect("no blocks", start(0, 1, 0, 1), cudaErrorInvalidConfiguration);
  expect("cluster of 8", start(16, 1, 0, 8), cudaSuccess);
  expect("cluster of 9", start(18, 1, 0, 9), cudaErrorInvalidClusterSize);
  expect("part of a cluster", start(9, 1, 0, 2), cudaErrorInvalidClusterSize);
  expect("48 KB", start(1, 1, 48 << 10, 1), cudaSuccess);
  expect("more than 48 KB", start(1, 1, (48 << 10) + 1, 1), cudaErrorInvalidValue);
  constexpr auto kBytes = cudaFuncAttributeMaxDynamicSharedMemorySize;
  expect("more than there is", cudaFuncSetAttribute(count_blocks, kBytes, 228 << 10), cudaErrorInvalidValue);
  expect("as much as there is", cudaFuncSetAttribute(count_blocks, kBytes, 227 << 10), cudaSuccess);
  expect("227 KB", start(1, 1, 227 << 10, 1), cudaSuccess);
  emulator::device.major = 8;
  expect("cluster on sm_80", start(4, 1, 0, 2), cudaErrorInvalidValue);
  expect("no cluster on sm_80", start(4, 1, 0, 1), cudaSuccess);
  emulator::device = before;
  counted = 0;
  const int launches = emulator::record.launches;
  start(5, 1, 0, 1);
  expect("blocks", counted, fault == kOrderOfBlocks ? 5 : 0);
  expect("launches", emulator::record.launches, launches + 1);
  int device = -1, value = 0;
  expect("device", cudaGetDevice(&device), cudaSuccess);
  cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
  expect("multiprocessors", value, 132);
}

int test(const std::string& order, const std::string& name) {
  emulator::device.order = order == "ascending"    ? emulator::Order::kAscending
                           : order == "descending" ? emulator::Order::kDescending
                                                   : emulator::Order::kRandom;
  if (emulator::device.order == emulator::Order::kRandom) emulator::device.seed = std::stoul(order);
  int fault = 0;
  while (fault < kFaults && name != kNames[fault]) ++fault;
  if (fault == kFaults) return printf("no such fault: %s\n", name.c_str()), 2;
  sums(static_cast<Fault>(fault));
  neighbours(static_cast<Fault>(fault));
  clusters(static_cast<Fault>(fault));
  votes();
  conversions();
  rules(static_cast<Fault>(fault));
  printf("%s\n", right ? "all right" : "not right");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace ipr::cuda

int main(int count, char** words) {
  if (count < 2) return printf("usage: emulator_test ascending|descending|SEED [FAULT]\n"), 2;
  return ipr::cuda::test(words[1], count > 2 ? words[2] : "none");
}
