// A net of two layers on a CSV file of numbers: the last column is the class (0, 1, …), the others are features.
//   g++ two_layers.cpp $(pkg-config --cflags --libs glia) -o two_layers && ./two_layers points.csv
#include <algorithm>
#include <charconv>
#include <cstdio>

#include "data/text/csv.h"
#include "engine/ops/elementwise/elementwise.h"
#include "engine/ops/loss/softmax.h"
#include "nn/linear.h"
#include "nn/optimizer.h"

int main(int argc, char** argv) try {
  using namespace glia;
  if (argc != 2) fail_input("usage: two_layers FILE.csv");
  BadRows bad_rows;
  CsvReader reader(argv[1], bad_rows);
  CsvRow row;
  std::vector<float> features;
  std::vector<int32_t> labels;
  int64_t width = 0;
  while (reader.next(row)) {
    const auto features_here = static_cast<int64_t>(row.fields.size()) - 1;
    if (labels.empty()) width = features_here;
    if (width != features_here || width < 1)
      fail_input("{}: expected {} fields, got {}", reader.place(row, 0), std::max<int64_t>(width, 1) + 1,
                 row.fields.size());
    for (size_t i = 0; i < row.fields.size(); ++i) {
      const auto read = [&](auto& number, const char* what) {
        const std::string_view field = row.fields[i];
        const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), number);
        if (error != std::errc{} || end != field.data() + field.size())
          fail_input("{}: expected {}, got '{}'", reader.place(row, i), what, field);
      };
      if (i + 1 < row.fields.size()) {
        read(features.emplace_back(), "a number");
      } else {
        read(labels.emplace_back(), "a class 0, 1, …");
        if (labels.back() < 0 || labels.back() >= 1000)
          fail_input("{}: expected a class from 0 to 999, got {}", reader.place(row, i), labels.back());
      }
    }
  }
  if (labels.empty()) fail_input("{}: expected rows, got none", argv[1]);
  const auto count = static_cast<int64_t>(labels.size());
  const int64_t classes = 1 + *std::max_element(labels.begin(), labels.end());

  Context context(Device::parse("cpu"), 1);
  const Tensor x = from_vector(context, features, {count, width});  // [N, I]
  const Tensor y = from_vector(context, labels, {count});           // [N]
  ParameterSet set;
  const Linear hidden(set, "hidden", width, 32, 0.3), output(set, "output", 32, classes, 0.3);
  set.materialise(context, /*seed=*/1);
  AdamWOptions options;
  options.learning_rate = 0.02, options.warmup_steps = 0, options.total_steps = 300;
  AdamW optimiser(set, options);

  for (uint32_t step = 0; step < 300; ++step) {
    context.set_step(step);
    set.clear_gradients();
    const Var loss = cross_entropy(output(gelu(hidden(x))), y);
    backward(loss);
    optimiser.step();
    if (step % 100 == 99) std::printf("step %u  loss %.4f\n", step + 1, loss.value().item());
  }
  const NoGrad no_grad(context);
  const std::vector<double> logits = output(gelu(hidden(x))).value().to_vector<double>();  // [N, C]
  int64_t right = 0;
  for (int64_t n = 0; n < count; ++n) {
    const double* begin = logits.data() + n * classes;
    right += std::max_element(begin, begin + classes) - begin == labels[static_cast<size_t>(n)];
  }
  std::printf("%lld of %lld right\n", static_cast<long long>(right), static_cast<long long>(count));
  return right * 10 >= count * 9 ? 0 : 1;
} catch (const glia::Error& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
