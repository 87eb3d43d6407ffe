// warp_patch for every device: the regions, how a patch sees them, the patches. Includes nothing of torch.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define IPR_ALSO_ON_DEVICE __host__ __device__
#else
#define IPR_ALSO_ON_DEVICE
#endif

namespace ipr {

/// Pictures of 3 or 4 bytes per pixel, one after another in one buffer.
struct Pictures {
  const uint8_t* pixels;
  int64_t bytes;           // of all
  int64_t count;           // of pictures
  const int64_t* offsets;  // [count] first byte of each
  const int32_t* sizes;    // [count, 2] (height, width)
  const float* affine;     // [count, 2, 3] patch px -> picture px
};

enum class Output { kFloat32, kBFloat16, kFloat16 };

/// What warp_patch computes, per patch and pixel, in this order: the region's colour at affine (x, y),
/// bilinear, black outside; the occluders over it; color; clip to 0..255; gamma; (value - mean) / std.
///
/// Nothing is read of a picture that does not fit (below). On the CPU the operator refuses it. On CUDA the
/// host does not know the tables, and asking for them would make it wait: every element of a patch whose
/// region or one of whose occluders does not fit, or whose occluders are no range of those there are, is NaN.
struct Warp {
  int64_t batch, height, width;   // of the patches
  Pictures regions;               // RGB or BGR, one for each patch
  Pictures occluders;             // RGBA, colour premultiplied by alpha
  const int64_t* first_occluder;  // [batch + 1], or null: there are none
  const float* color;             // [batch, 3, 4] or null: 3x3 matrix and offset in grey levels
  const float*
      gamma;  // [batch] or null: exponent of value / 255, exact at whole grey levels, linear in between
  float mean[3], std[3];  // of R, G, B in grey levels
  bool bgr;               // the order of the regions' channels
  bool antialias;         // average over as many samples per patch px as it covers region px
  bool channels_last;     // the patches' memory is [batch, height, width, 3]
  Output output;
  void* patches;  // [batch, 3, height, width]
};

namespace {

/// Whether a picture has pixels, lies within the buffer and is so small that 32 bits count its bytes.
IPR_ALSO_ON_DEVICE inline bool fits(const Pictures& pictures, int64_t index, int64_t channels) {
  const int64_t height = pictures.sizes[2 * index], width = pictures.sizes[2 * index + 1];
  const int64_t offset = pictures.offsets[index];
  return height >= 1 && width >= 1 && offset >= 0 && height * width <= INT32_MAX / channels &&
         offset <= pictures.bytes - height * width * channels;
}

/// Samples per patch px and axis that antialias takes of a region, at most.
constexpr int kMostSamples = 8;

/// Region px per patch px, along the patch's longer axis: how many samples per axis cover them.
IPR_ALSO_ON_DEVICE inline int samples_of(const float* m) {
  const float x = m[0] * m[0] + m[3] * m[3], y = m[1] * m[1] + m[4] * m[4];
  const float squared = x > y ? x : y;
  int samples = 1;
  while (samples < kMostSamples && static_cast<float>(samples * samples) * 1.02f < squared) ++samples;
  return samples;
}

}  // namespace
}  // namespace ipr
