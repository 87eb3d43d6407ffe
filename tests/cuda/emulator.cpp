// The emulator's fibers and scheduler. One fiber per thread of a cluster; fibers and their stacks serve again
// for the next cluster.
#include "emulator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <vector>

#include "fiber.h"

namespace ipr::cuda::emulator {
namespace {

// The cluster that runs.

struct Thread {
  Fiber fiber;
  unsigned block = 0, index = 0;  // rank in the cluster, threadIdx.x
  bool ended = false;
  const char* what = nullptr;  // it waits for
  Where where;
  std::array<uint64_t, 32> lanes;
};

struct Barrier {
  unsigned waiting = 0, votes = 0;
  const char* what = nullptr;
  Where where;
};

/// Lanes that meet in an exchange, some of which have come.
struct Meeting {
  unsigned mask, present;
  Where where;
  std::array<uint64_t, 32> values;
};

struct Block {
  std::unique_ptr<char, decltype(&free)> shared{nullptr, &free};
  bool started = false;
  unsigned ended = 0;
  Barrier barrier;
  int votes = 0;  // of the last barrier
  std::vector<std::vector<Meeting>> meetings;
};

struct Cluster {
  Launch how{};
  unsigned first_block = 0, size = 1;
  void (*call)(const void*) = nullptr;
  const void* context = nullptr;
  std::vector<Block> blocks;
  Barrier barrier;
};

Cluster cluster;
std::vector<std::unique_ptr<Thread>> threads;  // those of the cluster's blocks, one block after another
Thread* current = nullptr;
std::mt19937 generator;
using Entry = std::pair<unsigned, unsigned>;  // priority, number of the thread
std::priority_queue<Entry, std::vector<Entry>, std::greater<>> ready;

bool same(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() && !strcmp(a.file_name(), b.file_name());
}

void print(const char* what, const Where& where) {
  fprintf(stderr, "%s (%s:%u, %s)", what, where.file_name(), where.line(), where.function_name());
}

/// Ends the program without a trace: the stack that is current means nothing to the reader.
[[noreturn]] void end() {
  fputc('\n', stderr);
  fflush(nullptr);
  _Exit(3);
}

void print_current() {
  fprintf(stderr, "\nemulator: launch %d, block %u, thread %u: ", record.launches,
          cluster.first_block + current->block, current->index);
}

void wake(const Thread& thread) {
  const unsigned number = thread.block * cluster.how.threads + thread.index;
  const unsigned priority = device.order == Order::kAscending    ? number
                            : device.order == Order::kDescending ? ~number
                                                                 : static_cast<unsigned>(generator());
  ready.push({priority, number});
}

void wake_block(unsigned rank) {
  for (unsigned i = 0; i < cluster.how.threads; ++i) wake(*threads[rank * cluster.how.threads + i]);
}

/// Lets others run until somebody wakes this thread.
void pause(const char* what, const Where& where) {
  current->what = what;
  current->where = where;
  go(current->fiber, outside);
}

/// A block's memory holds what is a NaN in every type, or a large number, which a maximum cannot hide.
void start(Block& block) {
  block.started = true;
  memset(block.shared.get(), device.order == Order::kDescending ? 0x7e : 0xff, cluster.how.shared_bytes);
}

void finish(Thread& thread) {
  thread.ended = true;
  Block& block = cluster.blocks[thread.block];
  if (++block.ended == cluster.how.threads) block.shared.reset();  // who still reads it learns so from ASan
}

/// Everyone waits: says in what, with one thread of each kind as an example.
[[noreturn]] void fail_stuck() {
  fprintf(stderr, "\nemulator: launch %d: threads wait for others that never come:", record.launches);
  std::vector<std::pair<const Thread*, unsigned>> kinds;
  for (unsigned i = 0; i < cluster.size * cluster.how.threads; ++i) {
    const Thread& thread = *threads[i];
    const auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const auto& other) {
      const Thread& that = *other.first;
      return that.block == thread.block && that.ended == thread.ended &&
             (that.ended || same(that.where, thread.where));
    });
    if (kind == kinds.end())
      kinds.push_back({&thread, 1});
    else
      ++kind->second;
  }
  for (const auto& [thread, count] : kinds) {
    fprintf(stderr, "\n  block %u, thread %u and %u more: ", cluster.first_block + thread->block,
            thread->index, count - 1);
    if (thread->ended)
      fprintf(stderr, "ended");
    else
      print(thread->what, thread->where);
  }
  end();
}

