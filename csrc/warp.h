// warp_patch for every device: the regions, how a patch sees them, the patches. Includes nothing of torch.
#pragma once

#include <cstdint>

namespace ipr {

/// Pictures of 3 or 4 bytes per pixel, one after another in one buffer.
struct Pictures {
  const uint8_t* pixels;
  int64_t bytes;           // of all
  const int64_t* offsets;  // [pictures] first byte of each
  const int32_t* sizes;    // [pictures, 2] (height, width)
  const float* affine;     // [pictures, 2, 3] patch px -> picture px
};

enum class Output { kFloat32, kBFloat16, kFloat16 };

/// What warp_patch computes, per patch and pixel, in this order: the region's colour at affine (x, y),
/// bilinear, black outside; the occluders over it; color; clip to 0..255; gamma; (value - mean) / std.
struct Warp {
  int64_t batch, height, width;   // of the patches
  Pictures regions;               // RGB or BGR
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

/// Samples per patch px and axis that antialias takes of a region, at most.
constexpr int kMostSamples = 8;

}  // namespace ipr
