// A study's grid: its cells, the choice, and which claims hold in which of them.
#include "experiments/report/grid.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "engine/core/file.h"
#include "tests/records/fake_results.h"
#include "tests/test.h"

namespace fs = std::filesystem;
using namespace glia;
using namespace glia::results;
using namespace glia::test;

namespace {

constexpr const char* kGrid = R"(compare.accuracy = dense
configurations = ahr
grid.lr = 1e-4, 2e-4
grid.epochs = 3, 6
grid.seeds = 1
grid.seeds.dense = 5
grid.seeds.softmax-moe = 5
grid.chosen-seeds = 5
claim.1 = softmax-moe > dense in accuracy
claim.2 = softmax-moe > dense - 0.05 in accuracy
compare.routing = softmax-moe
)";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return text.replace(at, from.size(), to);
}

// One finished run in a cell, whose accuracies are the given one on test and validation.
void write_run(const std::string& out, const Cell& cell, const std::string& config, int seed, double accuracy,
               const std::string& weights = "") {
  RunConfig c = fake_config(config, seed);
  if (!weights.empty()) c.train["init"] = "w", c.train["weights_hash"] = weights;
  c.train["lr"] = std::stod(cell.settings[0].second), c.train["epochs"] = std::stoi(cell.settings[1].second);
  std::vector<LayerUtilisation> utilisation;
  Evaluation e = fake_evaluation(c, utilisation);
  e.values.set("accuracy", accuracy);
  e.validation_accuracy = accuracy;
  const std::string folder = run_folder(cell_folder(out, cell), seed, config);
  begin_run(folder, c, false);
  write_evaluation(folder, e, utilisation, c.data.class_names);
}

// An empty result folder of a grid.
struct Place {
  TemporaryFolder tmp{"grid"};
  Study study;
  std::string out = tmp.path + "/out";
  std::vector<Cell> cells = study.grid.cells();
  explicit Place(const std::string& text = kGrid) : study(parse_study(text, "g.study")) {
    make_folder(out);
    write_study(out, study);
  }
};

const std::string& entry(const Table& t, const std::string& row, size_t column) {
  for (const auto& cells : t.rows)
    if (cells[0] == row) return cells[column];
  FAIL("no row " << row);
  return t.title;
}

}  // namespace

TEST_CASE("grid: cells, seeds and claims are read as they stand") {
  const Study s = parse_study(kGrid, "g.study");
  const std::vector<Cell> cells = s.grid.cells();
  REQUIRE(cells.size() == 4);
  EXPECT(cells[1].name == "lr1e-4-epochs6");
  EXPECT(cells[2].settings == std::vector<std::pair<std::string, std::string>>{{"lr", "2e-4"}, {"epochs", "3"}});
  EXPECT(s.grid.seeds_for("dense") == "5");
  EXPECT(s.grid.seeds_for("astrocyte") == "1");
  EXPECT(s.grid.pick("lr2e-4-epochs3").size() == 1);
  EXPECT(contains(error_of([&] { s.grid.pick("lr3"); }), "--cells: expected all or some of lr1e-4-epochs3, "));
  EXPECT(s.configurations.size() == configurations().size());
  EXPECT(s.claims[1].margin == 0.05);
  EXPECT(s.claims[1].ours == "softmax-moe");
  EXPECT(s.claims[1].theirs == "dense");
  EXPECT(s.claims[1].metric == "accuracy");
  EXPECT(parse_study("compare.accuracy = dense\n[dense]\n", "x").grid.cells().empty());
}

TEST_CASE("grid: mistakes are named with their line") {
  const auto message = [](const std::string& from, const std::string& to) {
    return error_of([&] { parse_study(replaced(kGrid, from, to), "g.study"); });
  };
  EXPECT(contains(message("1e-4, 2e-4", "1e-4, fast"), "g.study:3: --lr: expected a number, got 'fast'"));
  EXPECT(contains(message("grid.lr", "grid.rate"), "g.study:3: unknown flag --rate"));
  EXPECT(contains(message("grid.lr", "grid.out"), "g.study:3: --out says where or how to run"));
  EXPECT(contains(message("grid.seeds = 1", "grid.seeds = few"), "g.study:5: --seeds: expected a number of seeds"));
  EXPECT(contains(message("grid.seeds.dense", "grid.seeds.sparse"), "grid.seeds: expected one of dense, "));
  EXPECT(contains(message("configurations = ahr", "configurations = ours"), "expected another built-in study"));
  EXPECT(contains(message("> dense in", "= dense in"), "expected 'A > B in METRIC'"));
  EXPECT(contains(message("- 0.05", "- -1"), "expected 'A > B in METRIC'"));
  EXPECT(contains(message("> dense in", "> sparse in"),
                  "claim 'softmax-moe > sparse in accuracy': expected one of dense, "));
}

