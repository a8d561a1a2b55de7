// pytorch_model.bin: what torch writes is read, anything else is refused by name.
#include "nn/weights/torch_file.h"

#include <filesystem>

#include "engine/core/file.h"
#include "nn/weights/pickle.h"
#include "tests/nn/torch_files.h"

namespace glia::test {
namespace {

std::vector<double> numbers(const RawTensors& all, const std::string& name) {
  const RawTensor& t = all.tensors.at(name);
  std::vector<double> values(static_cast<size_t>(t.shape.numel()));
  for_each_value(t, name, values.size(), [&](size_t i, double x) { values[i] = x; });
  return values;
}

TEST_CASE(
    "torch file: what torch itself wrote, before and since 1.6: types, a transpose, a parameter with an offset") {
  for (const char* name : {"torch_2.bin", "torch_1_5.bin"}) {
    INFO(name);
    const std::string content = read_file(std::string("tests/fixtures/data/fuzz/torch/") + name);
    CHECK(looks_like_torch(content), "not recognised");
    const RawTensors all = read_torch(content, name);
    EXPECT(all.tensors.size() == 6);
    EXPECT(numbers(all, "a") == std::vector<double>{1, 2, 3, 4});
    EXPECT(numbers(all, "t") == std::vector<double>{1, 3, 2, 4});
    EXPECT(numbers(all, "h") == std::vector<double>{1.5});
    EXPECT(numbers(all, "b") == std::vector<double>{2.5});
    EXPECT(numbers(all, "p") == std::vector<double>{8, 9});
    EXPECT(all.tensors.at("ids").dtype == "I64");
    EXPECT(contains(error_of([&] { numbers(all, "ids"); }), "ids: expected floating point numbers, got I64"));
    for (size_t n = 0; n < content.size(); n += 7) {
      INFO(n);
      EXPECT(error_of([&] { read_torch(content.substr(0, n), "cut"); }).starts_with("cut: "));
    }
  }
}

TEST_CASE("pickle: names and opcodes that no tensor needs are refused by name, and nothing is executed") {
  const auto refused = [](const std::string& value) {
    return error_of([&] { read_pickle(pickled_dict({{"x", value}}), "f"); });
  };
  EXPECT(contains(refused("cos\nsystem\n(" + pickled(std::string("touch x")) + "tR"), "it names os.system"));
  EXPECT(contains(refused("cbuiltins\neval\n"), "it names builtins.eval"));
  EXPECT(contains(refused("ctorch\nload\n"), "it names torch.load"));
  EXPECT(contains(refused("i__main__\nX\n"), "opcode 0x69"));
  EXPECT(contains(refused("R"), "takes a value that is not there"));
  EXPECT(contains(refused(pickled(int64_t{1}) + ")R"), "a call of something that is no name"));
  EXPECT(contains(refused("h\x07"), "recalls value 7"));
  EXPECT(contains(refused(pickled(std::string("x")) + "Q"), "a persistent id that is no storage"));
  EXPECT(contains(error_of([] { read_pickle("\x80\x04N.", "f"); }), "expected pickle's protocol 2, got 4"));
  EXPECT(contains(error_of([] { pickled_tensors(read_pickle("\x80\x02N.", "f"), "f"); }),
                  "expected a dict of tensors"));
  // A list that takes itself in again and again.
  std::string recalled;
  for (int i = 0; i < 2000; ++i) recalled += std::string("h\0", 2);
  std::string bomb("\x80\x02]q\0", 5);
  for (int i = 0; i < 600; ++i) bomb += "(" + recalled + "e";
  EXPECT(contains(error_of([&] { read_pickle(bomb + ".", "f"); }), "more values than a state dict has"));
}

TEST_CASE("torch file: a training program's checkpoint, shared storages, shapes that no storage has") {
  const std::string path = temporary_path("torch").string();
  const auto read = [&](const std::string& pickle, bool compressed = false, const std::string& order = "little") {
    write_zip(path,
              {{"m/data.pkl", pickle},
               {"m/byteorder", order},
               {"m/data/0", bytes_of<float>({1, 2, 3, 4, 5, 6})},
               {"m/data/1", ""}},
              compressed);
    return read_torch(read_file(path), "f");
  };
  const TorchTensor rows{"w", "FloatStorage", "0", 6, 2, {2, 2}, {2, 1}},
      columns{"v", "FloatStorage", "0", 6, 0, {3, 2}, {1, 3}};
  const RawTensors both = read(state_dict({rows, columns}));
  EXPECT(numbers(both, "w") == std::vector<double>{3, 4, 5, 6});
  EXPECT(numbers(both, "v") == std::vector<double>{1, 4, 2, 5, 3, 6});
  // Of no numbers, in a storage of none.
  EXPECT(read(state_dict({rows, {"e", "FloatStorage", "1", 0, 0, {3, 0}, {1, 1}}})).tensors.at("e").shape ==
         Shape{3, 0});
  const std::string inner = state_dict({rows});
  const RawTensors nested =
      read(pickled_dict({{"epoch", pickled(int64_t{3})}, {"state_dict", inner.substr(2, inner.size() - 3)}}));
  EXPECT(numbers(nested, "w").size() == 4);
  // A parameter, and one with attributes, as named_parameters() of transformers 5 has them.
  const std::string marked = "}" + pickled(std::string("_is_hf_initialized")) + "\x88s";
  for (const auto& [function, state] :
       {std::pair<std::string, std::string>{"_rebuild_parameter", ""}, {"_rebuild_parameter_with_state", marked}}) {
    const std::string parameter = "ctorch._utils\n" + function + "\n(" + pickled(rows) + "\x88" +
                                  "ccollections\nOrderedDict\n)R" + state + "tR";
    EXPECT(numbers(read(pickled_dict({{"w", parameter}})), "w") == std::vector<double>{3, 4, 5, 6});
  }
  const auto refused = [&](TorchTensor t) { return error_of([&] { read(state_dict({t})); }); };
  const auto with = [&](int64_t offset, std::vector<int64_t> size, std::vector<int64_t> stride) {
    return refused({"w", "FloatStorage", "0", 6, offset, size, stride});
  };
  const char* none = "'w' has a shape or strides that its storage has no numbers for";
  EXPECT(contains(with(3, {2, 2}, {2, 1}), none));
  EXPECT(contains(with(-1, {1}, {1}), none));
  EXPECT(contains(with(0, {7}, {1}), none));
  EXPECT(contains(with(0, {2000000000, 2}, {0, 1}), none));
  EXPECT(contains(with(0, {2, 2}, {-1, 1}), none));
  EXPECT(with(6, {0}, {1}).empty());
  EXPECT(contains(with(0, {0, 1 << 30, 1 << 30}, {1, 1, 1}), none));
  EXPECT(contains(refused({"w", "FloatStorage", "9", 6, 0, {1}, {1}}), "it has no record data/9"));
  EXPECT(contains(error_of([&] { read(state_dict({rows}), false, "big"); }), "expected little-endian"));
  EXPECT(contains(error_of([&] { read(state_dict({rows}) + std::string(500, 'N'), true); }), "compressed"));
  // A byte of the numbers is altered: the archive's sum tells.
  read(state_dict({rows}));
  std::string content = read_file(path);
  content[content.find(bytes_of<float>({1, 2, 3}))] ^= 1;
  EXPECT(contains(error_of([&] { read_torch(content, "f"); }), "record data/0: CRC error"));
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace glia::test
