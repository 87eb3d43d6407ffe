// Runs an operator from C++, through torch's dispatcher; including ops.h is what registers it.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ipr/ops.h>

#include <cstdio>

int main() {
  using Tensor = at::Tensor;
  auto integral = c10::Dispatcher::singleton()
                      .findSchemaOrThrow("ipr::softmax_integral", "")
                      .typed<std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(const Tensor&)>();
  Tensor logits = at::zeros({1, 1, 4, 5, 6});
  logits.index_put_({at::tensor(0), at::tensor(0), at::tensor(3), at::tensor(1), at::tensor(2)}, 100.0);
  Tensor mean = std::get<0>(integral.call(logits)).flatten();
  std::printf("%.3f %.3f %.3f\n", mean[0].item<double>(), mean[1].item<double>(), mean[2].item<double>());
}