TEST_CASE(
    "grid: the choice waits for every configuration's first seed; a claim holds, is reversed, undecided or not run") {
  TemporaryFolder tmp("grid");
  const std::string out = tmp.path + "/out";
  const Study study = parse_study(kGrid, "g.study");
  const std::vector<Cell> cells = study.grid.cells();
  EXPECT(!is_grid_folder(out));
  make_folder(out);
  write_study(out, study);
  const double gain[] = {0.004, -0.004, 0.0001};  // of softmax-moe; the last cell is not run yet
  for (size_t i = 0; i < 3; ++i)
    for (int seed = 0; seed < 5; ++seed) {
      const double base = 0.90 + 0.01 * static_cast<double>(i) + 0.0003 * seed;
      write_run(out, cells[i], "dense", seed, base);
      write_run(out, cells[i], "softmax-moe", seed, base + gain[i]);
    }
  EXPECT(is_grid_folder(out));
  GridSummary g = summarise_grid(out);
  EXPECT(!g.chosen);
  EXPECT(contains(g.not_chosen_why, "lr1e-4-epochs3 lacks a run of seed 0"));
  const Table claims = claim_table(g);
  const std::string above = "softmax-moe > dense in accuracy", margin = "softmax-moe > dense - 0.05 in accuracy";
  EXPECT(contains(entry(claims, above, 1), "holds +0.0040 (p <0.001)"));
  EXPECT(contains(entry(claims, above, 2), "reversed -0.0040 (p <0.001)"));
  EXPECT(contains(entry(claims, above, 3), "undecided +0.0001"));
  EXPECT(entry(claims, above, 4) == "not run");
  EXPECT(contains(entry(claims, margin, 2), "holds -0.0040"));  // by less than the margin
  EXPECT(contains(grid_markdown(g), "**Chosen**: no recipe"));
  // The pages' tables leave the last cell out, and the configurations of which nothing is run; a line says so.
  for (const Table& t : grid_tables(g)) {
    if (t.header[0] != "configuration") continue;
    EXPECT(t.header.size() == 4);
    EXPECT(std::ranges::none_of(t.rows, [](const auto& row) { return row[0] == "astrocyte"; }));
  }
  const std::string left_out = "cells lr2e-4-epochs6; configurations dense-random-ffn, ";
  EXPECT(contains(grid_markdown(g), "- **Not run**: " + left_out));
  EXPECT(contains(print_grid(g), "not run    " + left_out));

  for (const Cell& cell : cells)
    for (const Configuration& c : study.configurations)
      if (!fs::exists(run_folder(cell_folder(out, cell), 0, c.name)))
        write_run(out, cell, c.name, 0, cell.name == "lr2e-4-epochs3" ? 0.93 : 0.90);
  g = summarise_grid(out);
  REQUIRE(g.chosen);
  EXPECT(g.cells[*g.chosen].cell.name == "lr2e-4-epochs3");
  EXPECT(g.chosen_by == "validation_accuracy");
  EXPECT(contains(grid_markdown(g), "lr 2e-4, epochs 3 (chosen)"));
  EXPECT(contains(print_grid(g), "chosen     lr2e-4-epochs3 by validation_accuracy"));
  const Json json = to_json(g);
  EXPECT(json["chosen"] == "lr2e-4-epochs3");
  EXPECT(json["claims"][0]["cells"][1]["verdict"] == "reversed");
}

TEST_CASE("grid: the effects of the axes on a claim are one Holm family") {
  const Place place;
  const auto& [tmp, study, out, cells] = place;
  for (size_t i = 0; i < 4; ++i)
    for (int seed = 0; seed < 5; ++seed) {
      write_run(out, cells[i], "dense", seed, 0.90 + 0.001 * seed);
      write_run(out, cells[i], "softmax-moe", seed, 0.90 + 0.001 * (seed * 2 % 5) + (i % 2 == 1 ? 0.003 : 0));
    }
  // Of six epochs 0.003 with a standard error of 1e-3 and df 32, p 0.0052; of the rate none.
  for (const auto& row : axis_table(summarise_grid(out)).rows)
    if (row[0] == "softmax-moe > dense in accuracy")
      EXPECT(row[5] == (row[1].starts_with("epochs") ? "0.010" : "1.000"));
}

