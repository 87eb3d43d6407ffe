// The vectors that the CPU kernels are written in: as wide as the instruction set that a source is compiled
// for.
//
// Everything here has internal linkage: the same inline function compiled for several instruction sets must
// never be merged by the linker. For that reason kernels also use no templates of the standard library.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif
#if defined(__AVX512F__) && !defined(__clang__)
#pragma GCC diagnostic ignored \
    "-Wmaybe-uninitialized"  // GCC 12's own header: a deliberately undefined operand
#endif

#define IPR_INLINE static inline __attribute__((always_inline))
#define IPR_MEMBER __attribute__((always_inline))

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

/// Lanes of computation: Real is float or double, Int the integer of its size.
template <class Real>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float Vector __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Ints __attribute__((vector_size(kVectorBytes)));
  typedef float Unaligned __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
  static constexpr int kCount = kVectorBytes / 4;
};
template <>
struct Lanes<double> {
  typedef double Vector __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Ints __attribute__((vector_size(kVectorBytes)));
  typedef double Unaligned __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  static constexpr int kCount = kVectorBytes / 8;
};

using Floats = Lanes<float>::Vector;
using Doubles = Lanes<double>::Vector;
using FloatBits = Lanes<float>::Ints;
using DoubleBits = Lanes<double>::Ints;

/// What computes an element: itself, or float for the halves.
template <class Element>
struct Compute {
  using Real = float;
};
template <>
struct Compute<double> {
  using Real = double;
};

template <class To, class From>
IPR_INLINE To bit_cast(From from) {
  To to;
  static_assert(sizeof(to) == sizeof(from));
  memcpy(&to, &from, sizeof(to));
  return to;
}

IPR_INLINE Floats load(const float* p) { return *reinterpret_cast<const Lanes<float>::Unaligned*>(p); }
IPR_INLINE Doubles load(const double* p) { return *reinterpret_cast<const Lanes<double>::Unaligned*>(p); }
IPR_INLINE Floats load(const BFloat16* p) {
#if defined(__AVX512F__)
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
#else
  return bit_cast<Floats>(
      __builtin_convertvector(*reinterpret_cast<const Lanes<float>::Halves*>(p), FloatBits) << 16);
#endif
}
IPR_INLINE Floats load(const Float16* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  const FloatBits half =
      __builtin_convertvector(*reinterpret_cast<const Lanes<float>::Halves*>(p), FloatBits);
  const FloatBits magnitude = (half & 0x7fff) << 13;
  const FloatBits scaled = bit_cast<FloatBits>(bit_cast<Floats>(magnitude) * 0x1p112f);
  const FloatBits value = magnitude >= (0x7c00 << 13) ? magnitude | 0x7f800000 : scaled;
  return bit_cast<Floats>(value | ((half & 0x8000) << 16));
#endif
}

/// Whether load_pair() is to be had, and cheaper than load() twice.
template <class Element>
constexpr bool kHasPairs = false;
template <>
constexpr bool kHasPairs<BFloat16> = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;

/// Two vectors of elements: those at even places, and those at odd ones.
IPR_INLINE void load_pair(const BFloat16* p, Floats& even, Floats& odd) {
  FloatBits pairs;
  memcpy(&pairs, p, sizeof(pairs));  // not load(): p need not be aligned to a float
  even = bit_cast<Floats>(pairs << 16);
  odd = bit_cast<Floats>(pairs & static_cast<int32_t>(0xffff0000));
}

/// The lanes as elements, to nearest, ties to even.
template <class Element>
struct Narrow;
template <>
struct Narrow<float> {
  IPR_INLINE Floats of(Floats v) { return v; }
};
template <>
struct Narrow<double> {
  IPR_INLINE Doubles of(Doubles v) { return v; }
};
template <>
struct Narrow<BFloat16> {
  IPR_INLINE auto of(Floats v) {
    const FloatBits bits = bit_cast<FloatBits>(v);
    const FloatBits rounded = bits + 0x7fff + ((bits >> 16) & 1);
    const FloatBits half = v == v ? rounded : FloatBits{} + 0x7fc00000;
#if defined(__AVX512F__)
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(reinterpret_cast<__m512i>(half), 16));
#else
    return __builtin_convertvector((half >> 16) & 0xffff, Lanes<float>::Halves);
#endif
  }
};
template <>
struct Narrow<Float16> {
  IPR_INLINE auto of(Floats v) {
#if defined(__AVX512F__)
    return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__AVX2__)
    return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#else
    const FloatBits bits = bit_cast<FloatBits>(v);
    const FloatBits magnitude = bits & 0x7fffffff;
    // Normal halves: rebias the exponent and round; a carry runs into the exponent.
    const FloatBits normal = (magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    // Subnormal halves: adding 0.5 leaves the rounded multiple of 2^-24 in the low bits.
    const FloatBits subnormal = bit_cast<FloatBits>(bit_cast<Floats>(magnitude) + 0.5f) - 0x3f000000;
    FloatBits half = magnitude < (113 << 23) ? subnormal : normal;
    half = half > 0x7c00 ? FloatBits{} + 0x7c00 : half;
    half = v == v ? half : FloatBits{} + 0x7e00;
    return __builtin_convertvector(half | ((bits >> 16) & 0x8000), Lanes<float>::Halves);
#endif
  }
};

