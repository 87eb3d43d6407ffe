// The inner loops of warp_patch, compiled once per instruction set (IPR_ISA names it): lanes are neighbouring
// pixels of a patch's row.
#include "cpu/simd.h"
#include "cpu/warp_patch.h"

namespace ipr::cpu::IPR_ISA {
namespace {

constexpr int kLanes = Lanes<float>::kCount;
constexpr int64_t kAtOnce = 256;  // px of a row
constexpr float kRowsAhead = 2;

IPR_INLINE Floats to_floats(FloatBits v) { return __builtin_convertvector(v, Floats); }
IPR_INLINE FloatBits to_ints(Floats v) { return __builtin_convertvector(v, FloatBits); }
IPR_INLINE Floats floor_of(Floats v) {
  const Floats whole = to_floats(to_ints(v));
  return whole > v ? whole - 1.f : whole;
}
/// One bit per lane of a comparison's result.
IPR_INLINE uint32_t bits_of(FloatBits mask) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(mask));
#elif defined(__AVX2__)
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(mask)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= static_cast<uint32_t>(mask[i] & 1) << i;
  return bits;
#endif
}
IPR_INLINE bool all(FloatBits mask) { return bits_of(mask) == (1u << kLanes) - 1; }
IPR_INLINE bool none(FloatBits mask) { return bits_of(mask) == 0; }
IPR_INLINE Floats numbers() {
  Floats lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<float>(i);
  return lane;
}
/// Within 0..255.
IPR_INLINE Floats level(Floats v) {
#if defined(__AVX512F__)
  return _mm512_min_ps(_mm512_max_ps(v, Floats{}), Floats{} + 255.f);
#else
  v = v > 0.f ? v : Floats{};
  return v < 255.f ? v : Floats{} + 255.f;
#endif
}
/// Byte `index` of every word.
IPR_INLINE Floats byte_of(FloatBits words, int index) { return to_floats((words >> (8 * index)) & 255); }

/// A picture, and where the pixels of a patch lie in it.
struct Picture {
  Picture(const Pictures& pictures, int64_t index)
      : pixels(pictures.pixels + pictures.offsets[index]),
        left(pictures.bytes - pictures.offsets[index]),
        height(pictures.sizes[2 * index]),
        width(pictures.sizes[2 * index + 1]),
        affine(pictures.affine + 6 * index),
        end_u(Floats{} + static_cast<float>(width)),
        end_v(Floats{} + static_cast<float>(height)),
        ahead((whole(kRowsAhead * affine[4]) * width + whole(kRowsAhead * affine[1])) * 3) {}
  /// Zero if there is no such integer, or a far one.
  static int64_t whole(float v) { return v > -1e6f && v < 1e6f ? static_cast<int64_t>(v) : 0; }

  /// Where a vector of pixels from (x, y) of the patch on lies.
  IPR_MEMBER void place(float x, float y, Floats& u, Floats& v) const {
    const float* const m = affine;
    const Floats px = numbers() + x;
    u = m[0] * px + (m[1] * y + m[2]), v = m[3] * px + (m[4] * y + m[5]);
  }
  /// Whether nothing of the picture is there.
  IPR_MEMBER bool misses(Floats u, Floats v) const {
    return none((u > Floats{} - 1.f) & (u < end_u) & (v > Floats{} - 1.f) & (v < end_v));
  }

  const uint8_t* pixels;
  int64_t left;  // bytes to the buffer's end
  int height, width;
  const float* affine;
  Floats end_u, end_v;
  int64_t ahead;  // bytes to what the row kRowsAhead further down is made of
};

/// Four bytes, of which those of the next pixel count for nothing; three where there are no more.
IPR_INLINE int32_t word_at(const Picture& picture, int64_t at) {
  int32_t word = 0;
  if (at + 4 <= picture.left) {
    memcpy(&word, picture.pixels + at, 4);
  } else {
    memcpy(&word, picture.pixels + at, 3);
  }
  return word;
}