/// Counts this thread in. True: all are there, and the barrier is open for the next time.
bool arrive(Barrier& barrier, unsigned expected, const char* what, const Where& where) {
  if (barrier.waiting == 0) {
    barrier.what = what;
    barrier.where = where;
  } else if (!same(barrier.where, where)) {
    print_current();
    fprintf(stderr, "waits in another barrier than others of its block: in ");
    print(what, where);
    fprintf(stderr, ", not in ");
    print(barrier.what, barrier.where);
    end();
  }
  if (++barrier.waiting < expected) return false;
  barrier.waiting = 0;
  return true;
}

void run_cluster() {
  const unsigned count = cluster.size * cluster.how.threads;
  cluster.blocks.clear();
  cluster.blocks.resize(cluster.size);
  cluster.barrier = {};
  for (Block& block : cluster.blocks) {
    block.shared.reset(static_cast<char*>(malloc(cluster.how.shared_bytes)));
    block.meetings.resize((cluster.how.threads + 31) / 32);
  }
  for (unsigned i = 0; i < count; ++i) {
    Thread& thread = *threads[i];
    thread.block = i / cluster.how.threads;
    thread.index = i % cluster.how.threads;
    thread.ended = false;
    wake(thread);
  }
  unsigned ended = 0;
  while (!ready.empty()) {
    current = threads[ready.top().second].get();
    ready.pop();
    blockIdx = {cluster.first_block + current->block, 0, 0};
    threadIdx = {current->index, 0, 0};
    if (!cluster.blocks[current->block].started) start(cluster.blocks[current->block]);
    go(outside, current->fiber);
    ended += current->ended;
  }
  if (ended < count) fail_stuck();
}

/// What every fiber does, for ever: runs a thread, and waits for the next one.
void run_threads() {
  for (;;) {
    cluster.call(cluster.context);
    finish(*current);
    go(current->fiber, outside);
  }
}

std::map<Kernel, int>& allowed_shared() {
  static std::map<Kernel, int> bytes;
  return bytes;
}

}  // namespace

void fail(const char* message, const char* what, const Where& where) {
  print_current();
  print(what, where);
  fprintf(stderr, " %s", message);
  end();
}

char* dynamic_shared() { return cluster.blocks[current->block].shared.get(); }

char* at_rank(char* shared, unsigned rank) {
  const char* begin = dynamic_shared();
  if (shared < begin || shared > begin + cluster.how.shared_bytes || rank >= cluster.size) {
    fail("is not given this block's shared memory and a rank in the cluster", "at_rank", Where::current());
  }
  Block& there = cluster.blocks[rank];
  if (!there.started)
    fail("names a block that may not have started: cluster_sync first", "at_rank", Where::current());
  if (!there.shared) fail("names a block that has ended: cluster_sync last", "at_rank", Where::current());
  return there.shared.get() + (shared - begin);
}

int block_barrier(const char* what, bool predicate, const Where& where) {
  const unsigned rank = current->block;
  Block& block = cluster.blocks[rank];
  block.barrier.votes += predicate;
  if (arrive(block.barrier, cluster.how.threads, what, where)) {
    block.votes = static_cast<int>(std::exchange(block.barrier.votes, 0));
    wake_block(rank);
  }
  pause(what, where);
  return block.votes;
}

void cluster_barrier(const Where& where) {
  if (arrive(cluster.barrier, cluster.size * cluster.how.threads, "cluster_sync", where)) {
    for (unsigned rank = 0; rank < cluster.size; ++rank) wake_block(rank);
  }
  pause("cluster_sync", where);
}

