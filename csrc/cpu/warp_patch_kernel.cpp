// The inner loops of warp_patch, compiled once per instruction set (IPR_ISA names it): lanes are neighbouring
// pixels of a patch's row.
#include "cpu/simd.h"
#include "cpu/warp_patch.h"

namespace ipr::cpu::IPR_ISA {
namespace {

constexpr int kLanes = Lanes<float>::kCount;

IPR_INLINE Floats to_floats(FloatBits v) { return __builtin_convertvector(v, Floats); }
IPR_INLINE FloatBits to_ints(Floats v) { return __builtin_convertvector(v, FloatBits); }
IPR_INLINE Floats floor_of(Floats v) {
  const Floats whole = to_floats(to_ints(v));
  return whole > v ? whole - 1.f : whole;
}
IPR_INLINE bool all(FloatBits mask) {
  int32_t both = -1;
  for (int i = 0; i < kLanes; ++i) both &= mask[i];
  return both != 0;
}
IPR_INLINE bool none(FloatBits mask) {
  int32_t either = 0;
  for (int i = 0; i < kLanes; ++i) either |= mask[i];
  return either == 0;
}
IPR_INLINE Floats numbers() {
  Floats lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = static_cast<float>(i);
  return lane;
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
        affine(pictures.affine + 6 * index) {}
  const uint8_t* pixels;
  int64_t left;  // bytes to the buffer's end
  int height, width;
  const float* affine;
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

/// Colours of the region along row y of the patch, into three rows of scratch.
void sample_row(const Picture& region, int samples, int64_t y, int64_t width, float* const (&rows)[3]) {
  const float* const m = region.affine;
  // The last row's pixels are followed by two bytes that eight-byte loads need, unless it is the buffer's
  // end.
  const bool more = region.left >= int64_t{3} * region.height * region.width + 2;
  const Floats most_u = Floats{} + static_cast<float>(region.width - 1);
  const Floats most_v = Floats{} + static_cast<float>(region.height - (more ? 1 : 2));
  const Floats end_u = Floats{} + static_cast<float>(region.width),
               end_v = Floats{} + static_cast<float>(region.height);
  for (int64_t x = 0; x < width; x += kLanes) {
    Floats sums[3] = {};
    for (int sample = 0; sample < samples * samples; ++sample) {
      const float part = 1.f / static_cast<float>(samples);
      const float right = (static_cast<float>(sample % samples) + 0.5f) * part - 0.5f;
      const float down = (static_cast<float>(sample / samples) + 0.5f) * part - 0.5f;
      const Floats px = numbers() + (static_cast<float>(x) + right);
      const float py = static_cast<float>(y) + down;
      const Floats u = m[0] * px + (m[1] * py + m[2]), v = m[3] * px + (m[4] * py + m[5]);
      Floats colors[3] = {};
      if (all((u >= Floats{}) & (u < most_u) & (v >= Floats{}) & (v < most_v))) {
        sample_inside(region, u, v, colors);
      } else if (!none((u > Floats{} - 1.f) & (u < end_u) & (v > Floats{} - 1.f) & (v < end_v))) {
        sample_anywhere(region, u, v, colors);
      }
      for (int i = 0; i < 3; ++i) sums[i] += colors[i];
    }
    for (int i = 0; i < 3; ++i)
      store(rows[i] + x, samples > 1 ? sums[i] / static_cast<float>(samples * samples) : sums[i]);
  }
}

/// Lays an occluder over the colours of row y.
void occlude_row(const Picture& occluder, int64_t y, int64_t width, float* const (&rows)[3]) {
  const float* const m = occluder.affine;
  const float fy = static_cast<float>(y);
  const Floats end_u = Floats{} + static_cast<float>(occluder.width),
               end_v = Floats{} + static_cast<float>(occluder.height);
  for (int64_t x = 0; x < width; x += kLanes) {
    const Floats px = numbers() + static_cast<float>(x);
    const Floats u = m[0] * px + (m[1] * fy + m[2]), v = m[3] * px + (m[4] * fy + m[5]);
    if (none((u > Floats{} - 1.f) & (u < end_u) & (v > Floats{} - 1.f) & (v < end_v))) continue;
    Floats colors[4];
    sample_anywhere(occluder, u, v, colors);
    const Floats through = 1.f - colors[3] / 255.f;
    for (int i = 0; i < 3; ++i) store(rows[i] + x, load(rows[i] + x) * through + colors[i]);
  }
}

template <class Element>
void store_row(const Warp& warp, int64_t patch, int64_t y, const float* const (&rows)[3]) {
  Element* const patches = static_cast<Element*>(warp.patches);
  if (warp.channels_last) {
    Element* const out = patches + (patch * warp.height + y) * warp.width * 3;
    for (int64_t x = 0; x < warp.width; x += kLanes) {
      Element lanes[3][kLanes];
      for (int i = 0; i < 3; ++i) store(lanes[i], load(rows[i] + x));
      const int64_t left = warp.width - x < kLanes ? warp.width - x : kLanes;
      for (int64_t lane = 0; lane < left; ++lane) {
        for (int i = 0; i < 3; ++i) out[(x + lane) * 3 + i] = lanes[i][lane];
      }
    }
    return;
  }
  for (int i = 0; i < 3; ++i) {
    Element* const out = patches + ((patch * 3 + i) * warp.height + y) * warp.width;
    int64_t x = 0;
    for (; x + kLanes <= warp.width; x += kLanes) store(out + x, load(rows[i] + x));
    if (x < warp.width) store_first(out + x, load(rows[i] + x), warp.width - x);
  }
}

/// Colour, clip, gamma and normalisation of a row, in place.
void finish_row(const Warp& warp, int64_t patch, const float* curve, float* const (&rows)[3]) {
  const float* const m = warp.color ? warp.color + 12 * patch : nullptr;
  float scale[3];
  for (int i = 0; i < 3; ++i) scale[i] = 1.f / warp.std[i];
  for (int64_t x = 0; x < warp.width; x += kLanes) {
    Floats in[3];
    for (int i = 0; i < 3; ++i) in[i] = load(rows[i] + x);
    for (int i = 0; i < 3; ++i) {
      Floats value = in[i];
      if (m) value = m[4 * i] * in[0] + m[4 * i + 1] * in[1] + m[4 * i + 2] * in[2] + m[4 * i + 3];
      value = value > 0.f ? value : Floats{};
      value = value < 255.f ? value : Floats{} + 255.f;
      if (curve) {
        const FloatBits below = to_ints(value);
        Floats low, high;
        for (int lane = 0; lane < kLanes; ++lane)
          low[lane] = curve[below[lane]], high[lane] = curve[below[lane] + 1];
        value = low + (value - to_floats(below)) * (high - low);
      }
      store(rows[i] + x, (value - warp.mean[i]) * scale[i]);
    }
  }
}

void warp_rows(const Warp& warp, int64_t patch, int64_t begin, int64_t end, void* scratch) {
  const Picture region(warp.regions, patch);
  const int64_t stride = (warp.width + kLanes - 1) / kLanes * kLanes;
  float* const start = static_cast<float*>(scratch);
  float* rgb[3] = {start, start + stride, start + 2 * stride};
  float* const as_read[3] = {rgb[warp.bgr ? 2 : 0], rgb[1], rgb[warp.bgr ? 0 : 2]};
  float* const planes[3] = {rgb[0], rgb[1], rgb[2]};
  const float* const finished[3] = {rgb[0], rgb[1], rgb[2]};
  float* curve = nullptr;
  if (warp.gamma && warp.gamma[patch] != 1.f) {
    curve = start + 3 * stride;
    for (int i = 0; i < 256; ++i)
      curve[i] = 255.f * __builtin_powf(static_cast<float>(i) / 255.f, warp.gamma[patch]);
    curve[256] = curve[255];
  }
  const int samples = warp.antialias ? samples_of(region.affine) : 1;
  for (int64_t y = begin; y < end; ++y) {
    sample_row(region, samples, y, warp.width, as_read);
    if (warp.first_occluder) {
      for (int64_t i = warp.first_occluder[patch]; i < warp.first_occluder[patch + 1]; ++i) {
        occlude_row(Picture(warp.occluders, i), y, warp.width, planes);
      }
    }
    finish_row(warp, patch, curve, planes);
    if (warp.output == Output::kFloat32) store_row<float>(warp, patch, y, finished);
    if (warp.output == Output::kBFloat16) store_row<BFloat16>(warp, patch, y, finished);
    if (warp.output == Output::kFloat16) store_row<Float16>(warp, patch, y, finished);
  }
}

}  // namespace

extern const WarpRows kWarpRows = warp_rows;

}  // namespace ipr::cpu::IPR_ISA