/// Between four neighbours: to the right and downwards.
IPR_INLINE Floats between(Floats a, Floats b, Floats c, Floats d, Floats dx, Floats dy) {
  const Floats top = a + dx * (b - a), bottom = c + dx * (d - c);
  return top + dy * (bottom - top);
}

/// Bilinear colours at (u, v); what lies outside of the picture is black and transparent.
template <int kChannels>
IPR_INLINE void sample_anywhere(const Picture& picture, Floats u, Floats v, Floats (&colors)[kChannels]) {
  const Floats left = floor_of(u), top = floor_of(v);
  FloatBits words[4] = {};
  for (int corner = 0; corner < 4; ++corner) {
    const Floats x = left + static_cast<float>(corner & 1), y = top + static_cast<float>(corner >> 1);
    const FloatBits inside = (x >= Floats{}) & (x <= Floats{} + static_cast<float>(picture.width - 1)) &
                             (y >= Floats{}) & (y <= Floats{} + static_cast<float>(picture.height - 1));
    const FloatBits column = to_ints(inside ? x : Floats{}), row = to_ints(inside ? y : Floats{});
    for (int i = 0; i < kLanes; ++i) {
      if (inside[i]) {
        const int64_t pixel = static_cast<int64_t>(row[i]) * picture.width + column[i];
        words[corner][i] = word_at(picture, pixel * kChannels);
      }
    }
  }
  for (int i = 0; i < kChannels; ++i) {
    colors[i] = between(byte_of(words[0], i), byte_of(words[1], i), byte_of(words[2], i),
                        byte_of(words[3], i), u - left, v - top);
  }
}

/// Eight bytes from p + at[i] on for every lane i, one after another.
IPR_INLINE void load_eights(const uint8_t* p, FloatBits at, FloatBits& first, FloatBits& second) {
#if defined(__AVX512F__)
  const auto lanes = reinterpret_cast<__m512i>(at);
  first = reinterpret_cast<FloatBits>(_mm512_i32gather_epi64(_mm512_castsi512_si256(lanes), p, 1));
  second = reinterpret_cast<FloatBits>(_mm512_i32gather_epi64(_mm512_extracti64x4_epi64(lanes, 1), p, 1));
#else
  alignas(kVectorBytes) uint64_t eights[kLanes];
  for (int i = 0; i < kLanes; ++i) memcpy(&eights[i], p + at[i], 8);
  memcpy(&first, eights, sizeof(first));
  memcpy(&second, eights + kLanes / 2, sizeof(second));
#endif
}

/// The same where all four neighbours of every lane are inside, and eight bytes from the left ones on
/// readable.
IPR_INLINE void sample_inside(const Picture& picture, Floats u, Floats v, Floats (&colors)[3]) {
  const FloatBits left = to_ints(u), top = to_ints(v);
  const Floats dx = u - to_floats(left), dy = v - to_floats(top);
  const int stride = 3 * picture.width;
  const FloatBits at = top * stride + left * 3;
  // Gathers wait for memory: addresses that do not exist do no harm.
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(picture.pixels) + picture.ahead;
  for (int lane = 0; lane < kLanes; lane += 4) {
    __builtin_prefetch(reinterpret_cast<const void*>(ahead + at[lane]), 0, 3);
  }
  FloatBits words[2][2];  // of the rows: bytes R G B R and G B . . of every lane's two pixels
  FloatBits even, odd;
  for (int i = 0; i < kLanes; ++i) even[i] = 2 * i, odd[i] = 2 * i + 1;
  for (int row = 0; row < 2; ++row) {
    FloatBits first, second;
    load_eights(picture.pixels + row * stride, at, first, second);
    words[row][0] = __builtin_shuffle(first, second, even);
    words[row][1] = __builtin_shuffle(first, second, odd);
  }
  const auto right = [&](int row, int i) {
    return i == 0 ? byte_of(words[row][0], 3) : byte_of(words[row][1], i - 1);
  };
  for (int i = 0; i < 3; ++i) {
    colors[i] = between(byte_of(words[0][0], i), right(0, i), byte_of(words[1][0], i), right(1, i), dx, dy);
  }
}

