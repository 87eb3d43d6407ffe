// warp_patch on CUDA devices: one launch per batch, every output written once.
//
// A block makes a tile of 32 x 32 px of a patch. What a tile sees of the picture is turned and stretched at
// will: a warp takes 8 x 4 neighbours, which touch fewer cache lines at most angles than 32 in a row, and a
// thread reads two neighbours of 3 bytes as one or two aligned words of 8. Finished elements wait in shared
// memory, from where they leave in the order of the patches' memory, 16 bytes at a time where that is
// aligned. bench/README.md counts the bytes and the instructions.
#include <algorithm>
#include <cmath>

#include "cuda/elements.h"
#include "cuda/warp_patch.h"

namespace ipr::cuda {
namespace {

constexpr int kTile = 32;  // px, both ways
constexpr int kThreads = 256;
constexpr int kBlocks = 3;  // on a multiprocessor: with fewer registers a px' loads would wait for each other
constexpr int kWarpColumns = 8, kWarpRows = 4;     // px of a warp at a time
constexpr int kAtOnce = kTile * kTile / kThreads;  // px of a thread, kRowsApart from each other
constexpr int kRowsApart = kTile / kAtOnce;
constexpr int kCurve = 257;
constexpr int64_t kMostPixels = 1 << 29;  // of a patch's side: three times that many elements fit 32 bits

/// A picture, and where the pixels of a patch lie in it.
struct Picture {
  static __device__ __forceinline__ Picture of(const Pictures& pictures, int index, int channels) {
    Picture result;
    const uint8_t* const pixels = pictures.pixels + pictures.offsets[index];
    result.before = static_cast<unsigned>(reinterpret_cast<uintptr_t>(pixels) % 8);
    result.words = pixels - result.before;
    result.height = pictures.sizes[2 * int64_t{index}], result.width = pictures.sizes[2 * int64_t{index} + 1];
#pragma unroll
    for (int i = 0; i < 6; ++i) result.affine[i] = pictures.affine[6 * int64_t{index} + i];
    // Words of 8 bytes reach up to 7 bytes past what is wanted of them: not past the buffer, the last rows
    // are read otherwise. (Before the buffer they do no harm: an allocation starts at a multiple of 8.)
    const int64_t end = pictures.offsets[index] + int64_t{channels} * result.height * result.width;
    result.below = static_cast<float>(result.height - (end + 7 <= pictures.bytes ? 1 : 3));
    return result;
  }
  __device__ __forceinline__ float u(float x, float y) const {
    return affine[0] * x + (affine[1] * y + affine[2]);
  }
  __device__ __forceinline__ float v(float x, float y) const {
    return affine[3] * x + (affine[4] * y + affine[5]);
  }

  const uint8_t* words;  // from the last multiple of 8 on that is not behind the first byte
  unsigned before;       // bytes from there to the first byte
  int height, width;
  float below;  // a row above this one may be read in words, together with the next one
  float affine[6];
};

/// The words of 8 bytes that hold the six bytes from `at` on.
struct Words {
  __device__ __forceinline__ Words(const uint8_t* words, unsigned at) {
    const uint2* const word = reinterpret_cast<const uint2*>(words + (at & ~7u));
    low = __ldg(word);
    high = {};
    if ((at & 7) > 2) high = __ldg(word + 1);
  }
  __device__ __forceinline__ void bytes(unsigned at, unsigned (&row)[2]) const {
    const bool odd = at & 4;
    const unsigned a = odd ? low.y : low.x, b = odd ? high.x : low.y, c = odd ? high.y : high.x;
    row[0] = __funnelshift_r(a, b, 8 * at);  // by this modulo 32
    row[1] = __funnelshift_r(b, c, 8 * at);
  }
  uint2 low, high;
};

/// The four neighbours of a place in a picture; those outside of it are black and transparent.
template <int kChannels>
struct Neighbours {
  unsigned rows[2][2];  // each the left one's bytes, and then the right one's
  float right, down;    // of the upper left one