TEST_CASE("grid: a claim's margin is what it may fall behind by, and Holm's p is over its cells") {
  const Place place;
  const auto& [tmp, study, out, cells] = place;
  const double gain[] = {-0.05, 0.0008, 0.0002, -0.06};
  for (size_t i = 0; i < 4; ++i)
    for (int seed = 0; seed < 5; ++seed) {
      write_run(out, cells[i], "dense", seed, 0.90 + 0.0003 * seed);
      write_run(out, cells[i], "softmax-moe", seed, 0.90 + 0.0003 * seed + gain[i]);
    }
  const GridSummary g = summarise_grid(out);
  const Table claims = claim_table(g);
  const std::string above = "softmax-moe > dense in accuracy", margin = "softmax-moe > dense - 0.05 in accuracy";
  EXPECT(contains(entry(claims, margin, 1), "undecided -0.0500"));
  EXPECT(contains(entry(claims, margin, 4), "reversed -0.0600"));
  EXPECT(contains(entry(claims, above, 2), "undecided +0.0008"));
  // Of the first claim the cells by ascending p: the last, the first, the second, the third.
  const Json json = to_json(g)["claims"][0]["cells"];
  const auto p = [&](size_t i) { return json[i]["welch_p"].get<double>(); };
  const auto holm = [&](size_t i) { return json[i]["welch_p_holm"].get<double>(); };
  EXPECT((p(1) > 0.025 && p(1) < 0.05));  // else the second cell's verdict says nothing
  EXPECT(std::abs(holm(3) / p(3) - 4) < 1e-9);
  EXPECT(std::abs(holm(0) / p(0) - 3) < 1e-9);
  EXPECT(std::abs(holm(1) / p(1) - 2) < 1e-9);
  EXPECT(std::abs(holm(2) / p(2) - 1) < 1e-9);
}

TEST_CASE("grid: of cells that are equally good the first is chosen") {
  const Place place;
  const auto& [tmp, study, out, cells] = place;
  for (size_t i = 0; i < cells.size(); ++i)
    for (const Configuration& c : study.configurations) write_run(out, cells[i], c.name, 0, i == 0 ? 0.90 : 0.91);
  const GridSummary g = summarise_grid(out);
  REQUIRE(g.chosen);
  EXPECT(*g.chosen == 1);
}

TEST_CASE("grid: a run that failed is named above the tables, and its place does not say that nobody began it") {
  const Place place;
  const auto& [tmp, study, out, cells] = place;
  for (size_t i = 0; i < 2; ++i) write_run(out, cells[i], "dense", 0, 0.9);
  const std::string failed = run_folder(cell_folder(out, cells[1]), 0, "softmax-moe");
  RunConfig config = fake_config("softmax-moe", 0);
  config.train["lr"] = 1e-4, config.train["epochs"] = 6;
  begin_run(failed, config, false);
  write_failure(failed, {"the loss is nan", 3});
  const GridSummary g = summarise_grid(out);
  const std::string warning = "lr1e-4-epochs6: Failed: softmax-moe of seed0: the loss is nan";
  EXPECT(contains(print_grid(g), "! " + warning));
  EXPECT(contains(grid_markdown(g), "### Warnings\n\n- "));
  EXPECT(contains(grid_markdown(g), "- " + warning));
  EXPECT(entry(claim_table(g), "softmax-moe > dense in accuracy", 1) == "not run");
  EXPECT(entry(claim_table(g), "softmax-moe > dense in accuracy", 2) == "failed");
  const std::vector<Table> tables = grid_tables(g);
  const auto accuracy = std::ranges::find(tables, "Test accuracy", &Table::title);
  REQUIRE(accuracy != tables.end());
  EXPECT(entry(*accuracy, "softmax-moe", 1) == "not run");
  EXPECT(entry(*accuracy, "softmax-moe", 2) == "failed");
}

