// Elements of a tensor, in the widest words that alignment allows, as the numbers that kernels compute with.
#pragma once

#include <cstring>

#include "cuda/device.h"

namespace ipr::cuda {

template <class T, int kCount>
struct Array {
  T at[kCount];
};

template <class To, class From>
__device__ __forceinline__ To same_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

/// What computes an element: itself, or float for the halves.
template <class Element>
struct Compute {
  using Real = float;
};
template <>
struct Compute<double> {
  using Real = double;
};
template <class Element>
using RealOf = typename Compute<Element>::Real;

__device__ __forceinline__ float widen(__nv_bfloat16 element) { return __bfloat162float(element); }
__device__ __forceinline__ float widen(__half element) { return __half2float(element); }
template <class Element>
__device__ __forceinline__ Element narrow(float value);
template <>
__device__ __forceinline__ __nv_bfloat16 narrow(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ __forceinline__ __half narrow(float value) {
  return __float2half_rn(value);
}

/// Two halves in a word.
template <class Element>
struct Pair;
template <>
struct Pair<__nv_bfloat16> {
  using Two = __nv_bfloat162;
  static __device__ __forceinline__ Array<float, 2> widen(unsigned word) {
    return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
  }
  static __device__ __forceinline__ unsigned narrow(float low, float high) {
    return same_bits<unsigned>(__floats2bfloat162_rn(low, high));
  }
};
template <>
struct Pair<__half> {
  using Two = __half2;
  static __device__ __forceinline__ Array<float, 2> widen(unsigned word) {
    const float2 pair = __half22float2(same_bits<__half2>(word));
    return {pair.x, pair.y};
  }
  static __device__ __forceinline__ unsigned narrow(float low, float high) {
    return same_bits<unsigned>(__floats2half2_rn(low, high));
  }
};

template <int kBytes>
struct WordsOf;
template <>
struct WordsOf<16> {
  using Type = uint4;
};
template <>
struct WordsOf<8> {
  using Type = uint2;
};
template <>
struct WordsOf<4> {
  using Type = unsigned;
};
template <>
struct WordsOf<2> {
  using Type = unsigned short;
};

/// kVec neighbouring elements, aligned to their size.
template <class Element, int kVec>
struct Pack {
  using Real = RealOf<Element>;
  using Words = typename WordsOf<kVec* int{sizeof(Element)}>::Type;

  static __device__ __forceinline__ Pack load(const Element* p) {
    return {*reinterpret_cast<const Words*>(p)};
  }
  __device__ __forceinline__ void store(Element* p) const { *reinterpret_cast<Words*>(p) = words; }

  __device__ __forceinline__ Array<Real, kVec> reals() const {
    if constexpr (sizeof(Element) == sizeof(Real)) {
      return same_bits<Array<Real, kVec>>(words);
    } else if constexpr (kVec == 1) {
      return {widen(same_bits<Element>(words))};
    } else {
      const auto pairs = same_bits<Array<unsigned, kVec / 2>>(words);
      Array<Real, kVec> result;
#pragma unroll
      for (int i = 0; i < kVec / 2; ++i) {
        const Array<float, 2> pair = Pair<Element>::widen(pairs.at[i]);
        result.at[2 * i] = pair.at[0];
        result.at[2 * i + 1] = pair.at[1];
      }
      return result;
    }
  }
  /// NaN left out, unless there is nothing else.
  __device__ __forceinline__ Real largest() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (sizeof(Element) == 2 && kVec > 1) {
      using Two = typename Pair<Element>::Two;
      const auto pairs = same_bits<Array<Two, kVec / 2>>(words);
      Two top = pairs.at[0];
#pragma unroll
      for (int i = 1; i < kVec / 2; ++i) top = __hmax2(pairs.at[i], top);
      const Array<float, 2> two = Pair<Element>::widen(same_bits<unsigned>(top));
      return fmaxf(two.at[0], two.at[1]);
    }
#endif
    const Array<Real, kVec> values = reals();
    Real top = values.at[0];
#pragma unroll
    for (int i = 1; i < kVec; ++i) top = fmax(values.at[i], top);
    return top;
  }
  /// Of each two elements the larger one, or the other one where one is NaN.
  __device__ __forceinline__ Pack larger(const Pack& other) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    if constexpr (sizeof(Element) == 2 && kVec > 1) {
      using Pairs = Array<typename Pair<Element>::Two, kVec / 2>;
      auto pairs = same_bits<Pairs>(words);
      const auto others = same_bits<Pairs>(other.words);
#pragma unroll
      for (int i = 0; i < kVec / 2; ++i) pairs.at[i] = __hmax2(pairs.at[i], others.at[i]);
      return {same_bits<Words>(pairs)};
    }
#endif
    Array<Real, kVec> values = reals();
    const Array<Real, kVec> others = other.reals();
#pragma unroll
    for (int i = 0; i < kVec; ++i) values.at[i] = fmax(values.at[i], others.at[i]);
    return of(values);
  }
  static __device__ __forceinline__ Pack of(const Array<Real, kVec>& reals) {
    if constexpr (sizeof(Element) == sizeof(Real)) {
      return {same_bits<Words>(reals)};
    } else if constexpr (kVec == 1) {
      return {same_bits<Words>(narrow<Element>(reals.at[0]))};
    } else {
      Array<unsigned, kVec / 2> pairs;
#pragma unroll
      for (int i = 0; i < kVec / 2; ++i) {
        pairs.at[i] = Pair<Element>::narrow(reals.at[2 * i], reals.at[2 * i + 1]);
      }
      return {same_bits<Words>(pairs)};
    }
  }

  Words words;
};

}  // namespace ipr::cuda