/// Samples a patch's region.
struct Sampler {
  Sampler(const Picture& region, int samples)
      : region(region),
        samples(samples),
        most_u(Floats{} + static_cast<float>(region.width - 1)),
        // The last row's pixels are followed by two bytes that eight-byte loads need, unless it is the
        // buffer's end.
        most_v(Floats{} +
               static_cast<float>(region.height -
                                  (region.left >= int64_t{3} * region.height * region.width + 2 ? 1 : 2))) {}

  IPR_MEMBER void add(float x, float y, Floats (&sums)[3]) const {
    Floats u, v, colors[3] = {};
    region.place(x, y, u, v);
    if (all((u >= Floats{}) & (u < most_u) & (v >= Floats{}) & (v < most_v))) {
      sample_inside(region, u, v, colors);
    } else if (!region.misses(u, v)) {
      sample_anywhere(region, u, v, colors);
    }
    for (int i = 0; i < 3; ++i) sums[i] += colors[i];
  }
  /// Colours of a vector of pixels from (x, y) of the patch on.
  IPR_MEMBER void take(float x, float y, Floats (&colors)[3]) const {
    for (int i = 0; i < 3; ++i) colors[i] = Floats{};
    if (samples == 1) return add(x, y, colors);
    const float part = 1.f / static_cast<float>(samples);
    const auto place = [&](int i) { return (static_cast<float>(i) + 0.5f) * part - 0.5f; };
    for (int row = 0; row < samples; ++row) {
      for (int column = 0; column < samples; ++column) add(x + place(column), y + place(row), colors);
    }
    for (int i = 0; i < 3; ++i) colors[i] *= part * part;
  }

  const Picture& region;
  int samples;
  Floats most_u, most_v;
};

/// Lays an occluder over a vector of pixels from (x, y) of the patch on.
void occlude(const Picture& occluder, float x, float y, Floats (&colors)[3]) {
  Floats u, v, over[4];
  occluder.place(x, y, u, v);
  if (occluder.misses(u, v)) return;
  sample_anywhere(occluder, u, v, over);
  const Floats through = 1.f - over[3] / 255.f;
  for (int i = 0; i < 3; ++i) colors[i] = colors[i] * through + over[i];
}

/// Colour, clip, gamma and normalisation of a patch.
struct Finish {
  Finish(const Warp& warp, int64_t patch, const float* curve)
      : matrix(warp.color ? warp.color + 12 * patch : nullptr), mean(warp.mean), curve(curve) {
    for (int i = 0; i < 3; ++i) scale[i] = 1.f / warp.std[i];
    for (int i = 0; matrix && i < 12; ++i) mixes |= i % 5 != 0 && matrix[i] != 0;
  }

  IPR_MEMBER void apply(Floats (&colors)[3]) const {
    const float* const m = matrix;
    const Floats in[3] = {colors[0], colors[1], colors[2]};
    for (int i = 0; i < 3; ++i) {
      Floats value = in[i];
      if (mixes) {
        value = m[4 * i] * in[0] + m[4 * i + 1] * in[1] + m[4 * i + 2] * in[2] + m[4 * i + 3];
      } else if (m) {
        value *= m[5 * i];
      }
      value = level(value);
      if (curve) value = bent(value);
      colors[i] = (value - mean[i]) * scale[i];
    }
  }
  Floats bent(Floats value) const {
    const FloatBits below = to_ints(value);
    Floats low, high;
    for (int lane = 0; lane < kLanes; ++lane)
      low[lane] = curve[below[lane]], high[lane] = curve[below[lane] + 1];
    return low + (value - to_floats(below)) * (high - low);
  }

  const float *matrix, *mean, *curve;
  bool mixes = false;  // the matrix is more than a factor per channel
  float scale[3];
};