  /// False if all are outside.
  __device__ __forceinline__ bool load(const Picture& picture, float u, float v) {
    const float width = static_cast<float>(picture.width);
    if (kChannels == 3 && u >= 0 && u < width - 1 && v >= 0 && v < picture.below) {
      const int left = static_cast<int>(u), top = static_cast<int>(v);
      right = u - static_cast<float>(left), down = v - static_cast<float>(top);
      const unsigned at = picture.before + 3 * static_cast<unsigned>(top * picture.width + left);
      const unsigned next = at + 3 * static_cast<unsigned>(picture.width);
      const Words upper(picture.words, at), lower(picture.words, next);  // all of them before the first use
      upper.bytes(at, rows[0]);
      lower.bytes(next, rows[1]);
      return true;
    }
    if (!(u > -1 && u < width && v > -1 && v < static_cast<float>(picture.height))) return false;
    const float left = floorf(u), top = floorf(v);
    right = u - left, down = v - top;
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const int x = static_cast<int>(left), y = static_cast<int>(top) + row;
      const unsigned first = pixel(picture, x, y), second = pixel(picture, x + 1, y);
      rows[row][0] = kChannels == 3 ? first | second << 24 : first;
      rows[row][1] = kChannels == 3 ? second >> 8 : second;
    }
    return true;
  }

  /// Between their channels, to the right and downwards.
  __device__ __forceinline__ float between(int channel) const {
    const float a = biased(rows[0], channel), b = biased(rows[0], kChannels + channel);
    const float c = biased(rows[1], channel), d = biased(rows[1], kChannels + channel);
    const float upper = (a - kBias) + right * (b - a), lower = (c - kBias) + right * (d - c);
    return upper + down * (lower - upper);
  }

 private:
  static constexpr float kBias = 32768;  // with a byte in bits 8 to 15 of it, a float is exactly their sum

