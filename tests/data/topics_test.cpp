// --only-topics: the rows of some topics of any data set, counted anew.
#include "data/datasets/dataset.h"
#include "tests/test.h"

using namespace glia;
using namespace glia::test;

TEST_CASE(
    "only-topics: rows, labels and names are those of the chosen topics, in the order in which they are named") {
  DatasetOptions o;
  o.dataset = "synthetic";
  o.cache = "";
  o.synthetic_rows = 200, o.synthetic_test_rows = 80, o.vocab_size = 400;
  o.validation_fraction = 0;
  const Dataset all = load_dataset(o);
  o.only_topics = all.class_names[3] + ", 1";  // a name and a number
  const Dataset some = load_dataset(o);
  EXPECT(some.class_names == std::vector<std::string>{all.class_names[3], all.class_names[1]});
  EXPECT(some.vocabulary().hash() == all.vocabulary().hash());
  EXPECT(!some.bayes_accuracy);
  int64_t kept = 0;
  for (int64_t row = 0; row < all.test.size(); ++row) {
    const int32_t label = all.test.labels[static_cast<size_t>(row)];
    if (label != 3 && label != 1) continue;
    REQUIRE(kept < some.test.size());
    EXPECT(some.test.labels[static_cast<size_t>(kept)] == (label == 3 ? 0 : 1));
    EXPECT(some.test.length(kept) == all.test.length(row));
    EXPECT(some.test.ids[static_cast<size_t>(some.test.offsets[static_cast<size_t>(kept)]) + 1] ==
           all.test.ids[static_cast<size_t>(all.test.offsets[static_cast<size_t>(row)]) + 1]);
    ++kept;
  }
  EXPECT(kept == some.test.size());
  EXPECT(some.test.near_copies.size() == static_cast<size_t>(kept));
}

TEST_CASE("only-topics: an unknown, a repeated and a lonely topic are errors") {
  DatasetOptions o;
  o.dataset = "synthetic";
  o.cache = "";
  o.synthetic_rows = 40, o.synthetic_test_rows = 20, o.vocab_size = 300;
  const auto message = [&](const std::string& topics) {
    o.only_topics = topics;
    return error_of([&] { load_dataset(o); });
  };
  EXPECT(contains(message("0,4"), "--only-topics: expected some of "));
  EXPECT(contains(message("0,4"), "got '4'"));
  EXPECT(contains(message("1,1"), "is there twice"));
  EXPECT(contains(message("1"), "expected at least two of "));
}