/// Three vectors of a channel each as pixels one after another.
struct Interleave {
  Interleave() {
    for (int vector = 0; vector < 3; ++vector) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const int at = vector * kLanes + lane, channel = at % 3, pixel = at / 3;
        of_two[vector][lane] = channel == 1 ? kLanes + pixel : pixel;
        of_three[vector][lane] = channel == 2 ? kLanes + pixel : lane;
      }
    }
  }
  IPR_MEMBER Floats operator()(const Floats (&colors)[3], int vector) const {
    return __builtin_shuffle(__builtin_shuffle(colors[0], colors[1], of_two[vector]), colors[2],
                             of_three[vector]);
  }
  FloatBits of_two[3], of_three[3];
};

/// The first `count` lanes, or all if there are no more; none if count is negative.
template <class Element>
IPR_INLINE void store_some(Element* p, Floats v, int64_t count) {
  if (count >= kLanes) {
    store(p, v);
  } else if (count > 0) {
    store_first(p, v, count);
  }
}

template <class Element>
void warp_rows(const Warp& warp, int64_t patch, int64_t begin, int64_t end, const float* curve) {
  const Picture region(warp.regions, patch);
  const Sampler sampler(region, warp.antialias ? samples_of(region.affine) : 1);
  const Finish finish(warp, patch, curve);
  const Interleave interleave;
  const int64_t first = warp.first_occluder ? warp.first_occluder[patch] : 0;
  const int64_t last = warp.first_occluder ? warp.first_occluder[patch + 1] : 0;
  const int64_t plane = warp.height * warp.width;
  Element* const patch_out = static_cast<Element*>(warp.patches) + 3 * patch * plane;
  const auto colors_at = [&](float x, float y, Floats(&colors)[3]) IPR_MEMBER {
    sampler.take(x, y, colors);
    if (warp.bgr) {
      const Floats red = colors[2];
      colors[2] = colors[0], colors[0] = red;
    }
    for (int64_t i = first; i < last; ++i) occlude(Picture(warp.occluders, i), x, y, colors);
    finish.apply(colors);
  };
  Floats colors[3];
  for (int64_t y = begin; y < end; ++y) {
    if (warp.channels_last) {
      for (int64_t x = 0; x < warp.width; x += kLanes) {
        colors_at(static_cast<float>(x), static_cast<float>(y), colors);
        Element* const out = patch_out + 3 * (y * warp.width + x);
        for (int i = 0; i < 3; ++i)
          store_some(out + i * kLanes, interleave(colors, i), 3 * (warp.width - x) - i * kLanes);
      }
      continue;
    }
    for (int64_t from = 0; from < warp.width; from += kAtOnce) {
      Floats rows[3][kAtOnce / kLanes];  // each is stored at once: three places in turn are slow
      const int64_t count = warp.width - from < kAtOnce ? warp.width - from : kAtOnce;
      for (int64_t x = 0; x < count; x += kLanes) {
        colors_at(static_cast<float>(from + x), static_cast<float>(y), colors);
        for (int i = 0; i < 3; ++i) {
          rows[i][x / kLanes] = colors[i];
          __builtin_prefetch(patch_out + i * plane + y * warp.width + from + x, 1, 3);
        }
      }
      for (int i = 0; i < 3; ++i) {
        Element* const out = patch_out + i * plane + y * warp.width + from;
        for (int64_t x = 0; x < count; x += kLanes) store_some(out + x, rows[i][x / kLanes], count - x);
      }
    }
  }
}

void warp_rows(const Warp& warp, int64_t patch, int64_t begin, int64_t end) {
  float points[257];
  const float* curve = nullptr;
  if (warp.gamma && warp.gamma[patch] != 1.f) {
    for (int i = 0; i < 256; ++i)
      points[i] = 255.f * __builtin_powf(static_cast<float>(i) / 255.f, warp.gamma[patch]);
    points[256] = points[255];
    curve = points;
  }
  if (warp.output == Output::kFloat32) warp_rows<float>(warp, patch, begin, end, curve);
  if (warp.output == Output::kBFloat16) warp_rows<BFloat16>(warp, patch, begin, end, curve);
  if (warp.output == Output::kFloat16) warp_rows<Float16>(warp, patch, begin, end, curve);
}

}  // namespace

extern const WarpRows kWarpRows = warp_rows;

}  // namespace ipr::cpu::IPR_ISA
