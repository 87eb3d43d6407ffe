// The operators of ipr for C++ programs: linking this library registers them with torch as `ipr::<name>`.
//
// Legend: B people, J joints, D H W volume (depth, height, width). Coordinates are (x, y, z), in cells of the
// volume.
//
//   ipr::softmax_integral(Tensor logits [B,J,D,H,W])
//       -> (mean [B,J,3], px [B,J,W], py [B,J,H], pz [B,J,D], logsumexp [B,J])
//     Softmax over each joint's volume, its expected coordinates and its three marginals, in one read of the
//     logits. float32 and float64 give their own type, bfloat16 and float16 give float32; logsumexp is always
//     float64, since the gradient needs more of it than float32 holds. Logits are read in place if their
//     rows are contiguous or, channels_last ([B,H,W,J*D] in memory), their depths or the joints of heat maps;
//     other layouts are copied.
//
//   ipr::softmax_integral_backward(logits, mean, px, py, pz, logsumexp,
//                                  grad_mean?, grad_px?, grad_py?, grad_pz?, grad_logsumexp?)
//       -> gradient [B,J,D,H,W], in the type and layout of the logits
//     What the forward pass gave, and the upstream gradients of it, each as large as what it is of; those
//     that are missing are zero. softmax(logits) * (a[x] + b[y] + c[z] + s), where a, b and c are the
//     upstream gradients of the marginals, those through the mean among them, minus their expectations, and s
//     is that of logsumexp. Joints whose upstream gradients are all zero get zeros without being read.
//
//   ipr::softmax_integral_backward_(...) -> ()
//     The same gradient, in the memory of the logits.
//   ipr::warp_patch(pixels uint8 [bytes], offsets int64 [B], sizes int32 [B,2], affine float32 [B,2,3],
//                   int height, int width, float[3] mean, float[3] std, color? float32 [B,3,4],
//                   gamma? float32 [B], occluder_pixels? uint8 [bytes], occluder_offsets? int64 [K],
//                   occluder_sizes? int32 [K,2], occluder_affine? float32 [K,2,3],
//                   first_occluder? int64 [B+1], ScalarType dtype, bool channels_last, bool antialias, bool
//                   bgr)
//       -> patches [B,3,height,width]
//     Crops, warps, occludes, colours and normalises regions of images; warp.h says what in which order, and
//     ipr/ops/warp_patch.py what each argument is. Regions are RGB (BGR), occluders RGBA. A region or an
//     occluder that is not within its buffer is an error on the CPU; on CUDA its patch is NaN.
#pragma once

extern "C" {
/// Version of the schemas above and of what they mean.
int ipr_ops_version();
/// "compiler | instruction sets | CUDA", as compiled.
const char* ipr_ops_build_info();
/// Instruction set that the CPU kernels run with: the best that was compiled and this CPU has, unless the
/// environment says IPR_ISA=baseline|avx2|avx512. An empty string if that one is unknown or not available
/// here.
const char* ipr_ops_isa();
/// Chooses another one for the whole process; 0, and no change, if it is unknown or not available here.
int ipr_ops_use_isa(const char* isa);
}

namespace ipr {
// A symbol that programs use, so that no linker drops the library as unneeded and the operators unregistered.
inline const int ops_registered = ipr_ops_version();
}  // namespace ipr