  static __device__ __forceinline__ float biased(const unsigned (&row)[2], int byte) {
    return __uint_as_float(__byte_perm(row[byte / 4], __float_as_uint(kBias), 0x7404 | byte % 4 << 4));
  }
  static __device__ __forceinline__ unsigned pixel(const Picture& picture, int x, int y) {
    if (x < 0 || x >= picture.width || y < 0 || y >= picture.height) return 0;
    const unsigned at = picture.before + kChannels * static_cast<unsigned>(y * picture.width + x);
    const uint8_t* const bytes = picture.words + at;
    if (kChannels == 4 && at % 4 == 0) return __ldg(reinterpret_cast<const unsigned*>(bytes));
    unsigned word = 0;
#pragma unroll
    for (int i = 0; i < kChannels; ++i) word |= static_cast<unsigned>(__ldg(bytes + i)) << (8 * i);
    return word;
  }
};

/// Adds the region's colour at (x, y) of the patch, channels in the region's order.
__device__ __forceinline__ void add_sample(const Picture& region, float x, float y, float (&color)[3]) {
  Neighbours<3> neighbours;
  if (!neighbours.load(region, region.u(x, y), region.v(x, y))) return;
#pragma unroll
  for (int i = 0; i < 3; ++i) color[i] += neighbours.between(i);
}

/// Lays an occluder over the colour at (x, y).
__device__ __forceinline__ void occlude(const Picture& occluder, float x, float y, float (&color)[3]) {
  Neighbours<4> neighbours;
  if (!neighbours.load(occluder, occluder.u(x, y), occluder.v(x, y))) return;
  const float through = 1 - neighbours.between(3) * (1.f / 255);
#pragma unroll
  for (int i = 0; i < 3; ++i) color[i] = color[i] * through + neighbours.between(i);
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

/// The patch's matrix and offset, in place.
__device__ __forceinline__ void recolor(const float* matrix, float (&colors)[kAtOnce][3]) {
  float m[12];
#pragma unroll
  for (int i = 0; i < 12; ++i) m[i] = __ldg(matrix + i);
#pragma unroll
  for (auto& color : colors) {
    const float r = color[0], g = color[1], b = color[2];
#pragma unroll
    for (int i = 0; i < 3; ++i) color[i] = m[4 * i] * r + m[4 * i + 1] * g + m[4 * i + 2] * b + m[4 * i + 3];
  }
}

/// The curve of gamma at a value within 0..255.
__device__ __forceinline__ float bent(const float* curve, float value) {
  const int below = static_cast<int>(value);
  const float low = curve[below];
  return low + (value - static_cast<float>(below)) * (curve[below + 1] - low);
}

/// A tile's finished elements: rows of the patches' memory, so far apart that a warp's px meet no bank twice.
template <class Element, bool kChannelsLast>
struct Finished {
  static constexpr int kPixel = kChannelsLast ? 3 : 1;  // elements from one px to the next
  static constexpr int kRows = kChannelsLast ? kTile : 3 * kTile, kLength = kPixel * kTile;
  static constexpr int kStride = kLength + 8;
  static constexpr int kBytes = kRows * kStride * int{sizeof(Element)};
  static constexpr int kVec = 16 / int{sizeof(Element)}, kVectors = kLength / kVec;  // of a row
  static constexpr int kUnroll = kChannelsLast ? 1 : 3;  // more would need more registers than there are

  static __device__ __forceinline__ int index(int channel, int x, int y) {
    return kChannelsLast ? y * kStride + 3 * x + channel : (channel * kTile + y) * kStride + x;
  }
  /// Writes the part of a tile that lies in the patch; its first px is (x, y).
  static __device__ __forceinline__ void write(const Element* tile, const Warp& warp, int patch, int x,
                                               int y) {
    const int pitch = static_cast<int>(warp.width) * kPixel, rows = static_cast<int>(warp.height) - y;
    const int64_t plane = warp.height * warp.width;
    Element* const first =
        static_cast<Element*>(warp.patches) + 3 * patch * plane + int64_t{y} * pitch + x * kPixel;
    // The tile starts at a multiple of 32 px, so vectors that start in the patch end in it.
    const bool aligned = reinterpret_cast<uintptr_t>(first) % 16 == 0 && pitch % kVec == 0;
    const int length = min(pitch - x * kPixel, kLength);
#pragma unroll kUnroll
    for (int start = 0; start < kRows * kVectors; start += kThreads) {
      const int i = start + static_cast<int>(threadIdx.x), row = i / kVectors, column = i % kVectors * kVec;
      if (i >= kRows * kVectors || row % kTile >= rows || column >= length) continue;
      const Element* const from = tile + row * kStride + column;
      Element* const to =
          first + int64_t{row % kTile} * pitch + column + (kChannelsLast ? 0 : row / kTile * plane);
      if (aligned) {
        Pack<Element, kVec>::load(from).store(to);
      } else {
#pragma unroll 1
        for (int k = 0; k < kVec && column + k < length; ++k) to[k] = from[k];
      }
    }
  }
};

/// How a patch is shared out: a block takes a run of tiles that are neighbours in a row.
struct Tiles {
  int across, down, run, runs;  // of a patch; of a run; in a row
};

template <class Element, bool kChannelsLast>
__global__ void __launch_bounds__(kThreads, kBlocks)
    warp_tiles(const Warp warp, const Tiles tiles, const Array<float, 3> scale) {
  using Result = Finished<Element, kChannelsLast>;
  Element* const finished = reinterpret_cast<Element*>(dynamic_shared());
  const int patch = static_cast<int>(blockIdx.x) / (tiles.runs * tiles.down);
  const int in_patch = static_cast<int>(blockIdx.x) % (tiles.runs * tiles.down);
  const int tile_y = in_patch / tiles.runs * kTile, begin = in_patch % tiles.runs * tiles.run;
  float* curve = nullptr;
  if (warp.gamma != nullptr && warp.gamma[patch] != 1) {
    curve = reinterpret_cast<float*>(dynamic_shared() + Result::kBytes);
    for (int i = threadIdx.x; i < kCurve; i += kThreads) {
      curve[i] = 255 * powf(static_cast<float>(min(i, 255)) / 255, warp.gamma[patch]);
    }
    __syncthreads();
  }
  int first = 0, last = 0;  // of the patch's occluders, and behind them
  bool valid = fits(warp.regions, patch, 3);
  if (warp.first_occluder != nullptr) {
    const int64_t begin = warp.first_occluder[patch], end = warp.first_occluder[patch + 1];
    valid = valid && 0 <= begin && begin <= end && end <= warp.occluders.count;
    if (valid) first = static_cast<int>(begin), last = static_cast<int>(end);
    for (int i = first; valid && i < last; ++i) valid = fits(warp.occluders, i, 4);
  }
  Picture region = {};
  if (valid) region = Picture::of(warp.regions, patch, 3);
  const int samples = warp.antialias ? samples_of(region.affine) : 1;
  const float part = 1.f / static_cast<float>(samples);
  const float* const matrix = warp.color != nullptr ? warp.color + 12 * int64_t{patch} : nullptr;
  const int lane = threadIdx.x % 32, number = threadIdx.x / 32;
  const int x = number % (kTile / kWarpColumns) * kWarpColumns + lane % kWarpColumns;
  const int y = number / (kTile / kWarpColumns) * kWarpRows + lane / kWarpColumns;
  const float patch_y = static_cast<float>(tile_y + y);

#pragma unroll 1
  for (int tile = begin; tile < min(begin + tiles.run, tiles.across); ++tile) {
    const int tile_x = tile * kTile;
    const float patch_x = static_cast<float>(tile_x + x);
    float colors[kAtOnce][3] = {};
#pragma unroll 1
    for (int row = 0; valid && row < samples; ++row) {
      const float down = (static_cast<float>(row) + 0.5f) * part - 0.5f;
#pragma unroll 1
      for (int column = 0; column < samples; ++column) {
        const float right = (static_cast<float>(column) + 0.5f) * part - 0.5f;
#pragma unroll
        for (int i = 0; i < kAtOnce; ++i) {
          const float at_y = patch_y + (static_cast<float>(i * kRowsApart) + down);
          add_sample(region, patch_x + right, at_y, colors[i]);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float first = colors[i][0], last = colors[i][2];
      colors[i][0] = (warp.bgr ? last : first) * (part * part);
      colors[i][1] *= part * part;
      colors[i][2] = (warp.bgr ? first : last) * (part * part);
    }
#pragma unroll 1
    for (int i = first; valid && i < last; ++i) {
      const Picture picture = Picture::of(warp.occluders, i, 4);
      if (!in_tile(picture, static_cast<float>(tile_x), static_cast<float>(tile_y))) continue;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        occlude(picture, patch_x, patch_y + static_cast<float>(k * kRowsApart), colors[k]);
      }
    }
    if (matrix != nullptr) recolor(matrix, colors);
#pragma unroll
    for (auto& color : colors) {
#pragma unroll
      for (float& value : color) value = fminf(fmaxf(value, 0), 255);
    }
    if (curve != nullptr) {
#pragma unroll
      for (auto& color : colors) {
#pragma unroll
        for (float& value : color) value = bent(curve, value);
      }
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
#pragma unroll
      for (int channel = 0; channel < 3; ++channel) {
        const float value = (colors[i][channel] - warp.mean[channel]) * scale.at[channel];
        Pack<Element, 1>::of({valid ? value : NAN})
            .store(finished + Result::index(channel, x, y + i * kRowsApart));
      }
    }
    __syncthreads();
    Result::write(finished, warp, patch, tile_x, tile_y);
    __syncthreads();
  }
}

/// The longest runs with which there are enough blocks: what a block works out for its patch serves all its
/// tiles.
Tiles tile(const Warp& warp) {
  int device = 0, multiprocessors = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  Tiles tiles = {};
  tiles.across = static_cast<int>((warp.width - 1) / kTile + 1);
  tiles.down = static_cast<int>((warp.height - 1) / kTile + 1);
  const int64_t rows = warp.batch * tiles.down, wanted = 12 * multiprocessors;
  tiles.runs = static_cast<int>(std::clamp<int64_t>((wanted + rows - 1) / rows, 1, tiles.across));
  tiles.run = (tiles.across + tiles.runs - 1) / tiles.runs;
  tiles.runs = (tiles.across + tiles.run - 1) / tiles.run;
  return tiles;
}

template <class Element, bool kChannelsLast>
const char* start(const Warp& warp, void* stream) {
  const Tiles tiles = tile(warp);
  const unsigned bytes = Finished<Element, kChannelsLast>::kBytes + (warp.gamma ? kCurve * sizeof(float) : 0);
  const int64_t blocks = warp.batch * tiles.runs * tiles.down;
  if (blocks > INT32_MAX) return "too many patches for one batch";
  const Launch how = {static_cast<unsigned>(blocks), kThreads, bytes, 1, stream};
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
  if (std::max(warp.height, warp.width) > kMostPixels) return "height and width must be at most 2^29";
  if (warp.occluders.count > INT32_MAX) return "too many occluders for one batch";
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
