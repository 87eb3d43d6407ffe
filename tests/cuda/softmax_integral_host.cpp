// Runs softmax_integral's kernels in the emulator, forward and backward, under every order of threads, which
// must give the same bits:
//   softmax_integral_host [FAULT] < request > response
// tests/cuda/program.py writes requests and reads responses. FAULT: which planted fault is on, in a copy of
// the kernels that has some.
#include <sys/mman.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "cuda/device.h"
#include "cuda/softmax_integral.h"

namespace ipr::cuda {

extern int planted;
int planted = 0;

namespace {

/// In the order of program.py.
struct Request {
  int64_t element, batch, joints, outer, mid, inner;
  int64_t strides[4], gradient_strides[4];
  int64_t outer_axis, mid_axis, inner_axis;
  int64_t offset;    // elements by which the logits and the gradient lie off an aligned address
  int64_t in_place;  // the gradient overwrites the logits
  int64_t upstream;  // bits: of the mean, the outer, mid and inner marginals, the logsumexp
  int64_t multiprocessors, major, shared_bytes;
};

using Bytes = std::vector<char>;
constexpr int kOutcomes = 6;
constexpr const char* kNames[kOutcomes] = {"mean", "outer", "mid", "inner", "logsumexp", "gradient"};
/// What a call gives, in the order of the names.
using Outcome = Bytes[kOutcomes];

/// What the test learns of how the work was shared out.
struct Shape {
  int64_t forward_launches, blocks, threads, cluster, backward_blocks;
};

[[noreturn]] void fail(const char* what, const char* why) {
  fprintf(stderr, "softmax_integral_host: %s: %s\n", what, why);
  _Exit(4);
}

void read(void* to, size_t bytes) {
  if (fread(to, 1, bytes, stdin) != bytes) fail("request", "ends too early");
}

/// Memory of exactly the elements that a tensor spans; full of NaN, or, if that would be gigabytes, of zeros
/// that take no memory until they are written.
class Tensor {
 public:
  Tensor(const Volumes& volumes, int64_t element_bytes, int64_t offset, unsigned char fill)
      : volumes_(volumes), size_(element_bytes), offset_(offset * element_bytes) {
    const Volumes& v = volumes;
    const int64_t last = (v.batch - 1) * v.batch_stride + (v.joints - 1) * v.joint_stride +
                         (v.outer - 1) * v.outer_stride + (v.mid - 1) * v.mid_stride + v.inner - 1;
    bytes_ = offset_ + (last + 1) * size_;
    sparse_ = bytes_ > int64_t{1} << 30;
    if (sparse_) {
      const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
      void* const memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
      if (memory == MAP_FAILED) fail("mmap", strerror(errno));
      memory_ = static_cast<char*>(memory);
    } else {
      memory_ = static_cast<char*>(malloc(bytes_));
      memset(memory_, fill, bytes_);
    }
  }
  ~Tensor() {
    if (sparse_)
      munmap(memory_, bytes_);
    else
      free(memory_);
  }
  Tensor(const Tensor&) = delete;

  void* data() const { return memory_ + offset_; }

  /// The elements, one volume after another.
  Bytes gather() const {
    Bytes dense;
    each([&](char* row, size_t bytes) { dense.insert(dense.end(), row, row + bytes); });
    return dense;
  }
  void scatter(const Bytes& dense) {
    const char* from = dense.data();
    each([&](char* row, size_t bytes) {
      memcpy(row, from, bytes);
      from += bytes;
    });
  }
  /// Everything, also what lies between the elements.
  bool equals(const Tensor& other) const { return sparse_ || memcmp(memory_, other.memory_, bytes_) == 0; }

 private:
  template <class Visit>
  void each(const Visit& visit) const {
    const Volumes& v = volumes_;
    for (int64_t row = 0; row < v.rows(); ++row) {
      for (int64_t outer = 0; outer < v.outer; ++outer) {
        for (int64_t mid = 0; mid < v.mid; ++mid) {
          const int64_t at = row / v.joints * v.batch_stride + row % v.joints * v.joint_stride +
                             outer * v.outer_stride + mid * v.mid_stride;
          visit(memory_ + offset_ + at * size_, v.inner * size_);
        }
      }
    }
  }

