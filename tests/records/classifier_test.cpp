// Many texts at once: the same answers as one by one, in order, whatever the router.
#include "experiments/records/classifier.h"

#include "tests/records/saved_run.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::test;

TEST_CASE("classify: every router's answers are those of the traced model, in the order of the texts") {
  TemporaryFolder tmp("classifier");
  const std::vector<std::string> texts{
      "stocks fell",  "",     "team wins on monday", "stocks stocks stocks stocks stocks",
      "no such word", "\xFF", "[CLS] team"};
  std::vector<std::string> routers{"none"};
  for (const RouterRow& row : router_registry()) routers.emplace_back(row.name);
  for (const std::string& router : routers) {
    INFO(router);
    const results::Run run = results::read_run(write_saved_run(tmp.path, router));
    Context context(Device::cpu());
    TextClassifier classifier(context, run, "", DType::kFloat32, 3);
    EXPECT(classifier.labels() == run.config.data.class_names);
    const std::vector<Prediction> all = classifier.classify(texts, true);
    REQUIRE(all.size() == texts.size());
    const auto model = load_saved_model(context, run, DType::kFloat32);
    const WordPiece tokenizer = saved_tokenizer(run, "");
    for (size_t i = 0; i < texts.size(); ++i) {
      INFO(texts[i]);
      const results::RoutingTrace trace = trace_text(*model, run, tokenizer, texts[i]);
      REQUIRE(all[i].probabilities.size() == trace.probabilities.size());
      for (size_t c = 0; c < trace.probabilities.size(); ++c) {
        EXPECT(all[i].probabilities[c] == doctest::Approx(trace.probabilities[c]).epsilon(1e-5));
        EXPECT(all[i].probabilities[c] <= all[i].probabilities[static_cast<size_t>(all[i].label)]);
      }
      EXPECT(all[i].truncated == trace.truncated);
      REQUIRE(all[i].routing.size() == trace.layers.size());
      for (size_t l = 0; l < trace.layers.size(); ++l) {
        double sum = 0;
        for (const double share : all[i].routing[l].share) sum += share;
        EXPECT(sum == doctest::Approx(1));
        REQUIRE(all[i].routing[l].cls.size() == trace.layers[l].experts[0].size());
        EXPECT(all[i].routing[l].cls[0].first == trace.layers[l].experts[0][0]);
      }
    }
    EXPECT(classifier.classify({}).empty());
  }
}