template <class Element, class Vector>
IPR_INLINE void store(Element* p, Vector v) {
  const auto lanes = Narrow<Element>::of(v);
  memcpy(p, &lanes, sizeof(lanes));
}

/// A store past the caches, to an address aligned to the vector: no cache line is read only to be
/// overwritten.
template <class Element, class Vector>
IPR_INLINE void stream(Element* p, Vector v) {
  const auto lanes = Narrow<Element>::of(v);
#if defined(__AVX512F__)
  if constexpr (sizeof(lanes) == 64)
    return _mm512_stream_si512(reinterpret_cast<__m512i*>(p), bit_cast<__m512i>(lanes));
#endif
#if defined(__AVX2__)
  if constexpr (sizeof(lanes) == 32)
    return _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bit_cast<__m256i>(lanes));
  if constexpr (sizeof(lanes) == 16)
    return _mm_stream_si128(reinterpret_cast<__m128i*>(p), bit_cast<__m128i>(lanes));
#endif
  memcpy(p, &lanes, sizeof(lanes));
}

/// Makes streamed stores visible to other threads.
IPR_INLINE void end_stream() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

/// The first `count` lanes; the others are zero. For the last bytes of a buffer: it is slow.
template <class Element>
IPR_INLINE auto load_first(const Element* p, int64_t count) {
  using Real = typename Compute<Element>::Real;
  Element lanes[Lanes<Real>::kCount] = {};
  for (int64_t i = 0; i < count; ++i) lanes[i] = p[i];
  return load(lanes);
}
template <class Element, class Vector>
IPR_INLINE void store_first(Element* p, Vector v, int64_t count) {
  const auto lanes = Narrow<Element>::of(v);
#if defined(__AVX512F__)
  const uint32_t mask = (1u << count) - 1;
  if constexpr (sizeof(Element) == 8) return _mm512_mask_storeu_pd(p, mask, lanes);
  if constexpr (sizeof(Element) == 4) return _mm512_mask_storeu_ps(p, mask, lanes);
  if constexpr (sizeof(Element) == 2) return _mm256_mask_storeu_epi16(p, mask, bit_cast<__m256i>(lanes));
#else
  Element elements[sizeof(lanes) / sizeof(Element)];
  memcpy(elements, &lanes, sizeof(lanes));
  for (int64_t i = 0; i < count; ++i) p[i] = elements[i];
#endif
}

/// -1 in the first `count` lanes, 0 in the others.
template <class Real>
IPR_INLINE typename Lanes<Real>::Ints first(int64_t count) {
  typename Lanes<Real>::Ints lane;
  for (int i = 0; i < Lanes<Real>::kCount; ++i) lane[i] = i;
  return lane < typename Lanes<Real>::Ints{} + static_cast<decltype(lane[0] + 0)>(count);
}

IPR_INLINE float sum(Floats v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(v);
#else
  float total = 0;
  for (int i = 0; i < Lanes<float>::kCount; ++i) total += v[i];
  return total;
#endif
}
IPR_INLINE double sum(Doubles v) {
  double total = 0;
  for (int i = 0; i < Lanes<double>::kCount; ++i) total += v[i];
  return total;
}

/// x within -limit..limit; NaN stays NaN.
IPR_INLINE Floats clamp(Floats x, float limit) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return _mm256_min_ps(_mm256_set1_ps(limit), _mm256_max_ps(_mm256_set1_ps(-limit), x));
#else
  x = x < -limit ? Floats{} - limit : x;
  return x > limit ? Floats{} + limit : x;
#endif
}

