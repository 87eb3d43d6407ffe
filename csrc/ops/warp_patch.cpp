// warp_patch as torch sees it: schema, checks, allocation, dispatch.
#include "cpu/warp_patch.h"

#include "ops/tensor.h"
#ifdef USE_CUDA
#include "cuda/warp_patch.h"
#endif

namespace ipr {
namespace {

const char* name_of(ScalarType dtype) {
  return dtype == ScalarType::Byte   ? "uint8"
         : dtype == ScalarType::Int  ? "int32"
         : dtype == ScalarType::Long ? "int64"
                                     : "float32";
}

void check_table(const std::string& name, const Tensor& table, const Tensor& pixels, ScalarType dtype,
                 std::initializer_list<int64_t> sizes, const char* meaning) {
  bool shaped = table.dim() == static_cast<int64_t>(sizes.size());
  int64_t axis = 0;
  std::string wanted;
  for (const int64_t size : sizes) {
    shaped = shaped && table.size(axis++) == size;
    wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
  }
  const bool typed = table.scalar_type() == dtype;
  STD_TORCH_CHECK(shaped && typed, "warp_patch: ", name, " must be ", name_of(dtype), " [", wanted, "], ",
                  meaning, "; got sizes ", text(table), typed ? "" : " and another type");
  STD_TORCH_CHECK(same_device(table, pixels), "warp_patch: ", name, " is on another device than pixels");
}

/// Pictures in one buffer; the tensors are kept while the view of them is used.
struct Packed {
  Packed(const char* name, const Tensor& pixels, const Tensor& offsets, const Tensor& sizes,
         const Tensor& affine, int64_t channels)
      : pixels(torch::stable::contiguous(pixels)),
        offsets(torch::stable::contiguous(offsets)),
        sizes(torch::stable::contiguous(sizes)),
        affine(torch::stable::contiguous(affine)),
        count(offsets.numel()) {
    const std::string prefix = name;
    check_table(prefix + "pixels", pixels, pixels, ScalarType::Byte, {pixels.numel()}, "pictures in a row");
    check_table(prefix + "offsets", offsets, pixels, ScalarType::Long, {count},
                "the first byte of each picture");
    check_table(prefix + "sizes", sizes, pixels, ScalarType::Int, {count, 2},
                "(height, width) of each picture");
    check_table(prefix + "affine", affine, pixels, ScalarType::Float, {count, 2, 3},
                "patch px -> px of each picture");
    if (!pixels.is_cuda()) check_bounds(prefix, channels);
  }

  /// On the host: the device's tables are looked at by the kernel.
  void check_bounds(const std::string& prefix, int64_t channels) const {
    const Pictures all = pictures();
    for (int64_t i = 0; i < count; ++i) {
      if (fits(all, i, channels)) continue;
      const int64_t height = all.sizes[2 * i], width = all.sizes[2 * i + 1];
      STD_TORCH_CHECK(height >= 1 && width >= 1 && all.offsets[i] >= 0, "warp_patch: each picture of ",
                      prefix, "pixels needs a height and width of at least 1 and an offset from 0; number ",
                      i, " has ", height, ", ", width, " and ", all.offsets[i]);
      STD_TORCH_CHECK(height * width <= INT32_MAX / channels, "warp_patch: picture ", i, " of ", prefix,
                      "pixels, ", height, " x ", width, ", is larger than 2 GiB");
      STD_TORCH_CHECK(false, "warp_patch: picture ", i, " of ", prefix, "pixels ends beyond the ", all.bytes,
                      " bytes there are");
    }
  }

  Pictures pictures() const {
    return {static_cast<const uint8_t*>(pixels.data_ptr()),
            pixels.numel(),
            count,
            static_cast<const int64_t*>(offsets.data_ptr()),
            static_cast<const int32_t*>(sizes.data_ptr()),
            static_cast<const float*>(affine.data_ptr())};
  }

