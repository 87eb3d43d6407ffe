// Runs warp_patch's kernel in the emulator, under every order of threads, which must give the same bits:
//   warp_patch_host [FAULT] < request > response
// tests/cuda/warp_program.py writes requests and reads responses. FAULT: which planted fault is on, in a copy
// of the kernel that has some.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/device.h"
#include "cuda/warp_patch.h"

namespace ipr::cuda {

extern int planted;
int planted = 0;

namespace {

/// In the order of warp_program.py.
struct Request {
  int64_t batch, height, width, output;
  int64_t bgr, antialias, channels_last;
  int64_t bytes, count;                    // of the regions
  int64_t occluder_bytes, occluder_count;  // the count is negative where there are none
  int64_t has_color, has_gamma;
  int64_t multiprocessors;
  int64_t shift;  // off an aligned address: bytes of the buffers of pixels, elements of the patches
};

[[noreturn]] void fail(const char* why) {
  fprintf(stderr, "warp_patch_host: %s\n", why);
  _Exit(4);
}

struct Free {
  void operator()(void* memory) const { free(memory); }
};
using Memory = std::unique_ptr<char, Free>;

/// Memory of exactly that many bytes, in front of which `shift` others lie.
Memory allocate(int64_t bytes, int64_t shift, unsigned char fill) {
  Memory memory(static_cast<char*>(malloc(shift + bytes)));
  memset(memory.get(), fill, shift + bytes);
  return memory;
}

class Input {
 public:
  template <class T>
  const T* array(int64_t count, int64_t shift = 0) {
    arrays_.push_back(allocate(count * sizeof(T), shift, 0xff));
    char* const start = arrays_.back().get() + shift;
    if (fread(start, sizeof(T), count, stdin) != static_cast<size_t>(count))
      fail("the request ends too early");
    return reinterpret_cast<const T*>(start);
  }
  Pictures pictures(int64_t bytes, int64_t count, int64_t shift) {
    Pictures result = {};
    result.bytes = bytes, result.count = count;
    result.pixels = array<uint8_t>(bytes, shift);
    result.offsets = array<int64_t>(count);
    result.sizes = array<int32_t>(2 * count);
    result.affine = array<float>(6 * count);
    return result;
  }

 private:
  std::vector<Memory> arrays_;
};

int serve() {
  Input input;
  const Request r = *input.array<Request>(1);
  emulator::device.multiprocessors = static_cast<int>(r.multiprocessors);
  Warp warp = {};
  warp.batch = r.batch, warp.height = r.height, warp.width = r.width;
  warp.output = static_cast<Output>(r.output);
  warp.bgr = r.bgr, warp.antialias = r.antialias, warp.channels_last = r.channels_last;
  memcpy(warp.mean, input.array<float>(3), sizeof(warp.mean));
  memcpy(warp.std, input.array<float>(3), sizeof(warp.std));
  warp.regions = input.pictures(r.bytes, r.count, r.shift);
  if (r.occluder_count >= 0) {
    warp.occluders = input.pictures(r.occluder_bytes, r.occluder_count, r.shift);
    warp.first_occluder = input.array<int64_t>(r.batch + 1);
  }
  if (r.has_color) warp.color = input.array<float>(12 * r.batch);
  if (r.has_gamma) warp.gamma = input.array<float>(r.batch);

  const int64_t size = warp.output == Output::kFloat32 ? 4 : 2, shift = r.shift * size;
  const int64_t bytes = 3 * r.batch * r.height * r.width * size;
  if (bytes > int64_t{1} << 40) {  // refused before anything is written
    if (const char* error = warp_patch(warp, nullptr)) fail(error);
    fail("takes patches of a terabyte");
  }
  const std::pair<emulator::Order, unsigned> orders[] = {
      {emulator::Order::kAscending, 0}, {emulator::Order::kDescending, 0}, {emulator::Order::kRandom, 1}};
  std::vector<char> first;
  unsigned char fill = 0x5a;
  for (const auto& [order, seed] : orders) {
    emulator::device.order = order;
    emulator::device.seed = seed;
    emulator::record = {};
    fill = ~fill;  // what nobody writes differs
    const Memory patches = allocate(bytes, shift, fill);
    warp.patches = patches.get() + shift;
    void* const stream = &warp;  // any pointer: that the launch gets it is what matters
    if (const char* error = warp_patch(warp, stream)) fail(error);
    if (emulator::record.launches != (r.batch > 0)) fail("not one launch");
    if (r.batch > 0 && emulator::record.last.stream != stream) fail("not in the stream that was given");
    for (int64_t i = 0; i < shift; ++i) {
      if (static_cast<unsigned char>(patches.get()[i]) != fill) fail("writes before the patches");
    }
    const std::vector<char> result(patches.get() + shift, patches.get() + shift + bytes);
    if (first.empty()) first = result;
    if (result != first) fail("depends on the order of threads, or is not written");
  }
  if (bytes > 0) fwrite(first.data(), 1, first.size(), stdout);
  return 0;
}

}  // namespace
}  // namespace ipr::cuda

int main(int count, char** words) {
  if (count > 1) ipr::cuda::planted = atoi(words[1]);
  return ipr::cuda::serve();
}