TEST_CASE("grid: what an axis of two values does to a claim, over the other axes") {
  const Place place;
  const auto& [tmp, study, out, cells] = place;
  const std::string above = "softmax-moe > dense in accuracy";
  // Six epochs cost dense 0.02 at either rate and softmax-moe 0.005; the rate costs both 0.01.
  const double dense[] = {0.92, 0.90, 0.91, 0.89}, mixture[] = {0.92, 0.915, 0.91, 0.905};
  for (size_t i = 0; i < cells.size(); ++i)
    for (int seed = 0; seed < 5; ++seed) {
      if (i == 3 && seed > 1) continue;
      write_run(out, cells[i], "dense", seed, dense[i] + 0.001 * seed);
      write_run(out, cells[i], "softmax-moe", seed, mixture[i] + 0.001 * (seed * 2 % 5));
    }
  EXPECT(axis_table(summarise_grid(out)).rows.empty());  // the last cell has two seeds
  EXPECT(!contains(grid_markdown(summarise_grid(out)), "What an axis does"));
  for (int seed = 2; seed < 5; ++seed) {
    write_run(out, cells[3], "dense", seed, dense[3] + 0.001 * seed);
    write_run(out, cells[3], "softmax-moe", seed, mixture[3] + 0.001 * (seed * 2 % 5));
  }
  const Table t = axis_table(summarise_grid(out));
  const auto row = [&](const std::string& axis) {
    for (const auto& r : t.rows)
      if (r[0] == above && r[1] == axis) return r;
    return std::vector<std::string>(6);
  };
  // Each mean has a standard error of 7.07e-4; a step weighs four of them by a half, a difference eight: 7.07e-4, 1e-3. The
  // quantiles are t(0.975, 16) = 2.120 and t(0.975, 32) = 2.037.
  const auto epochs = row("epochs 3 → 6"), rate = row("lr 1e-4 → 2e-4");
  EXPECT(epochs[2] == "-0.0050 ±0.0015");
  EXPECT(epochs[3] == "-0.0200 ±0.0015");
  EXPECT(epochs[4] == "+0.0150 ±0.0020");
  EXPECT(epochs[5] == "<0.001");
  EXPECT(rate[2] == "-0.0100 ±0.0015");
  EXPECT(rate[4] == "+0.0000 ±0.0020");
  EXPECT(rate[5] == "1.000");
  EXPECT(contains(grid_markdown(summarise_grid(out)), "### What an axis does to a claim"));
}

TEST_CASE("grid: where the best cell by one seed and others have all chosen seeds, the highest mean is chosen") {
  TemporaryFolder tmp("grid-means");
  const std::string out = tmp.path + "/out";
  const Study study =
      parse_study(replaced(kGrid, "grid.seeds = 1", "grid.choice = each\ngrid.finalists = 2"), "g.study");
  const std::vector<Cell> cells = study.grid.cells();
  const std::vector<int>& seeds = study.grid.chosen_seed_indices;
  REQUIRE(seeds.size() == 5);
  make_folder(out);
  write_study(out, study);
  for (size_t i = 0; i < cells.size(); ++i) {
    write_run(out, cells[i], "dense", 0, i == 1 ? 0.92 : i == 2 ? 0.93 : 0.9 + 0.001 * static_cast<double>(i));
    write_run(out, cells[i], "softmax-moe", 0, 0.92);
  }
  EXPECT(summarise_grid(out).chosen_of == std::map<std::string, size_t>{{"dense", 2}, {"softmax-moe", 0}});
  EXPECT(summarise_grid(out).finalists_of.at("dense") == std::vector<size_t>{2, 1});
  EXPECT(summarise_grid(out).finalists_of.at("softmax-moe") == std::vector<size_t>{0});  // all are one run
  // The second has them all, the best by one seed does not yet.
  for (const int seed : seeds) write_run(out, cells[1], "dense", seed, 0.92);
  EXPECT(summarise_grid(out).chosen_of.at("dense") == 2);
  EXPECT(summarise_grid(out).chosen_by_means == 0);
  for (const int seed : seeds) write_run(out, cells[2], "dense", seed, seed == 0 ? 0.93 : 0.91);
  const GridSummary g = summarise_grid(out);
  EXPECT(g.chosen_of.at("dense") == 1);
  EXPECT(g.chosen_by_means == 1);
  const std::vector<Table> tables = grid_tables(g);
  EXPECT(contains(std::ranges::find(tables, "Chosen point", &Table::title)->note, "so it was with 1 of 2."));
}