  Volumes volumes_;
  int64_t size_, offset_, bytes_;
  bool sparse_;
  char* memory_;
};

struct Case {
  Request request;
  Volumes logits, gradient;
  Element element;
  int64_t sizes[5];  // in bytes, of the results other than the gradient
  Bytes values;
  Bytes upstream[5];
};

Case read_case() {
  Case c;
  read(&c.request, sizeof(c.request));
  const Request& r = c.request;
  const auto volumes = [&](const int64_t* s) {
    return Volumes{r.batch,
                   r.joints,
                   r.outer,
                   r.mid,
                   r.inner,
                   s[0],
                   s[1],
                   s[2],
                   s[3],
                   static_cast<int>(r.outer_axis),
                   static_cast<int>(r.mid_axis),
                   static_cast<int>(r.inner_axis)};
  };
  c.logits = volumes(r.strides);
  c.gradient = volumes(r.gradient_strides);
  c.element = static_cast<Element>(r.element);
  const int64_t rows = r.batch * r.joints, real = c.element == Element::kFloat64 ? 8 : 4;
  const int64_t lengths[] = {3 * real, r.outer * real, r.mid * real, r.inner * real, 8};
  for (int i = 0; i < 5; ++i) c.sizes[i] = rows * lengths[i];
  c.values.resize(rows * r.outer * r.mid * r.inner * element_size(c.element));
  read(c.values.data(), c.values.size());
  for (int i = 0; i < 5; ++i) {
    if (!(r.upstream >> i & 1)) continue;
    c.upstream[i].resize(c.sizes[i]);
    read(c.upstream[i].data(), c.sizes[i]);
  }
  return c;
}

/// Each array in memory of its own.
class Arrays {
 public:
  void* add(int64_t bytes, const char* from = nullptr) {
    arrays_.push_back(static_cast<char*>(malloc(bytes)));
    if (from != nullptr)
      memcpy(arrays_.back(), from, bytes);
    else
      memset(arrays_.back(), 0xff, bytes);
    return arrays_.back();
  }
  ~Arrays() {
    for (char* array : arrays_) free(array);
  }

 private:
  std::vector<char*> arrays_;
};

void must(const char* what, const char* error) {
  if (error != nullptr) fail(what, error);
}

Shape run(const Case& c, Outcome& outcome) {
  const int64_t size = element_size(c.element);
  void* const stream = &outcome;  // any pointer: that every launch gets it is what matters
  Tensor logits(c.logits, size, c.request.offset, 0xff), untouched(c.logits, size, c.request.offset, 0xff);
  logits.scatter(c.values);
  untouched.scatter(c.values);
  Arrays arrays;
  const Integral result = {arrays.add(c.sizes[0]), arrays.add(c.sizes[1]), arrays.add(c.sizes[2]),
                           arrays.add(c.sizes[3]), static_cast<double*>(arrays.add(c.sizes[4]))};
  void* const workspace = arrays.add(softmax_integral_workspace(c.logits, c.element, logits.data()));
  emulator::record = {};
  must("forward", softmax_integral(c.logits, c.element, logits.data(), result, workspace, stream));
  const Launch& last = emulator::record.last;
  Shape shape = {emulator::record.launches, last.blocks, last.threads, last.cluster, 0};
  if (last.stream != stream) fail("forward", "not in the stream that was given");
  if (!logits.equals(untouched)) fail("forward", "changes the logits");

  const auto upstream_of = [&](int i) {
    return c.upstream[i].empty() ? nullptr : arrays.add(c.sizes[i], c.upstream[i].data());
  };
  const Integral upstream = {upstream_of(0), upstream_of(1), upstream_of(2), upstream_of(3),
                             static_cast<double*>(upstream_of(4))};
  constexpr unsigned char kFill = 0xab;
  Tensor gradient(c.gradient, size, c.request.offset, kFill),
      expected(c.gradient, size, c.request.offset, kFill);
  Tensor& out = c.request.in_place ? logits : gradient;
  emulator::record = {};
  must("backward", softmax_integral_backward(c.logits, c.element, logits.data(),
                                             c.request.in_place ? c.logits : c.gradient, out.data(), result,
                                             upstream, stream));
  shape.backward_blocks = last.blocks;
  if (last.stream != stream) fail("backward", "not in the stream that was given");
  const void* const results[] = {result.mean, result.outer, result.mid, result.inner, result.logsumexp};
  for (int i = 0; i < 5; ++i) {
    const char* const from = static_cast<const char*>(results[i]);
    outcome[i].assign(from, from + c.sizes[i]);
  }
  outcome[5] = out.gather();
  Tensor& whole = c.request.in_place ? untouched : expected;
  whole.scatter(outcome[5]);
  if (!out.equals(whole)) fail("backward", "writes between the elements of the gradient");
  if (!c.request.in_place && !logits.equals(untouched)) fail("backward", "changes the logits");
  return shape;
}

int serve() {
  const Case c = read_case();
  emulator::device.multiprocessors = static_cast<int>(c.request.multiprocessors);
  emulator::device.major = static_cast<int>(c.request.major);
  emulator::device.shared_bytes_optin = static_cast<int>(c.request.shared_bytes);
  const std::pair<emulator::Order, unsigned> orders[] = {
      {emulator::Order::kAscending, 0}, {emulator::Order::kDescending, 0}, {emulator::Order::kRandom, 1}};
  Outcome first, other;
  Shape shape = {};
  for (const auto& [order, seed] : orders) {
    emulator::device.order = order;
    emulator::device.seed = seed;
    Outcome& outcome = &orders[0].first == &order ? first : other;
    shape = run(c, outcome);
    for (int i = 0; i < kOutcomes; ++i) {
      if (outcome[i] != first[i]) fail(kNames[i], "depends on the order of threads");
    }
  }
  fwrite(&shape, sizeof(shape), 1, stdout);
  for (const Bytes& bytes : first) fwrite(bytes.data(), 1, bytes.size(), stdout);
  return 0;
}

}  // namespace
}  // namespace ipr::cuda

int main(int count, char** words) {
  if (count > 1) ipr::cuda::planted = atoi(words[1]);
  return ipr::cuda::serve();
}
