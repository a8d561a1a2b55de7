#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/core/file.h"
#include "experiments/records/tensorboard.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

constexpr double kTime = 1700000000.25;
const char* kFile = "/events.out.tfevents.glia";

EvalPoint fake_eval(int64_t step) {
  EvalPoint p{"validation", step, {{"accuracy", 0.9 + 0.001 * double(step)}, {"loss", 0.3}}, {}};
  for (int l = 0; l < 2; ++l) {
    Matrix u(2, 4);
    u.values = {.4, .3, .2, .1, .1 * (l + 1), .2, .3, .4 - .1 * l};
    p.layers.push_back(layer_metrics(u, u));
  }
  return p;
}

void write_steps(TensorBoardWriter& writer, int64_t first, int64_t last) {
  for (int64_t step = first; step <= last; ++step) {
    TrainPoint p;
    p.step = step;
    p.values = {{"loss", 1.0 / double(step)},
                {"ce", 0.9 / double(step)},
                {"balance", 1e-3},
                {"energy", 2e-3},
                {"lr", 5e-5},
                {"grad_norm", 1.5}};
    writer.set_wall_time(kTime + double(step));
    writer.add(p);
    if (step % 4 == 0) writer.add(fake_eval(step));
  }
}

}  // namespace

TEST_CASE("tensorboard: CRC-32C of known inputs") {
  EXPECT(crc32c("123456789") == 0xe3069283u);            // the catalogue's check value
  EXPECT(crc32c(std::string(32, '\0')) == 0x8a9136aau);  // RFC 3720, B.4
  EXPECT(crc32c(std::string(32, '\xff')) == 0x62a8ab43u);
}

TEST_CASE("tensorboard: the bytes of a scalar event") {
  TemporaryFolder tmp("tensorboard-bytes");
  {
    TensorBoardWriter writer(tmp.path, 2.0);
    writer.scalar("a", 300, 1.5);
  }
  const std::string bytes = read_file(tmp.path + kFile);
  // Event{wall_time: 2, file_version: "brain.Event:2"} is 9 + 2 + 13 bytes.
  REQUIRE(bytes.size() > 40);
  EXPECT(bytes.substr(0, 8) == std::string("\x18\0\0\0\0\0\0\0", 8));
  EXPECT(bytes.substr(12, 24) == std::string("\x09\0\0\0\0\0\0\0\x40\x1a\x0d"
                                             "brain.Event:2",
                                             24));
  // Event{wall_time: 2, step: 300 = ac 02, summary{value{tag: "a", simple_value: 1.5}}}
  EXPECT(bytes.substr(40 + 12, 9 + 3 + 12) ==
         std::string("\x09\0\0\0\0\0\0\0\x40\x10\xac\x02\x2a\x0a\x0a\x08\x0a\x01"
                     "a\x15\0\0\xc0\x3f",
                     24));
  EXPECT(bytes.size() == 40 + 16 + 24);
}

TEST_CASE("tensorboard: a resumed run leaves the bytes of one that was not stopped") {
  TemporaryFolder tmp("tensorboard-resume");
  {
    TensorBoardWriter writer(tmp.path, kTime);
    write_steps(writer, 1, 20);
  }
  const std::string whole = read_file(tmp.path + kFile);
  for (const char* name : {"specialisation", "max_violation", "gini", "mutual_information_bits", "dead_experts"})
    EXPECT(contains(whole, std::string("layer2/") + name));
  {
    TensorBoardWriter writer(tmp.path, kTime);
    write_steps(writer, 1, 13);
  }
  std::ofstream(tmp.path + kFile, std::ios::app | std::ios::binary)
      << whole.substr(0, 25);  // killed while it wrote
  {
    TensorBoardWriter writer(tmp.path, kTime, 10);
    write_steps(writer, 11, 20);
  }
  EXPECT(read_file(tmp.path + kFile) == whole);
  std::ofstream(tmp.path + kFile, std::ios::binary)
      << "not an event file at all, but something long enough to parse";
  {
    TensorBoardWriter writer(tmp.path, kTime, 10);
    write_steps(writer, 1, 20);
  }
  EXPECT(read_file(tmp.path + kFile) == whole);
}

