// Part of a JPEG picture, by libjpeg-turbo: blocks beside it are not transformed, rows below it not even
// read. OpenCV, which decodes whole pictures, gives the same pixels. A library of its own, without torch:
// where libjpeg-turbo is missing, ipr goes without it.
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
// After <cstdio>, which it needs.
#include <jpeglib.h>

namespace {

// What upsampled chroma looks at beside a pixel, and a whole block of it with scaled-down transforms.
constexpr int64_t kContext = 16;

struct Errors {
  jpeg_error_mgr base;
  jmp_buf back;
  char* message;
};

[[noreturn]] void fail(j_common_ptr info) {
  Errors* errors = reinterpret_cast<Errors*>(info->err);
  errors->base.format_message(info, errors->message);
  longjmp(errors->back, 1);
}

/// Warnings are of damaged data, which OpenCV shows as well as it can too.
void ignore(j_common_ptr, int) {}

[[noreturn]] void fail(jpeg_decompress_struct* info, const char* message) {
  Errors* errors = reinterpret_cast<Errors*>(info->err);
  snprintf(errors->message, JMSG_LENGTH_MAX, "%s", message);
  longjmp(errors->back, 1);
}

void read(jpeg_decompress_struct* info, int64_t left, int64_t top, int64_t width, int64_t height,
          uint8_t* rgb) {
  if (left + width > info->output_width || top + height > info->output_height) {
    fail(info, "the region lies outside of the picture");
  }
  const int64_t from = left > kContext ? left - kContext : 0;
  const int64_t to = left + width + kContext;
  JDIMENSION first = static_cast<JDIMENSION>(from);
  JDIMENSION columns = static_cast<JDIMENSION>((to < info->output_width ? to : info->output_width) - from);
  jpeg_crop_scanline(info, &first, &columns);  // rounds both to whole blocks
  JSAMPARRAY row = (*info->mem->alloc_sarray)(reinterpret_cast<j_common_ptr>(info), JPOOL_IMAGE,
                                              3 * info->output_width, 1);
  if (top > kContext) jpeg_skip_scanlines(info, static_cast<JDIMENSION>(top - kContext));
  while (info->output_scanline < top + height) {
    const int64_t y = int64_t{info->output_scanline} - top;
    if (jpeg_read_scanlines(info, row, 1) != 1) fail(info, "the picture ends before the region does");
    if (y >= 0) memcpy(rgb + y * 3 * width, row[0] + 3 * (left - first), 3 * width);
  }
}

}  // namespace

#define IPR_EXPORT extern "C" __attribute__((visibility("default")))
#define IPR_TEXT_OF(macro) IPR_TEXT(macro)
#define IPR_TEXT(word) #word

IPR_EXPORT const char* ipr_jpeg_version() { return "libjpeg-turbo " IPR_TEXT_OF(LIBJPEG_TURBO_VERSION); }

/// RGB pixels [height, width, 3] of a region of the picture that is `step` (1, 2, 4 or 8) times smaller.
/// 0: done; 1: a picture of four components, which this leaves to others; 2: `message` [200] says what is
/// wrong.
IPR_EXPORT int ipr_jpeg_region(const uint8_t* data, uint64_t size, int32_t step, int64_t left, int64_t top,
                               int64_t width, int64_t height, uint8_t* rgb, char* message) {
  static_assert(JMSG_LENGTH_MAX == 200);
  jpeg_decompress_struct info;
  Errors errors;
  info.err = jpeg_std_error(&errors.base);
  errors.base.error_exit = fail;
  errors.base.emit_message = ignore;
  errors.message = message;
  if (setjmp(errors.back)) {
    jpeg_destroy_decompress(&info);
    return 2;
  }
  jpeg_create_decompress(&info);
  jpeg_mem_src(&info, data, size);
  jpeg_read_header(&info, TRUE);
  const bool other = info.num_components != 1 && info.num_components != 3;
  if (!other) {
    info.out_color_space = JCS_RGB;
    info.scale_num = 1;
    info.scale_denom = static_cast<unsigned>(step);
    jpeg_start_decompress(&info);
    read(&info, left, top, width, height, rgb);
  }
  jpeg_destroy_decompress(&info);
  return other ? 1 : 0;
}
