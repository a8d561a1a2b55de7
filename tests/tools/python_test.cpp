// tools/glia.py on a result folder: with whatever of numpy and pandas is installed.
#include <algorithm>

#include "engine/core/file.h"
#include "experiments/records/results.h"
#include "nn/weights/checkpoint.h"
#include "tests/command.h"
#include "tests/records/saved_run.h"

using namespace glia;
using namespace glia::test;

namespace {

CommandResult python(const std::string& code) {
  return run_command("PYTHONPATH=tools python3 -c '" + code + "' 2>&1");
}

int64_t lines(const std::string& text) { return std::count(text.begin(), text.end(), '\n'); }

}  // namespace

TEST_CASE("python: a row a run as CSV, weights of the right shape, and errors of one line") {
  if (run_command("python3 --version 2>&1").status != 0) SKIP("no python3 here");
  TemporaryFolder tmp("python");
  const std::string folder = write_saved_run(tmp.path, plain_router());
  const CommandResult rows = run_command("python3 tools/glia.py " + tmp.path + " 2>&1");
  EXPECT(rows.status == 0);
  EXPECT(lines(rows.out) == 2);
  EXPECT(rows.out.starts_with("folder,config,seed,router,"));
  EXPECT(run_command("python3 tools/glia.py " + tmp.path + " 2>&1 | head -c 3").out == "fol");

  const std::string file = folder + "/model.safetensors";
  Context context(Device::cpu());
  const auto model = load_saved_model(context, results::read_run(folder), DType::kFloat32);
  const Tensor& words = model->parameters().get("embeddings.word.weight").var.value();
  const CommandResult weights =
      python("import glia; w = glia.weights(\"" + file +
             "\")[\"embeddings.word.weight\"]; print(len(w), len(w[0]), \"%.9g\" % w[1][2])");
  EXPECT(weights.out == fmt::format("{} {} {:.9g}\n", words.size(0), words.size(1),
                                    words.to_vector<float>().at(static_cast<size_t>(words.size(1)) + 2)));

  const std::string config = folder + "/config.json", good = read_file(config);
  for (const auto& [content, message] :
       {std::pair{std::string("{\"model_type\": \"bert\"}"), "expected a run's config.json"},
        {good.substr(0, 40), "config.json: expected JSON"},
        {std::string("[]"), "expected a JSON object, got list"}}) {
    write_file_atomic(config, content);
    const CommandResult result = run_command("python3 tools/glia.py " + tmp.path + " 2>&1");
    EXPECT(WEXITSTATUS(result.status) == 1);
    EXPECT(lines(result.out) == 1);
    EXPECT(contains(result.out, message));
  }
  write_file_atomic(file, read_file(file).substr(0, 5000));
  EXPECT(contains(python("import glia; glia.weights(\"" + file + "\")").out, "ValueError: " + file));
}