  Tensor pixels, offsets, sizes, affine;
  int64_t count;
};

Tensor warp_patch(const Tensor& pixels, const Tensor& offsets, const Tensor& sizes, const Tensor& affine,
                  int64_t height, int64_t width, std::vector<double> mean, std::vector<double> std,
                  const std::optional<Tensor>& color, const std::optional<Tensor>& gamma,
                  const std::optional<Tensor>& occluder_pixels, const std::optional<Tensor>& occluder_offsets,
                  const std::optional<Tensor>& occluder_sizes, const std::optional<Tensor>& occluder_affine,
                  const std::optional<Tensor>& first_occluder, ScalarType dtype, bool channels_last,
                  bool antialias, bool bgr) {
  const Packed regions("", pixels, offsets, sizes, affine, 3);
  STD_TORCH_CHECK(height >= 1 && width >= 1, "warp_patch: size (height, width) must be at least 1, got (",
                  height, ", ", width, ")");
  STD_TORCH_CHECK(mean.size() == 3 && std.size() == 3, "warp_patch: mean and std must be 3 numbers each");
  Warp warp = {};
  warp.batch = regions.count, warp.height = height, warp.width = width;
  warp.regions = regions.pictures();
  for (int i = 0; i < 3; ++i)
    warp.mean[i] = static_cast<float>(mean[i]), warp.std[i] = static_cast<float>(std[i]);
  warp.bgr = bgr, warp.antialias = antialias, warp.channels_last = channels_last;
  switch (dtype) {
    case ScalarType::Float:
      warp.output = Output::kFloat32;
      break;
    case ScalarType::BFloat16:
      warp.output = Output::kBFloat16;
      break;
    case ScalarType::Half:
      warp.output = Output::kFloat16;
      break;
    default:
      STD_TORCH_CHECK(false, "warp_patch: dtype must be float32, bfloat16 or float16");
  }
  std::optional<Tensor> colors, gammas, firsts;
  if (color.has_value()) {
    check_table("color", *color, pixels, ScalarType::Float, {warp.batch, 3, 4},
                "3 x 3 matrices and offsets, or float32 [B, 3], factors");
    colors = torch::stable::contiguous(*color);
    warp.color = static_cast<const float*>(colors->data_ptr());
  }
  if (gamma.has_value()) {
    check_table("gamma", *gamma, pixels, ScalarType::Float, {warp.batch}, "exponents");
    gammas = torch::stable::contiguous(*gamma);
    warp.gamma = static_cast<const float*>(gammas->data_ptr());
  }
  std::optional<Packed> occluders;
  if (first_occluder.has_value()) {
    STD_TORCH_CHECK(occluder_pixels.has_value() && occluder_offsets.has_value() &&
                        occluder_sizes.has_value() && occluder_affine.has_value(),
                    "warp_patch: occluders need pixels, offsets, sizes, affine and first, or none of them");
    occluders.emplace("occluder_", *occluder_pixels, *occluder_offsets, *occluder_sizes, *occluder_affine, 4);
    check_table("first_occluder", *first_occluder, pixels, ScalarType::Long, {warp.batch + 1},
                "[B + 1] numbers of occluders");
    STD_TORCH_CHECK(same_device(*occluder_pixels, pixels), "warp_patch: the occluders are on another device");
    firsts = torch::stable::contiguous(*first_occluder);
    const auto* const first = static_cast<const int64_t*>(firsts->data_ptr());
    for (int64_t i = 0; !pixels.is_cuda() && i < warp.batch; ++i) {
      STD_TORCH_CHECK(0 <= first[i] && first[i] <= first[i + 1] && first[i + 1] <= occluders->count,
                      "warp_patch: first_occluder must rise from 0 to at most the ", occluders->count,
                      " occluders there are; at ", i, " it is ", first[i], " and then ", first[i + 1]);
    }
    warp.first_occluder = first;
    warp.occluders = occluders->pictures();
  }
  const std::array<int64_t, 4> shape = {warp.batch, 3, height, width};
  const std::array<int64_t, 4> strides =
      channels_last ? std::array<int64_t, 4>{3 * height * width, 1, 3 * width, 3}
                    : std::array<int64_t, 4>{3 * height * width, height * width, width, 1};
  Tensor patches = empty<4>(pixels, shape, strides, dtype);
  if (warp.batch == 0) return patches;
  warp.patches = patches.data_ptr();
#ifdef USE_CUDA
  if (pixels.is_cuda()) {
    const OnDevice device(pixels);
    check_cuda(cuda::warp_patch(warp, device.stream), "warp_patch");
    return patches;
  }
#endif
  STD_TORCH_CHECK(cpu::current_isa() != cpu::Isa::kNone,
                  "IPR_ISA names an instruction set that this build or this CPU lacks");
  cpu::warp_patch(warp, parallel_for);
  return patches;
}

}  // namespace
}  // namespace ipr

STABLE_TORCH_LIBRARY_FRAGMENT(ipr, m) {
  m.def(
      "warp_patch(Tensor pixels, Tensor offsets, Tensor sizes, Tensor affine, int height, int width, "
      "float[] mean, float[] std, Tensor? color, Tensor? gamma, Tensor? occluder_pixels, "
      "Tensor? occluder_offsets, Tensor? occluder_sizes, Tensor? occluder_affine, Tensor? first_occluder, "
      "ScalarType dtype, bool channels_last, bool antialias, bool bgr) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ipr, CPU, m) { m.impl("warp_patch", TORCH_BOX(&ipr::warp_patch)); }

#ifdef USE_CUDA
STABLE_TORCH_LIBRARY_IMPL(ipr, CUDA, m) { m.impl("warp_patch", TORCH_BOX(&ipr::warp_patch)); }
#endif
