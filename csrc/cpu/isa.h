// Which instruction set's kernels run.
#pragma once

namespace ipr::cpu {

enum class Isa { kNone, kBaseline, kAvx2, kAvx512 };  // kNone: IPR_ISA names one that is not to be had

Isa current_isa();
/// Its name; "" of kNone.
const char* isa();
/// Chooses another one for the whole process; false, and no change: it is not to be had.
bool use_isa(const char* name);

}  // namespace ipr::cpu

/// What `name` is in the namespace of the instruction set in use.
#if defined(__x86_64__)
#define IPR_OF_ISA(name)                                                \
  (::ipr::cpu::current_isa() == ::ipr::cpu::Isa::kAvx512 ? avx512::name \
   : ::ipr::cpu::current_isa() == ::ipr::cpu::Isa::kAvx2 ? avx2::name   \
                                                         : baseline::name)
#else
#define IPR_OF_ISA(name) (baseline::name)
#endif
