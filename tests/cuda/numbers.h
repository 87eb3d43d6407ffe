// CUDA's vector and 16-bit types for the emulator. Vectors have the alignment that they have on a device, so
// that UBSan reports a misaligned one as a device would.
#pragma once

#include <bit>
#include <cstdint>

#define IPR_VECTOR2(name, T)           \
  struct alignas(2 * sizeof(T)) name { \
    T x, y;                            \
  };                                   \
  inline name make_##name(T x, T y) { return {x, y}; }
#define IPR_VECTOR4(name, T) \
  struct alignas(16) name {  \
    T x, y, z, w;            \
  };                         \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }
IPR_VECTOR2(int2, int)
IPR_VECTOR2(uint2, unsigned)
IPR_VECTOR2(float2, float)
IPR_VECTOR2(double2, double)
IPR_VECTOR4(int4, int)
IPR_VECTOR4(uint4, unsigned)
IPR_VECTOR4(float4, float)
#undef IPR_VECTOR2
#undef IPR_VECTOR4

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }

// Both 16-bit types round to the nearest, ties to even, and have one NaN, as on a device.

struct __nv_bfloat16 {
  uint16_t bits;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline float __bfloat162float(__nv_bfloat16 value) { return __uint_as_float(uint32_t{value.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
  if (value != value) return {0x7fff};
  const uint32_t bits = __float_as_uint(value);
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
inline float2 __bfloat1622float2(__nv_bfloat162 value) {
  return {__bfloat162float(value.x), __bfloat162float(value.y)};
}

struct __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
inline float __half2float(__half value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = (value.bits & 0x7fffu) << 13;
  // As a float's bits the exponent is 112 too small, also that of a denormal.
  const uint32_t bits = magnitude >= 0x7c00u << 13 ? magnitude | 0x7f800000
                                                   : __float_as_uint(__uint_as_float(magnitude) * 0x1p112f);
  return __uint_as_float(bits | sign);
}
inline __half __float2half_rn(float value) {
  const uint32_t sign = __float_as_uint(value) >> 16 & 0x8000, bits = __float_as_uint(value) & 0x7fffffff;
  uint32_t half;
  if (bits > 0x7f800000) return {0x7fff};
  if (bits >= __float_as_uint(65520.0f))
    half = 0x7c00;
  else if (bits >= __float_as_uint(0x1p-14f))
    half = ((bits + 0xfff + (bits >> 13 & 1)) >> 13) - (112 << 10);
  else
    half = __float_as_uint(__uint_as_float(bits) + 0.5f) - __float_as_uint(0.5f);  // 0.5's ulp: 2^-24
  return {static_cast<uint16_t>(half | sign)};
}
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 value) { return {__half2float(value.x), __half2float(value.y)}; }