TEST_CASE(
    "grid: where each configuration chooses for itself, its runs lie in one folder and stand beside the first cell's") {
  TemporaryFolder tmp("grid-each");
  const std::string out = tmp.path + "/out";
  const Study study = parse_study(replaced(kGrid, "grid.seeds = 1", "grid.choice = each"), "g.study");
  EXPECT(study.grid.each);
  EXPECT(contains(error_of([] { parse_study(replaced(kGrid, "grid.seeds = 1", "grid.choice = all"), "g.study"); }),
                  "expected one or each, got"));
  const std::vector<Cell> cells = study.grid.cells();
  make_folder(out);
  write_study(out, study);
  for (size_t i = 0; i < cells.size(); ++i) {
    write_run(out, cells[i], "dense", 0, 0.90 + 0.01 * static_cast<double>(i % 3));  // the third is the best
    if (i > 0) write_run(out, cells[i], "astrocyte", 0, 0.9);
    write_run(out, cells[i], "softmax-moe", 0, 0.92);  // all alike: the first
  }
  for (int seed = 0; seed < 3; ++seed) {
    Cell own = cells[2];
    own.name = "chosen";
    write_run(out, own, "dense", seed, 0.93 + 0.001 * seed);
  }
  const GridSummary g = summarise_grid(out);
  EXPECT(!g.chosen);
  EXPECT(g.chosen_of == std::map<std::string, size_t>{{"dense", 2}, {"softmax-moe", 0}});
  EXPECT(contains(g.not_chosen_why, "lr1e-4-epochs3 lacks"));
  const std::vector<Table> tables = grid_tables(g);
  const auto chosen = std::ranges::find(tables, "Chosen point", &Table::title);
  REQUIRE(chosen != tables.end());
  REQUIRE(chosen->rows.size() == 2);
  EXPECT(entry(*chosen, "dense", 1) == "lr 2e-4, epochs 3");
  EXPECT(entry(*chosen, "dense", 2) == "0.9000");
  EXPECT(entry(*chosen, "dense", 3) == "0.9310 ±0.0025");
  EXPECT(entry(*chosen, "dense", 4) == "0.9000 (n = 1)");
  EXPECT(contains(entry(*chosen, "dense", 5), "0.9310 ±"));
  EXPECT(entry(*chosen, "softmax-moe", 5) == "not run");
  EXPECT(contains(grid_markdown(g), "## Each at its chosen recipe"));
  EXPECT(to_json(g)["chosen_of"]["dense"] == "lr2e-4-epochs3");
  // What does not choose yet keeps no other from it.
  const auto choice = std::ranges::find(tables, "The choice", &Table::title);
  REQUIRE(choice != tables.end());
  EXPECT(!contains(choice->note, "not yet"));
  // Two configurations are too few to say that the grid ends too early.
  EXPECT(!contains(chosen->note, "was not tried"));
  GridSummary many = g;
  for (const char* name : {"a", "b", "c", "d"}) many.chosen_of[name] = 2;
  const std::vector<Table> more = grid_tables(many);
  const auto again = std::ranges::find(more, "Chosen point", &Table::title);
  REQUIRE(again != more.end());
  EXPECT(
      contains(again->note, "5 of 6 chose lr 2e-4, the largest of the grid: what lies beyond it was not tried."));
  // What the chosen runs say stands above their tables.
  Cell own = cells[2];
  own.name = "chosen";
  for (int seed = 0; seed < 3; ++seed) write_run(out, own, "softmax-moe", seed, 0.91 + 0.001 * seed);
  EXPECT(contains(grid_markdown(summarise_grid(out)), "In test accuracy these differ from dense beyond chance"));
  // … and what they were asked behind them.
  write_file_atomic(run_folder(chosen_folder(out), 0, "softmax-moe") + "/analysis.json",
                    R"({"tokens": 100, "topic_probe": {"accuracy": 0.8125, "chance": 0.25},
  "states": [{"specialisation_random_router": [0.5], "expert_similarity_mean": 0.25}],
  "knock_out": {"rows": 200, "accuracy": 0.9, "without_first": 0.5, "first_alone": 0.88, "layers": [{"lost": [0.01]}]}})");
  const std::string page = grid_markdown(summarise_grid(out));
  EXPECT(contains(page, "| softmax-moe | 1 | 0.812 | 0.250 |"));
  EXPECT(contains(page, "### Knock-out"));
}

TEST_CASE("grid: cells that were made of other things than the grid's flags are no grid") {
  const Place place;
  const auto& [tmp, study, out, cells] = place;
  write_run(out, cells[0], "dense", 0, 0.9, "1111");
  write_run(out, cells[1], "softmax-moe", 0, 0.9, "1111");
  summarise_grid(out);
  write_run(out, cells[2], "dense", 0, 0.9, "2222");
  EXPECT(contains(error_of([&] { summarise_grid(out); }),
                  "runs of one summary must have the same train.weights_hash, got \"1111\" and \"2222\""));
  // Before it is run too.
  Run planned;
  planned.folder = "planned", planned.config = fake_config("dense", 0);
  require_one_grid(tmp.path + "/none", study, {planned});
  planned.config.protocol = "paper";
  EXPECT(contains(error_of([&] { require_one_grid(out, study, {planned}); }), "the same protocol"));
}
