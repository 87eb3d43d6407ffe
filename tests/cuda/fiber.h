// Fibers: functions with stacks of their own, which stop and go on where they choose.
#pragma once

#include <cstddef>
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace ipr::cuda::emulator {

/// Where a stopped fiber goes on.
struct Fiber {
#ifdef __x86_64__
  void* stack_pointer = nullptr;
#else
  ucontext_t registers;
#endif
  const void* stack = nullptr;
  size_t size = 0;
  void* asan = nullptr;
};

/// The one that was there before all others.
inline Fiber outside;

/// Gives `fiber` a stack. When it is gone to, it starts with body(), which must not return.
void make(Fiber& fiber, void (*body)());

/// Stops `from`, which is running, and lets `to` run. Returns when somebody goes to `from`.
void go(Fiber& from, Fiber& to);

}  // namespace ipr::cuda::emulator
