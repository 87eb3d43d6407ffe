// How kernels share their work out to threads, which torch provides, and the memory that each thread works
// in.
#pragma once

#include <cstdint>
#include <memory>

namespace ipr::cpu {

/// Runs body(begin, end, context) over parts of begin..end on several threads, each at least `grain` long.
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);

/// The same with any f(begin, end).
template <class F>
void run(ParallelFor parallel_for, int64_t count, int64_t grain, const F& f) {
  parallel_for(
      0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<const F*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

/// Memory aligned to 64.
struct Scratch {
  explicit Scratch(int64_t bytes) : memory(new char[bytes + 64]) {}
  void* get() const {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) & ~uintptr_t{63});
  }
  std::unique_ptr<char[]> memory;
};

}  // namespace ipr::cpu
