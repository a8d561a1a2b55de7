// What runs are refused before any of them begins.
#include "experiments/pretraining/options.h"
#include "experiments/pretraining/run.h"
#include "experiments/pretraining/text_feed.h"
#include "experiments/training/feed/data_source.h"
#include "experiments/training/presets.h"
#include "experiments/training/run.h"
#include "tests/nn/helpers.h"
#include "tests/training/flag_words.h"

namespace glia::test {
namespace {

Options options_of(const std::string& more) {
  std::vector<std::string> words = words_of(
      "train " + std::string(kTinyFlags) +
      "--progress off --synthetic-rows 160 --synthetic-test-rows 48 --vocab-size 400 --batch 8 --out none " + more);
  return resolve(
      parse_command_line(static_cast<int>(words.size()), pointers_to(words).data(), Flag::kTrainOnly, ""));
}

std::string refusal(const std::string& flags) {
  return error_of([&] { plan_runs(options_of(flags), {"softmax-moe"}); });
}

TEST_CASE("plan: a router that tells fewer labels apart than the data has is refused by its option") {
  const Dataset data = load_data(options_of(""));
  for (const RouterRow& row : router_registry()) {
    if (!row.labels) continue;
    INFO(std::string(row.name));
    const auto with = [&](int64_t labels) {
      const Options o = options_of(fmt::format("--router {} --{} {}", row.name, row.labels->name, labels));
      return error_of([&] { require_labels_told(plan_runs(o, {"softmax-moe"}).at(0), data); });
    };
    EXPECT(with(data.classes()).empty());
    EXPECT(
        contains(with(data.classes() - 1), fmt::format("--{}: expected the {} labels of the data at least, got {}",
                                                       row.labels->name, data.classes(), data.classes() - 1)));
  }
}

TEST_CASE("plan: a mixture and its router that cannot go together are refused before anything is read") {
  const std::string stateful = router_where([](const RouterRow& row) { return row.traits.stateful; });
  EXPECT(contains(refusal("--mixture soft --router " + stateful), "learns from its scores, keeps no state"));
  const std::string switched = router_with_option("context-balance");  // keeps state where it is told to
  EXPECT(contains(refusal("--mixture merged --context-balance on --router " + switched), "with load_bias"));
  EXPECT(refusal("--mixture merged --router " + switched).empty());
  EXPECT(contains(refusal("--slots 2"), "--slots: expected --mixture soft"));
  EXPECT(refusal("--mixture soft --slots 2").empty());
}

TEST_CASE(
    "plan: a mixture that weighs by scores alone refuses routers that say more, and names those that do not") {
  int refused = 0;
  for (const MixtureRow& mixture : mixture_registry())
    for (const RouterRow& router : router_registry()) {
      INFO(std::string(mixture.name) + " " + router.name);
      const bool routed = std::string(mixture.name) == "routed";
      const RouterTraits& t = router.traits;
      const std::string flags = fmt::format("--mixture {} --router {} --top-k 2", mixture.name, router.name),
                        error = refusal(flags + (t.reads_future || t.needs_labels ? " --prompt title" : ""));
      if (routed || (t.weighable && !t.stateful && !t.untrained && !t.reads_experts)) {
        EXPECT(error == "");
        continue;
      }
      ++refused;
      EXPECT(contains(error,
                      fmt::format("--mixture {}: expected a router that learns from its scores", mixture.name)));
      EXPECT(contains(error, std::string(" got ") + router.name));
      EXPECT(contains(error, plain_router() + ", "));
    }
  EXPECT(refused > 20);
  // A model that was trained before is read.
  ParameterSet set;
  BertConfig shape;
  shape.hidden = 8, shape.ffn = 16;
  MoeConfig old;
  old.router = router_where([](const RouterRow& row) { return row.name == std::string("top-p"); });
  old.options.set("mixture", std::string("soft"));
  EXPECT(make_mixture(set, "layer", old, shape, 0) != nullptr);
}

TEST_CASE("plan: options that change nothing beside the others are refused where no run has a use for them") {
  EXPECT(contains(refusal("--orthogonal-alpha 0.5"),
                  "--orthogonal-alpha: expected --update-rule orthogonal with it, got none"));
  EXPECT(refusal("--orthogonal-alpha 0.5 --update-rule orthogonal") == "");
  const std::string switched = " --router " + router_with_option("context-balance");
  EXPECT(contains(refusal("--bias-rate 0.5" + switched), "--bias-rate: expected --context-balance on with it"));
  EXPECT(refusal("--bias-rate 0.5 --context-balance on" + switched) == "");
  int of_gates = 0;
  for (const RouterRow& row : router_registry())
    for (const OptionRow& option : row.of_gates) {
      const std::string flags =
          fmt::format("--router {} --{} {}", row.name, option.name, option_text(option.standard));
      EXPECT(refusal(flags) == "");
      EXPECT(contains(refusal(flags + " --mixture soft"),
                      fmt::format("--{}: expected --mixture routed", option.name)));
      ++of_gates;
    }
  EXPECT(of_gates > 0);
  // Of several configurations one is enough for what is typed; what one says itself is its own.
  const std::string text = "compare.accuracy = a\ncompare.routing = b\n[a]\n[b]\nrouter = " + plain_router() +
                           "\n[c]\nrouter = " + plain_router() + "\nupdate-rule = orthogonal\n";
  const Study study = parse_study(text, "x.study");
  EXPECT(error_of([&] { plan_runs(options_of("--orthogonal-alpha 0.5"), study, {"a", "b", "c"}); }) == "");
  EXPECT(contains(error_of([&] {
                    plan_runs(options_of("--orthogonal-alpha 0.5"), study, {"a", "b"});
                  }),
                  "--orthogonal-alpha: expected --update-rule orthogonal"));
}

TEST_CASE("plan: a loss that gives nothing a gradient is named, with its weight") {
  int constant = 0;
  for (const RouterRow& row : router_registry()) {
    INFO(std::string(row.name));
    MoeConfig moe;
    moe.router = row.name;
    const size_t usual = losses_without_gradient(moe).size();
    moe.balance = 5;
    moe.options.set("z-loss", 0.5);
    const std::vector<std::string> idle = losses_without_gradient(moe);
    const bool balanced = std::ranges::find(idle, "--balance 5") != idle.end();
    EXPECT(usual == 0);
    EXPECT(balanced == row.traits.constant);
    EXPECT((std::ranges::find(idle, "--z-loss 0.5") != idle.end()) ==
           (row.traits.constant || row.traits.normalised));
    if (row.traits.constant) {  // which is the case: no parameter, and scores that no layer's rows reach
      ++constant;
      ParameterSet set;
      make_router(row.name, set, "r", {8, 4, 2});
      EXPECT(set.all().empty());
    }
  }
  EXPECT(constant > 0);
}

TEST_CASE("plan: what a study's file has wrong for a router is told with its line, configuration and router") {
  const std::string router = plain_router(),
                    text =
                        "title = x\ncompare.accuracy = a\ncompare.routing = mine\n[a]\n[mine]\nrouter = " + router +
                        "\n";
  const auto message = [&](const std::string& file, const std::string& flags = "") {
    return error_of([&] { plan_runs(options_of(flags), parse_study(file, "x.study"), {"a", "mine"}); });
  };
  EXPECT(message(text) == "");
  EXPECT(message(text + "top-p = 0.5\n")
             .starts_with("x.study:7: [mine]: --top-p: expected an option of its router (" + router + " has --"));
  EXPECT(message(text + "mixture = soft\n\nscore-function = relu\n")
             .starts_with("x.study:9: [mine]: --score-function: "));
  EXPECT(message(text + "top-k = 9\n").starts_with("x.study:7: [mine]: --top-k: expected at most --experts"));
  EXPECT(message(text + "top-k = 1\n").starts_with("x.study:6: [mine]: router " + router + ": with top_k 1"));
  EXPECT(message(text + "slots = 2\n").starts_with("x.study:7: [mine]: --slots: expected --mixture soft"));
  EXPECT(message(text, "--slots 2").starts_with("--slots: expected --mixture soft"));  // typed, not written
  EXPECT(message(text, "--top-p 0.5").starts_with("--top-p: expected an option of a router that is run"));
}

TEST_CASE("plan: layers of weights that nobody names are refused") {
  EXPECT(contains(refusal("--init-layers 1"),
                  "--init-layers 1: expected weights to take them from (--init), got none"));
  const Study study = parse_study("title = x\ncompare.accuracy = a\n\n[a]\n[b]\ninit = run:a\n", "x.study");
  EXPECT(error_of([&] { plan_runs(options_of("--init-layers 1"), study, {"a", "b"}); }).empty());  // b has some
  EXPECT(contains(error_of([&] { plan_runs(options_of("--init-layers 1"), study, {"a"}); }), "got none"));
}

TEST_CASE("plan: the optimiser's numbers are those of the flags, a warm-up below 1 a share of the steps") {
  const AdamWOptions a =
      optimiser_options(options_of("--lr 0.25 --weight-decay 0.125 --clip 0.5 --warmup 0.2"), 40);
  EXPECT(a.learning_rate == 0.25);
  EXPECT(a.weight_decay == 0.125);
  EXPECT(a.clip == 0.5);
  EXPECT(a.warmup_steps == 8);
  EXPECT(a.warmup_from == 0);
  EXPECT(a.total_steps == 40);
  EXPECT((a.beta1 == 0.9 && a.beta2 == 0.999 && a.eps == 1e-8));
  EXPECT(!a.bfloat16_moments);
  EXPECT(optimiser_options(options_of("--warmup 12"), 40).warmup_steps == 12);
  EXPECT(optimiser_options(options_of("--warmup 1"), 40).warmup_steps == 1);
  EXPECT(optimiser_options(options_of("--adam-state bfloat16"), 40).bfloat16_moments);
}

TEST_CASE("plan: an epoch has as many steps as whole batches, and --max-steps cuts") {
  const Dataset all = load_data(options_of(""));
  Dataset data;
  for (int64_t row = 0; row < 30; ++row) data.train.append(all.train, row);
  EXPECT(total_steps(options_of("--epochs 1"), data) == 3);
  EXPECT(total_steps(options_of("--epochs 5"), data) == 15);  // not what all epochs' rows would fill
  EXPECT(total_steps(options_of("--epochs 5 --max-steps 4"), data) == 4);
  EXPECT(total_steps(options_of("--epochs 1 --max-steps 4"), data) == 3);
}

TEST_CASE("plan: another seed orders the rows and masks the words in another way") {
  const Options o = options_of("--task masked_lm");
  const Dataset data = load_data(o);
  const RunModel run = run_model(o, configuration("dense"));
  for (const uint64_t seed : {42, 43}) {
    const TrainingPlan plan = training_plan(o, data, run, seed);
    EXPECT(plan.feed.masking.rate == o.mask_rate);
    EXPECT(plan.feed.masking.seed == seed);
  }
  const std::vector<BatchPlan> one = training_plans(o, data, 42), other = training_plans(o, data, 43);
  EXPECT(!std::ranges::equal(one[0].rows(0), other[0].rows(0)));
}

TEST_CASE("plan: pretraining's optimiser has the numbers of its flags, and a one-cycle rate begins at a quarter") {
  const auto planned = [](const std::string& more) {
    const std::vector<std::string> words = words_of(
        "pretrain " + std::string(kTinyFlags) +
        "--layers 2 --progress off --synthetic-rows 300 --synthetic-test-rows 30 --vocab-size 300 --tokens 256 "
        "--max-length 32 --steps 40 " +
        more);
    const PretrainOptions o = parse_pretrain(static_cast<int>(words.size()), pointers_to(words).data()).options;
    return pretraining_plan(o, load_corpus(corpus_options(o)), run_model(o, configuration("dense")), 40).optimiser;
  };
  const AdamWOptions a = planned(
      "--lr 0.25 --weight-decay 0.125 --clip 0.5 --beta1 0.75 --beta2 0.875 --eps 0.0625 --warmup 0.2 --schedule linear");
  EXPECT(a.learning_rate == 0.25);
  EXPECT(a.weight_decay == 0.125);
  EXPECT(a.clip == 0.5);
  EXPECT((a.beta1 == 0.75 && a.beta2 == 0.875 && a.eps == 0.0625));
  EXPECT(a.warmup_steps == 8);
  EXPECT(a.warmup_from == 0);
  EXPECT(a.total_steps == 40);
  EXPECT(planned("--schedule one-cycle").warmup_from == 0.25);
  EXPECT(contains(error_of([&] { planned("--init-layers 1"); }), "--init-layers 1: expected weights"));
  EXPECT(planned("--schedule one-cycle").warmup_steps == 20);
  EXPECT(planned("").warmup_steps == 2);
}

}  // namespace
}  // namespace glia::test
