// What the library says of itself; the operators are in ops/.
#include "ops.h"

#include "cpu/isa.h"

#define IPR_EXPORT __attribute__((visibility("default")))

IPR_EXPORT int ipr_ops_version() { return 2; }
#ifndef IPR_BUILD_INFO
#define IPR_BUILD_INFO "unknown | unknown | unknown"
#endif
IPR_EXPORT const char* ipr_ops_build_info() { return IPR_BUILD_INFO; }
IPR_EXPORT const char* ipr_ops_isa() { return ipr::cpu::isa(); }
IPR_EXPORT int ipr_ops_use_isa(const char* isa) { return ipr::cpu::use_isa(isa); }