std::array<uint64_t, 32> exchange(const char* what, unsigned mask, uint64_t value, const Where& where) {
  const unsigned first = current->index / 32 * 32, lane = current->index - first;
  const unsigned lanes = std::min(32u, cluster.how.threads - first);
  if (!(mask >> lane & 1)) fail("is called by a lane that is not in the mask", what, where);
  if (lanes < 32 && mask >> lanes) fail("has lanes in its mask that the block does not have", what, where);
  std::vector<Meeting>& meetings = cluster.blocks[current->block].meetings[first / 32];
  auto meeting =
      std::find_if(meetings.begin(), meetings.end(), [=](const Meeting& m) { return m.mask == mask; });
  if (meeting == meetings.end()) meeting = meetings.insert(meetings.end(), {mask, 0, where, {}});
  if (!same(meeting->where, where)) fail("is not where other lanes of its mask are", what, where);
  meeting->values[lane] = value;
  meeting->present |= 1u << lane;
  if (meeting->present == mask) {
    for (unsigned i = 0; i < lanes; ++i) {
      if (!(mask >> i & 1)) continue;
      Thread& thread = *threads[current->block * cluster.how.threads + first + i];
      thread.lanes = meeting->values;
      wake(thread);
    }
    meetings.erase(meeting);
  }
  pause(what, where);
  return current->lanes;
}

cudaError_t allow_shared(Kernel kernel, int bytes) {
  if (bytes < 0 || bytes > device.shared_bytes_optin) return cudaErrorInvalidValue;
  allowed_shared()[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t run(Kernel kernel, const Launch& how, void (*thread)(const void*), const void* context) {
  constexpr unsigned kMostBlocks = 0x7fffffff, kMostThreads = 1024, kMostInCluster = 8, kShared = 48 << 10;
  const auto allowed = allowed_shared().find(kernel);
  const unsigned shared =
      std::max<unsigned>(kShared, allowed == allowed_shared().end() ? 0 : allowed->second);
  if (how.blocks == 0 || how.blocks > kMostBlocks || how.threads == 0 || how.threads > kMostThreads) {
    return cudaErrorInvalidConfiguration;
  }
  if (how.shared_bytes > shared) return cudaErrorInvalidValue;
  const unsigned size = std::max(how.cluster, 1u);
  if (size > 1 && device.major < 9) return cudaErrorInvalidValue;
  if (size > kMostInCluster || how.blocks % size != 0) return cudaErrorInvalidClusterSize;

  while (threads.size() < size_t{size} * how.threads) {
    threads.push_back(std::make_unique<Thread>());
    make(threads.back()->fiber, run_threads);
  }
  generator.seed(device.seed);
  cluster.how = how;
  cluster.size = size;
  cluster.call = thread;
  cluster.context = context;
  blockDim = {how.threads, 1, 1};
  gridDim = {how.blocks, 1, 1};
  std::vector<unsigned> order(how.blocks / size);
  for (unsigned i = 0; i < order.size(); ++i) order[i] = i * size;
  if (device.order == Order::kDescending) std::reverse(order.begin(), order.end());
  if (device.order == Order::kRandom) std::shuffle(order.begin(), order.end(), generator);
  for (const unsigned first : order) {
    cluster.first_block = first;
    run_cluster();
  }
  ++record.launches;
  record.last = how;
  return cudaSuccess;
}

}  // namespace ipr::cuda::emulator

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    case cudaErrorInvalidClusterSize:
      return "cluster size is invalid";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
  const ipr::cuda::emulator::Device& device = ipr::cuda::emulator::device;
  if (index != 0) return cudaErrorInvalidValue;
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = 48 << 10;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = device.multiprocessors;
      break;
    case cudaDevAttrL2CacheSize:
      *value = 50 << 20;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = device.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = device.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = device.shared_bytes_optin + (1 << 10);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = device.shared_bytes_optin;
      break;
  }
  return cudaSuccess;
}
