// warp_patch on CUDA devices: one launch per batch, every output written once.
//
// A block makes a tile of 32 x 32 px of a patch. What a tile sees of the picture is turned and stretched at
// will: a warp takes 8 x 4 neighbours, which touch fewer cache lines at most angles than 32 in a row, and a
// thread reads two neighbours of 3 bytes as one or two aligned words of 8. Finished elements wait in shared
// memory, from where they leave in the order of the patches' memory, 16 bytes at a time where that is
// aligned. bench/README.md counts the bytes and the instructions.
#include <climits>
#include <cmath>

#include "cuda/elements.h"
#include "cuda/warp_patch.h"

namespace ipr::cuda {
namespace {

constexpr int kTile = 32;  // px, both ways
constexpr int kThreads = 256;
constexpr int kWarpColumns = 8, kWarpRows = 4;     // px of a warp at a time
constexpr int kAtOnce = kTile * kTile / kThreads;  // px of a thread, kRowsApart from each other
constexpr int kRowsApart = kTile / kAtOnce;
constexpr int kCurve = 257;

/// A picture, and where the pixels of a patch lie in it.
struct Picture {
  __device__ Picture(const Pictures& pictures, int64_t index, int channels)
      : pixels(pictures.pixels + pictures.offsets[index]),
        height(pictures.sizes[2 * index]),
        width(pictures.sizes[2 * index + 1]) {
#pragma unroll
    for (int i = 0; i < 6; ++i) affine[i] = pictures.affine[6 * index + i];
    // Words of 8 bytes reach up to 7 bytes past what is wanted of them: not past the buffer, the last rows
    // are read otherwise. (Before the buffer they do no harm: an allocation starts at a multiple of 8.)
    const int64_t end = pictures.offsets[index] + int64_t{channels} * height * width;
    below = static_cast<float>(height - (end + 7 <= pictures.bytes ? 1 : 3));
  }
  __device__ __forceinline__ float u(float x, float y) const {
    return affine[0] * x + (affine[1] * y + affine[2]);
  }
  __device__ __forceinline__ float v(float x, float y) const {
    return affine[3] * x + (affine[4] * y + affine[5]);
  }

