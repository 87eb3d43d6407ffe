// softmax_integral for every device: the volumes, the results, the elements. Includes nothing of torch.
#pragma once

#include <cstdint>

namespace ipr {

enum class Element { kFloat32, kFloat64, kBFloat16, kFloat16 };

constexpr int64_t element_size(Element element) {
  return element == Element::kFloat64 ? 8 : element == Element::kFloat32 ? 4 : 2;
}

/// Volumes [batch, joints, outer, mid, inner]; strides in elements, the inner axis is contiguous.
/// An NCHW network gives outer, mid, inner = z, y, x; a channels_last network gives y, x, z, and of heat maps
/// inner = 1 with joint_stride = 1. The axes say which is which, in the order x, y, z.
struct Volumes {
  int64_t batch, joints, outer, mid, inner;
  int64_t batch_stride, joint_stride, outer_stride, mid_stride;
  int outer_axis, mid_axis, inner_axis;

  int64_t rows() const { return batch * joints; }
};

/// The results per row (joint of a person), float32 or, of float64 logits, float64: mean [rows, 3] in the
/// order x, y, z and the three axes' marginals [rows, length]; logsumexp [rows] is always float64. In the
/// backward pass also their upstream gradients, null where there is none.
struct Integral {
  void *mean, *outer, *mid, *inner;
  double* logsumexp;
};

}  // namespace ipr