TEST_CASE("tensorboard: a file begins with the run's hyper-parameters, once") {
  TemporaryFolder tmp("tensorboard-hparams");
  const HyperParameters parameters = hyperparameters(fake_config("softmax-moe", 1));
  EXPECT(parameters.group == "softmax-moe");
  EXPECT(parameters.values.at("seed") == 43);
  EXPECT(parameters.values.contains("lr"));
  for (const auto& [name, value] : parameters.values.items()) EXPECT(value.is_primitive());
  {
    TensorBoardWriter writer(tmp.path, kTime, 0, parameters);
    write_steps(writer, 1, 8);
  }
  const std::string whole = read_file(tmp.path + kFile);
  const size_t at = whole.find("_hparams_/session_start_info");
  REQUIRE(at != std::string::npos);
  EXPECT(at < 100);  // the second record
  EXPECT(whole.find("_hparams_", at + 1) == std::string::npos);
  EXPECT(contains(whole.substr(at, 4096), "softmax-moe"));
  {
    TensorBoardWriter writer(tmp.path, kTime + 5, 4, parameters);
    write_steps(writer, 5, 8);
  }
  EXPECT(read_file(tmp.path + kFile) == whole);
}

// For tests/peer/tensorboard_read.py: GLIA_TENSORBOARD=/tmp/tb build/cpu/run_tests -ns -tc='*TensorBoard to read*'
DOCTEST_TEST_CASE("tensorboard: write files for TensorBoard to read" * doctest::skip()) {
  const char* out = std::getenv("GLIA_TENSORBOARD");
  if (!out) return;
  const std::string folder = out;
  std::filesystem::create_directories(folder);
  const HyperParameters parameters = hyperparameters(fake_config("softmax-moe", 1));
  TensorBoardWriter writer(folder, kTime, 0, parameters);
  write_steps(writer, 1, 20);
  writer.scalar("extra/nan", 3, std::nan(""));
  writer.scalar("extra/large", int64_t(1) << 40, -1e30);
  const std::vector<double> values = {-2, -0.5, 0, 0, 1e-13, 0.1, 0.1, 3, 1e6, 1.0 / 0.0};
  writer.histogram("extra/values", 7, values);
  writer.flush();
  nlohmann::json expected;
  expected["hparams"] = {{"group", parameters.group}, {"values", parameters.values}};
  for (int64_t step = 1; step <= 20; ++step) {
    expected["scalars"]["train/loss"].push_back({kTime + double(step), step, 1.0 / double(step)});
    expected["scalars"]["train/lr"].push_back({kTime + double(step), step, 5e-5});
    if (step % 4 == 0) {
      const EvalPoint p = fake_eval(step);
      expected["scalars"]["validation/accuracy"].push_back({kTime + double(step), step, p.values.get("accuracy")});
      expected["scalars"]["layer2/specialisation"].push_back(
          {kTime + double(step), step, p.layers[1].scalar("specialisation")});
      expected["bars"]["layer1/loads"].push_back({step, p.layers[0].loads()});
    }
  }
  expected["tags"] = {"train/loss", "train/ce",        "train/balance",       "train/energy",
                      "train/lr",   "train/grad_norm", "validation/accuracy", "validation/loss",
                      "extra/nan",  "extra/large"};
  for (const char* layer : {"layer1/", "layer2/"})
    for (const MetricRow* row : metric_rows(Stage::routing))
      if (row->logged > 0 && row->form == Form::scalar) expected["tags"].push_back(std::string(layer) + row->name);
  expected["histogram"] = {{"tag", "extra/values"},
                           {"step", 7},
                           {"num", 9},
                           {"min", -2},
                           {"max", 1e6},
                           {"sum", -2 - 0.5 + 1e-13 + 0.2 + 3 + 1e6}};
  std::ofstream(folder + "/expected.json") << expected.dump(1);
}