  const uint8_t* pixels;
  int height, width;
  float below;  // a row above this one may be read in words, together with the next one
  float affine[6];
};

/// A pixel of 3 or 4 bytes.
template <int kChannels>
__device__ __forceinline__ unsigned pixel_at(const uint8_t* p) {
  if (kChannels == 4 && reinterpret_cast<uintptr_t>(p) % 4 == 0) {
    return __ldg(reinterpret_cast<const unsigned*>(p));
  }
  unsigned word = 0;
#pragma unroll
  for (int i = 0; i < kChannels; ++i) word |= static_cast<unsigned>(__ldg(p + i)) << (8 * i);
  return word;
}

/// Two neighbours of 3 bytes from p on, each in the low bytes of a word.
__device__ __forceinline__ void load_two(const uint8_t* p, unsigned& left, unsigned& right) {
  const unsigned first = static_cast<unsigned>(reinterpret_cast<uintptr_t>(p)) % 8;
  const uint2* const words = reinterpret_cast<const uint2*>(p - first);
  const uint2 low = __ldg(words);
  uint2 high = {};
  if (first > 2) high = __ldg(words + 1);
  const bool upper = first >= 4;
  const unsigned a = upper ? low.y : low.x, b = upper ? high.x : low.y, c = upper ? high.y : high.x;
  left = __funnelshift_r(a, b, 8 * first);  // by this modulo 32
  right = __funnelshift_r(left, __funnelshift_r(b, c, 8 * first), 24);
}

/// The four neighbours of (u, v) in reading order; those outside are black and transparent. False if all are.
template <int kChannels>
__device__ __forceinline__ bool neighbours(const Picture& picture, float u, float v, unsigned (&words)[4]) {
  const float width = static_cast<float>(picture.width), height = static_cast<float>(picture.height);
  if (!(u > -1 && u < width && v > -1 && v < height)) return false;
  const int left = static_cast<int>(floorf(u)), top = static_cast<int>(floorf(v));
  if (kChannels == 3 && u >= 0 && u < width - 1 && v >= 0 && v < picture.below) {
    const uint8_t* const p = picture.pixels + 3 * (top * picture.width + left);
    load_two(p, words[0], words[1]);
    load_two(p + 3 * picture.width, words[2], words[3]);
    return true;
  }
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int x = left + corner % 2, y = top + corner / 2;
    const bool inside = x >= 0 && x < picture.width && y >= 0 && y < picture.height;
    words[corner] = 0;
    if (inside) words[corner] = pixel_at<kChannels>(picture.pixels + kChannels * (y * picture.width + x));
  }
  return true;
}

/// Between the words' bytes `channel`, to the right and downwards.
__device__ __forceinline__ float between(const unsigned (&words)[4], int channel, float right, float down) {
  constexpr float kBias = 32768;  // with a byte in bits 8 to 15 of it, a float is exactly their sum
  float corners[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    corners[i] = __uint_as_float(__byte_perm(words[i], __float_as_uint(kBias), 0x7404 | channel << 4));
  }
  const float top = (corners[0] - kBias) + right * (corners[1] - corners[0]);
  const float bottom = (corners[2] - kBias) + right * (corners[3] - corners[2]);
  return top + down * (bottom - top);
}

/// Adds the region's colour at (x, y) of the patch, channels in the region's order.
__device__ __forceinline__ void add_sample(const Picture& region, float x, float y, float (&color)[3]) {
  const float u = region.u(x, y), v = region.v(x, y);
  unsigned words[4];
  if (!neighbours<3>(region, u, v, words)) return;
#pragma unroll
  for (int i = 0; i < 3; ++i) color[i] += between(words, i, u - floorf(u), v - floorf(v));
}

/// Lays an occluder over the colour at (x, y).
__device__ __forceinline__ void occlude(const Picture& occluder, float x, float y, float (&color)[3]) {
  const float u = occluder.u(x, y), v = occluder.v(x, y);
  unsigned words[4];
  if (!neighbours<4>(occluder, u, v, words)) return;
  const float right = u - floorf(u), down = v - floorf(v);
  const float through = 1 - between(words, 3, right, down) * (1.f / 255);
#pragma unroll
  for (int i = 0; i < 3; ++i) color[i] = color[i] * through + between(words, i, right, down);
}

/// Whether any of the tile's pixels may see something of the picture.
__device__ __forceinline__ bool in_tile(const Picture& picture, float x, float y) {
  constexpr float kHalf = (kTile - 1) / 2.f;
  const float* const m = picture.affine;
  const float u = picture.u(x + kHalf, y + kHalf), du = kHalf * (fabsf(m[0]) + fabsf(m[1]));
  const float v = picture.v(x + kHalf, y + kHalf), dv = kHalf * (fabsf(m[3]) + fabsf(m[4]));
  // A px more than what is seen, for the rounding.
  return u + du > -2 && u - du < static_cast<float>(picture.width + 1) && v + dv > -2 &&
         v - dv < static_cast<float>(picture.height + 1);
}

/// Colour, clip, gamma and normalisation, in place.
__device__ __forceinline__ void finish(const Warp& warp, const Array<float, 3>& scale, const float* matrix,
                                       const float* curve, float (&color)[3]) {
  const float r = color[0], g = color[1], b = color[2];
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    float value = color[i];
    if (matrix != nullptr) {
      const float* const m = matrix + 4 * i;
      value = __ldg(m) * r + __ldg(m + 1) * g + __ldg(m + 2) * b + __ldg(m + 3);
    }
    value = fminf(fmaxf(value, 0), 255);
    if (curve != nullptr) {
      const int below = static_cast<int>(value);
      const float low = curve[below];
      value = low + (value - static_cast<float>(below)) * (curve[below + 1] - low);
    }
    color[i] = (value - warp.mean[i]) * scale.at[i];
  }
}

/// A block's finished elements: rows of the patches' memory, apart so that a warp's px meet no bank twice.
template <class Element, bool kChannelsLast>
struct Finished {
  static constexpr int kRows = kChannelsLast ? kTile : 3 * kTile;
  static constexpr int kLength = kChannelsLast ? 3 * kTile : kTile;
  static constexpr int kStride = kLength + 8;
  static constexpr int kBytes = kRows * kStride * int{sizeof(Element)};
  static constexpr int kVec = 16 / int{sizeof(Element)};

  static __device__ __forceinline__ int index(int channel, int x, int y) {
    return kChannelsLast ? y * kStride + 3 * x + channel : (channel * kTile + y) * kStride + x;
  }
  /// Writes the part of a tile that lies in the patch; its first px is (x, y).
  static __device__ __forceinline__ void write(const Element* tile, const Warp& warp, int64_t patch,
                                               int64_t x, int64_t y) {
    Element* const patches = static_cast<Element*>(warp.patches) + 3 * patch * warp.height * warp.width;
    const int64_t left = (warp.width - x) * (kChannelsLast ? 3 : 1);
    const int length = left < kLength ? static_cast<int>(left) : kLength;
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * (kLength / kVec); i += kThreads) {
      const int row = i / (kLength / kVec), column = i % (kLength / kVec) * kVec;
      if (y + row % kTile >= warp.height || column >= length) continue;
      const Element* const from = tile + row * kStride + column;
      const int64_t line = (kChannelsLast ? 0 : row / kTile * warp.height) + y + row % kTile;
      Element* const to = patches + (line * warp.width + x) * (kChannelsLast ? 3 : 1) + column;
      if (column + kVec <= length && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
        Pack<Element, kVec>::load(from).store(to);
      } else {
        for (int k = 0; k < kVec && column + k < length; ++k) to[k] = from[k];
      }
    }
  }
};

struct Tiles {
  unsigned across, down;  // of a patch
};