/// e^x to 2e-7 relative (and 4e-8 |x|) for float, 4e-16 (1e-16 |x|) for double. 0 below about -87 (-708), NaN
/// of NaN, and at least 1e38 (1e307) from 88 (709) on. The float polynomials are minimax fits of 2^r, exact
/// at 0.
IPR_INLINE Floats exp(Floats x) {
  constexpr float kLog2e = 1.44269504088896341f;
#if defined(__AVX512F__)
  const Floats y = x * kLog2e;
  const Floats r = _mm512_reduce_ps(y, 1);  // y - floor(y); 0 for infinities
  Floats p = r * 1.867130082e-3f + 9.017030285e-3f;
  p = p * r + 5.579991315e-2f;
  p = p * r + 2.401644501e-1f;
  p = p * r + 6.931513118e-1f;
  p = p * r + 1.f;
  return _mm512_scalef_ps(p, y);
#else
  constexpr float kRound = 12582912.f + 127.f;  // added, it leaves round(y) + 127 in the low bits
  x = clamp(x, 88.02969f);                      // 127 log 2: at its negative the factor below becomes 0
  const Floats t = x * kLog2e + kRound;
  const Floats r = x * kLog2e - (t - kRound);
  Floats p = r * 1.326472714e-3f + 9.671512640e-3f;
  p = p * r + 5.550733743e-2f;
  p = p * r + 2.402224209e-1f;
  p = p * r + 6.931469776e-1f;
  p = p * r + 1.f;
  return p * bit_cast<Floats>(bit_cast<FloatBits>(t) << 23);  // a product, so that NaN stays NaN
#endif
}
IPR_INLINE Doubles exp(Doubles x) {
  constexpr double kLog2e = 1.4426950408889634074;
  constexpr double kLn2High = 0.693147180559662956511601805687, kLn2Low = 2.82352905630315771225884481750e-13;
  constexpr double kRound = 6755399441055744. + 1023.;
  constexpr double kFactorial[] = {1.,   1.,    2.,     6.,      24.,      120.,
                                   720., 5040., 40320., 362880., 3628800., 39916800.};
  x = x < -708.9 ? Doubles{} - 708.9 : x;
  x = x > 709. ? Doubles{} + 709. : x;
  const Doubles t = x * kLog2e + kRound;
  const Doubles n = t - kRound;
  const Doubles r = (x - n * kLn2High) - n * kLn2Low;
  Doubles p = Doubles{} + 1. / 479001600.;  // Taylor's series to r^12, |r| <= log(2) / 2
#pragma GCC unroll 12
  for (int k = 11; k >= 0; --k) p = p * r + 1. / kFactorial[k];
  return p * bit_cast<Doubles>(bit_cast<DoubleBits>(t) << 52);
}

/// e^(x - reference).
template <class Real>
struct ExpFrom {
  using Vector = typename Lanes<Real>::Vector;
  IPR_MEMBER Vector operator()(Vector x) const { return exp(x - reference); }
  Real reference;
};

/// e^x in the fewest steps.
template <class Real>
struct FastExp {
  using Vector = typename Lanes<Real>::Vector;
  IPR_MEMBER Vector operator()(Vector x) const { return exp(x); }
};
#if defined(__AVX512F__)
/// To 2.5e-7 relative (and 2e-8 |x|), as a product, for the caller's sum to take in as an FMA. NaN of
/// infinities and from +-1e26 or so on.
///
/// With y = x log2(e) = j / 32 + r, |r| <= 1/64, and u = r + 46/32 it is 2^(j / 32), of which a table has the
/// fraction of the exponent, times c (u^2 + b): a parabola with its vertex at -46/32, so near to the best one
/// (at -1 / log(2)) that no term for r alone is missed: b and c are a minimax fit to 1.3e-7.
template <>
struct FastExp<float> {
  IPR_MEMBER Floats operator()(Floats x) const {
    constexpr float kRound = 393216.f;  // 1.5 * 2^18: added, it leaves j in the low bits
    const Floats log2e = Floats{} + 1.44269504088896341f;
    const Floats t = _mm512_fmadd_ps(x, log2e, Floats{} + kRound);
    const Floats d = t - (kRound + 1.4375f);        // (j - 46) / 32
    const Floats u = _mm512_fmsub_ps(x, log2e, d);  // rounded once
    const Floats p = u * u + 2.08126f;
    const Floats power = _mm512_permutex2var_ps(low, bit_cast<__m512i>(t), high);
    return p * _mm512_scalef_ps(power, d);
  }

  // c 2^(k / 32), times what d's whole part lacks of j's: 2^2 for k < 14, 2^1 from there on
  Floats low = {0.964397675f, 0.985515234f, 1.00709521f, 1.02914772f, 1.05168312f, 1.07471198f,
                1.09824511f,  1.12229355f,  1.14686858f, 1.17198173f, 1.19764479f, 1.22386979f,
                1.25066905f,  1.27805514f,  0.65302045f, 0.667319736f};
  Floats high = {0.681932136f, 0.696864505f, 0.712123851f, 0.727717332f, 0.743652267f, 0.759936131f,
                 0.776576566f, 0.793581378f, 0.810958548f, 0.828716228f, 0.84686275f,  0.865406629f,
                 0.884356567f, 0.903721454f, 0.923510377f, 0.943732621f};
};
#endif

}  // namespace
