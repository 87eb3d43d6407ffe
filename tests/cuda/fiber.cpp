#include "fiber.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef __x86_64__
// swapcontext without its two system calls, which take most of its time. What a function must keep are six
// registers and the stack pointer.
extern "C" void ipr_emulator_switch(void** save, void* load);
asm(R"(
.text
.type ipr_emulator_switch, @function
ipr_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size ipr_emulator_switch, .-ipr_emulator_switch
)");
#endif

namespace ipr::cuda::emulator {
namespace {

constexpr size_t kPage = 4096;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t kStack = 256 << 10;  // with red zones, frames are several times as large
#else
constexpr size_t kStack = 64 << 10;
#endif

void (*start)() = nullptr;

/// Without red zones of its own, since it never returns and so would never take them away.
#ifdef __SANITIZE_ADDRESS__
__attribute__((no_sanitize("address")))
#endif
void begin() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, &outside.stack, &outside.size);
#endif
  start();
  abort();
}

}  // namespace

void make(Fiber& fiber, void (*body)()) {
  start = body;
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* const memory = mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kPage, PROT_NONE) != 0) {  // a stack that overflows must show
    perror("emulator: no stack for another thread");
    abort();
  }
  char* const stack = static_cast<char*>(memory) + kPage;
  fiber.stack = stack;
  fiber.size = kStack;
#ifdef __x86_64__
  void** top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;  // where begin() would return to; keeps its stack aligned as a call does
  *--top = reinterpret_cast<void*>(&begin);
  fiber.stack_pointer = top - 6;
#else
  getcontext(&fiber.registers);
  fiber.registers.uc_stack.ss_sp = stack;
  fiber.registers.uc_stack.ss_size = kStack;
  makecontext(&fiber.registers, begin, 0);
#endif
}

void go(Fiber& from, Fiber& to) {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&from.asan, to.stack, to.size);
#endif
#ifdef __x86_64__
  ipr_emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.registers, &to.registers);
#endif
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(from.asan, nullptr, nullptr);
#endif
}

}  // namespace ipr::cuda::emulator