template <class Element, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads, 4)
    warp_tiles(const Warp warp, const Tiles tiles, const Array<float, 3> scale) {
  using Result = Finished<Element, kChannelsLast>;
  Element* const finished = reinterpret_cast<Element*>(dynamic_shared());
  const unsigned in_patch = blockIdx.x % (tiles.across * tiles.down);
  const int64_t patch = blockIdx.x / (tiles.across * tiles.down);
  const int64_t tile_x = int64_t{in_patch % tiles.across} * kTile;
  const int64_t tile_y = int64_t{in_patch / tiles.across} * kTile;
  float* curve = nullptr;
  if (warp.gamma != nullptr && warp.gamma[patch] != 1) {
    curve = reinterpret_cast<float*>(dynamic_shared() + Result::kBytes);
    for (int i = threadIdx.x; i < kCurve; i += kThreads) {
      curve[i] = 255 * powf(static_cast<float>(min(i, 255)) / 255, warp.gamma[patch]);
    }
    __syncthreads();
  }

  const int lane = threadIdx.x % 32, number = threadIdx.x / 32;
  const int x = number % (kTile / kWarpColumns) * kWarpColumns + lane % kWarpColumns;
  const int y = number / (kTile / kWarpColumns) * kWarpRows + lane / kWarpColumns;
  const float patch_x = static_cast<float>(tile_x + x), patch_y = static_cast<float>(tile_y + y);
  float colors[kAtOnce][3] = {};
  bool valid = fits(warp.regions, patch, 3);
  if (valid) {
    const Picture region(warp.regions, patch, 3);
    const int samples = warp.antialias ? samples_of(region.affine) : 1;
    const float part = 1.f / static_cast<float>(samples);
#pragma unroll 1
    for (int sample = 0; sample < samples * samples; ++sample) {
      const float right = (static_cast<float>(sample % samples) + 0.5f) * part - 0.5f;
      const float down = (static_cast<float>(sample / samples) + 0.5f) * part - 0.5f;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const float at_y = patch_y + static_cast<float>(i * kRowsApart) + down;
        add_sample(region, patch_x + right, at_y, colors[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float first = colors[i][0] * (part * part), last = colors[i][2] * (part * part);
      colors[i][0] = warp.bgr ? last : first;
      colors[i][1] *= part * part;
      colors[i][2] = warp.bgr ? first : last;
    }
  }
  if (warp.first_occluder != nullptr) {
    const int64_t begin = warp.first_occluder[patch], end = warp.first_occluder[patch + 1];
    valid = valid && 0 <= begin && begin <= end && end <= warp.occluders.count;
#pragma unroll 1
    for (int64_t k = begin; valid && k < end; ++k) {
      valid = fits(warp.occluders, k, 4);
      if (!valid) break;
      const Picture occluder(warp.occluders, k, 4);
      if (!in_tile(occluder, static_cast<float>(tile_x), static_cast<float>(tile_y))) continue;
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        occlude(occluder, patch_x, patch_y + static_cast<float>(i * kRowsApart), colors[i]);
      }
    }
  }
  const float* const matrix = warp.color != nullptr ? warp.color + 12 * patch : nullptr;
#pragma unroll
  for (int i = 0; i < kAtOnce; ++i) {
    finish(warp, scale, matrix, curve, colors[i]);
#pragma unroll
    for (int channel = 0; channel < 3; ++channel) {
      const Array<float, 1> value = {valid ? colors[i][channel] : NAN};
      Pack<Element, 1>::of(value).store(finished + Result::index(channel, x, y + i * kRowsApart));
    }
  }
  __syncthreads();
  Result::write(finished, warp, patch, tile_x, tile_y);
}

template <class Element, bool kChannelsLast>
const char* start(const Warp& warp, void* stream) {
  const int64_t across = (warp.width + kTile - 1) / kTile, down = (warp.height + kTile - 1) / kTile;
  if (across > INT_MAX || down > INT_MAX || across * down > INT_MAX / warp.batch) {
    return "too many patches, or too large ones, for one batch";
  }
  const Tiles tiles = {static_cast<unsigned>(across), static_cast<unsigned>(down)};
  const unsigned bytes = Finished<Element, kChannelsLast>::kBytes + (warp.gamma ? kCurve * sizeof(float) : 0);
  const Launch how = {static_cast<unsigned>(warp.batch * across * down), kThreads, bytes, 1, stream};
  const Array<float, 3> scale = {1 / warp.std[0], 1 / warp.std[1], 1 / warp.std[2]};
  const cudaError_t error = launch(warp_tiles<Element, kChannelsLast>, how, warp, tiles, scale);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template <class Element>
const char* start(const Warp& warp, void* stream) {
  return warp.channels_last ? start<Element, true>(warp, stream) : start<Element, false>(warp, stream);
}

}  // namespace

const char* warp_patch(const Warp& warp, void* stream) {
  if (warp.batch == 0) return nullptr;
  switch (warp.output) {
    case Output::kFloat32:
      return start<float>(warp, stream);
    case Output::kBFloat16:
      return start<__nv_bfloat16>(warp, stream);
    default:
      return start<__half>(warp, stream);
  }
}

}  // namespace ipr::cuda
