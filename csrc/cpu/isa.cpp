#include "cpu/isa.h"

#include <cstdlib>
#include <cstring>

namespace ipr::cpu {
namespace {

constexpr const char* kNames[] = {"", "baseline", "avx2", "avx512"};

/// The best one that this CPU has, or the one asked for.
Isa find_isa(const char* wanted) {
  const auto fits = [&](Isa isa) {
    return wanted == nullptr || std::strcmp(wanted, kNames[static_cast<int>(isa)]) == 0;
  };
#if defined(__x86_64__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && fits(Isa::kAvx512)) return Isa::kAvx512;
  if (avx2 && fits(Isa::kAvx2)) return Isa::kAvx2;
#endif
  return fits(Isa::kBaseline) ? Isa::kBaseline : Isa::kNone;
}

Isa& chosen() {
  static const char* const wanted = std::getenv("IPR_ISA");
  static Isa isa = find_isa(wanted != nullptr && *wanted != '\0' ? wanted : nullptr);
  return isa;
}

}  // namespace

Isa current_isa() { return chosen(); }

const char* isa() { return kNames[static_cast<int>(chosen())]; }

bool use_isa(const char* name) {
  const Isa isa = find_isa(name);
  if (isa == Isa::kNone) return false;
  chosen() = isa;
  return true;
}

}  // namespace ipr::cpu
