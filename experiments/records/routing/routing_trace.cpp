#include "experiments/records/routing/routing_trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "engine/core/check.h"

namespace glia::results {
namespace {

std::vector<int> sorted(std::vector<int> list) {
  std::sort(list.begin(), list.end());
  return list;
}

double row_mean(const Matrix& m, int row) {
  double sum = 0;
  for (int e = 0; e < m.cols; ++e) sum += m(row, e);
  return sum / m.cols;
}

size_t width(const std::string& text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::string left(const std::string& text, size_t to) {
  return text + std::string(to > width(text) ? to - width(text) : 0, ' ');
}

// 256-colour codes that differ in hue and are readable on dark and light; repeats after twelve experts, and the
// number of the expert is always there too.
std::string painted(const std::string& text, int expert, bool color) {
  static constexpr int codes[] = {32, 208, 34, 197, 135, 37, 172, 69, 168, 106, 99, 130};
  return color ? fmt::format("\x1b[1;38;5;{}m{}\x1b[0m", codes[expert % 12], text) : text;
}

std::string names(const std::vector<int>& experts, bool color) {
  std::string text;
  for (int e : experts)
    text += fmt::format("{}{}", text.empty() ? "" : " ", painted(fmt::format("e{}", e), e, color));
  return text;
}

const char* sign_of(ContextKind kind) { return kind == ContextKind::added ? "+" : "×"; }

// What stands in brackets behind a gate.
std::string bracket_note(const LayerTrace& layer) {
  std::string text;
  if (layer.kind != ContextKind::none)
    text = fmt::format(": in brackets the token's logit {} the context's {}", sign_of(layer.kind),
                       layer.kind == ContextKind::added ? "bias" : "factor");
  else if (layer.logits.rows > 0) text = ": in brackets the token's logit";
  else if (layer.scores.rows > 0) text = ": in brackets the router's score";
  if (!layer.comparison.empty()) text += fmt::format("; compared is {}, behind the colon", layer.comparison);
  return text;
}

std::string in_brackets(const LayerTrace& layer, int s, int e) {
  std::string text;
  if (layer.kind != ContextKind::none)
    text =
        fmt::format("{:+.2f} {} {:.2f}", layer.token_logits(s, e), sign_of(layer.kind), layer.context[size_t(e)]);
  else if (layer.logits.rows > 0) text = fmt::format("{:+.2f}", layer.logits(s, e));
  else if (layer.scores.rows > 0) text = fmt::format("{:+.2f}", layer.scores(s, e));
  if (layer.compared.rows > 0) text += fmt::format(": {:.2f}", layer.compared(s, e));
  return text.empty() ? text : fmt::format(" ({})", text);
}

std::string layer_text(const RoutingTrace& trace, size_t number, bool color) {
  const LayerTrace& layer = trace.layers[number];
  std::string text = fmt::format("\nlayer {}{}\n", number + 1, bracket_note(layer));
  for (const auto& [name, label, first, values] : layer.of_sequence) {
    text += fmt::format("  {} ", name);
    for (int i = 0; i < values.cols; ++i) {
      const std::string column = fmt::format("{}{}", label, first + i);
      text += fmt::format(" {} {:.3f}", label == "e" ? painted(column, i, color) : column, values(0, i));
    }
    text += "\n";
  }
  if (!layer.allowed.empty())
    text += fmt::format("  {}, of which its tokens choose  {}\n", layer.allowed_name, names(layer.allowed, color));
  if (!layer.context.empty()) {
    text += "  context ";
    for (size_t e = 0; e < layer.context.size(); ++e)
      text += fmt::format(" {} {:.2f}", painted(fmt::format("e{}", e), int(e), color), layer.context[e]);
    text += "\n";
  }
  for (const auto& [name, values] : layer.kept) {
    text += fmt::format("  {} ", name);
    for (size_t e = 0; e < values.size(); ++e)
      text += fmt::format(" {} {:+.3f}", painted(fmt::format("e{}", e), int(e), color), values[e]);
    text += "\n";
  }
  size_t token_width = 5;
  for (const auto& token : trace.tokens) token_width = std::max(token_width, width(token));
  for (size_t s = 0; s < trace.tokens.size(); ++s) {
    const auto& experts = layer.experts[s];
    text += "  ";
    text +=
        painted(left(trace.tokens[s], token_width), experts.empty() ? 0 : experts[0], color && !experts.empty());
    for (size_t k = 0; k < experts.size(); ++k) {
      const int e = experts[k];
      text += fmt::format("  {} {:.2f}{}", painted(fmt::format("e{:<2}", e), e, color), layer.gates[s][k],
                          in_brackets(layer, int(s), e));
    }
    if (experts.empty()) text += "  no expert";
    if (!layer.beside.empty())
      for (const auto& [name, gate] : layer.beside[s])
        text += gate > 0 ? fmt::format("  {} {:.2f}", name, gate) : "  " + name;
    for (const auto& [name, label, first, values] : layer.of_tokens) {
      const auto row = values.values.begin() + long(s) * values.cols;
      const auto largest = std::max_element(row, row + values.cols);
      text += fmt::format("  {} {}{} ({:.2f})", name, label, first + (largest - row), *largest);
    }
    if (layer.kind != ContextKind::none) {
      const std::vector<int> alone = choice_without_context(layer, int(s));
      if (alone != experts) text += fmt::format("  without context: {}", names(alone, color));
    }
    text += "\n";
  }
  if (layer.kind != ContextKind::none) {
    const ContextEffect effect = context_effect(layer);
    text += fmt::format(
        "  the context changed the experts of {} of {} tokens, the first expert of {}, {} [CLS]'s\n",
        effect.changed_set, effect.tokens, effect.changed_top, effect.cls_changed ? "among them" : "but not");
  }
  if (number + 1 == trace.layers.size()) text += "  (the last layer: only [CLS] can change the prediction)\n";
  return text;
}

}  // namespace

void check_trace(const RoutingTrace& t) {
  CHECK(!t.tokens.empty(), "routing trace: no tokens");
  CHECK(t.topics.size() == t.probabilities.size(), "routing trace: {} topics, {} probabilities", t.topics.size(),
        t.probabilities.size());
  for (size_t l = 0; l < t.layers.size(); ++l) {
    const LayerTrace& layer = t.layers[l];
    const size_t tokens = t.tokens.size();
    const bool none = layer.token_logits.rows == 0 && layer.logits.rows == 0 && layer.kind == ContextKind::none;
    for (const Matrix* m : {&layer.token_logits, &layer.logits})
      CHECK(none || (m->rows == int(tokens) && m->cols == layer.n_experts),
            "routing trace: layer {}: logits [{}, {}] for {} tokens and {} experts", l + 1, m->rows, m->cols,
            tokens, layer.n_experts);
    CHECK(layer.experts.size() == tokens && layer.gates.size() == tokens,
          "routing trace: layer {}: choices of {} and gates of {} for {} tokens", l + 1, layer.experts.size(),
          layer.gates.size(), tokens);
    for (size_t s = 0; s < tokens; ++s) {
      CHECK(layer.experts[s].size() == layer.gates[s].size(),
            "routing trace: layer {}, token {}: {} experts, {} gates", l + 1, s, layer.experts[s].size(),
            layer.gates[s].size());
      for (int e : layer.experts[s])
        CHECK(e >= 0 && e < layer.n_experts, "routing trace: layer {}, token {}: expert {} of {}", l + 1, s, e,
              layer.n_experts);
    }
    CHECK(layer.scores.rows == 0 || layer.scores.rows == int(tokens),
          "routing trace: layer {}: scores of {} tokens for {}", l + 1, layer.scores.rows, tokens);
    CHECK(layer.beside.empty() || layer.beside.size() == tokens,
          "routing trace: layer {}: columns beside the experts of {} tokens for {}", l + 1, layer.beside.size(),
          tokens);
    for (const auto& [grounds, rows] : {std::pair{&layer.of_sequence, size_t(1)}, {&layer.of_tokens, tokens}})
      for (const LayerTrace::Ground& ground : *grounds)
        CHECK(ground.values.rows == int(rows) && ground.values.cols > 0,
              "routing trace: layer {}: wants {} rows of {}, got [{}, {}]", l + 1, rows, ground.name,
              ground.values.rows, ground.values.cols);
    for (const Matrix* m : {&layer.compared, &layer.compared_alone})
      CHECK(m->rows == 0 || (m->rows == int(tokens) && m->cols == layer.n_experts),
            "routing trace: layer {}: compared [{}, {}] for {} tokens and {} experts", l + 1, m->rows, m->cols,
            tokens, layer.n_experts);
    const size_t context = layer.kind == ContextKind::none ? 0 : size_t(layer.n_experts);
    CHECK(layer.context.size() == context, "routing trace: layer {}: wants {} context values, got {}", l + 1,
          context, layer.context.size());
  }
}

std::vector<int> choice_without_context(const LayerTrace& layer, int token) {
  const Matrix& values = layer.compared_alone.rows > 0 ? layer.compared_alone : layer.token_logits;
  std::vector<int> order = layer.allowed;
  if (order.empty()) {
    order.resize(size_t(values.cols));
    std::iota(order.begin(), order.end(), 0);
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values(token, a) > values(token, b); });
  order.resize(layer.experts[size_t(token)].size());
  return order;
}

ContextEffect context_effect(const LayerTrace& layer) {
  ContextEffect effect;
  effect.tokens = int(layer.experts.size());
  for (int s = 0; s < effect.tokens; ++s) {
    const auto& chosen = layer.experts[size_t(s)];
    const auto alone = choice_without_context(layer, s);
    if (chosen.empty()) continue;
    const bool other_set = sorted(alone) != sorted(chosen);
    effect.changed_set += other_set;
    effect.changed_top += alone[0] != chosen[0];
    if (s == 0) effect.cls_changed = other_set;
  }
  return effect;
}

Decider decided_by(const LayerTrace& layer, int token, int expert) {
  CHECK(layer.kind == ContextKind::added, "decided_by: wants a context that is added to the logits");
  const double mean =
      std::accumulate(layer.context.begin(), layer.context.end(), 0.0) / double(layer.context.size());
  const double own = layer.token_logits(token, expert) - row_mean(layer.token_logits, token);
  return own >= layer.context[size_t(expert)] - mean ? Decider::token : Decider::context;
}

std::string as_text(const RoutingTrace& t, bool color) {
  check_trace(t);
  std::string text =
      fmt::format("{}{}\n", t.config, t.truncated ? fmt::format(" (cut to {} tokens)", t.tokens.size()) : "");
  std::vector<size_t> order(t.topics.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return t.probabilities[a] > t.probabilities[b]; });
  size_t topic_width = 0;
  for (const auto& topic : t.topics) topic_width = std::max(topic_width, width(topic));
  for (size_t i : order) {
    std::string bar;
    for (int k = 0; k < int(t.probabilities[i] * 30 + 0.5); ++k) bar += "█";
    text += fmt::format("  {}  {:6.2f} %  {}\n", left(t.topics[i], topic_width), 100 * t.probabilities[i], bar);
  }
  if (t.layers.empty()) text += "\nno experts, no routing\n";
  for (size_t l = 0; l < t.layers.size(); ++l) text += layer_text(t, l, color);
  // Over all layers: how often the context mattered, and who decided the chosen experts.
  int by_token = 0, by_context = 0, changed = 0, tokens = 0;
  bool any = false;
  for (const LayerTrace& layer : t.layers) {
    if (layer.kind == ContextKind::none) continue;
    any = true;
    const ContextEffect effect = context_effect(layer);
    changed += effect.changed_set, tokens += effect.tokens;
    if (layer.kind == ContextKind::added)
      for (int s = 0; s < effect.tokens; ++s)
        for (int e : layer.experts[size_t(s)])
          ++(decided_by(layer, s, e) == Decider::token ? by_token : by_context);
  }
  if (any) text += fmt::format("\nall layers: the context changed {} of {} choices", changed, tokens);
  if (by_token + by_context > 0)
    text += fmt::format("; of the {} experts chosen the token's own logit carried {}, the bias {}",
                        by_token + by_context, by_token, by_context);
  return any ? text + "\n" : text;
}

Json as_json(const RoutingTrace& t) {
  check_trace(t);
  Json json = {{"config", t.config}, {"text", t.text}, {"truncated", t.truncated}, {"tokens", t.tokens}};
  size_t best = 0;
  for (size_t i = 0; i < t.topics.size(); ++i) {
    json["probabilities"][t.topics[i]] = t.probabilities[i];
    if (t.probabilities[i] > t.probabilities[best]) best = i;
  }
  json["topic"] = t.topics.empty() ? Json() : Json(t.topics[best]);
  json["layers"] = Json::array();
  const auto row = [](const Matrix& m, int r) {
    return std::vector<double>(m.values.begin() + long(r) * m.cols, m.values.begin() + long(r + 1) * m.cols);
  };
  const auto key = [](const LayerTrace::Ground& ground) {
    std::string name = ground.name;
    std::ranges::replace(name, ' ', '_');
    return name;
  };
  for (size_t l = 0; l < t.layers.size(); ++l) {
    const LayerTrace& layer = t.layers[l];
    Json& out = json["layers"].emplace_back();
    out["layer"] = l + 1;
    out["context_kind"] = layer.kind == ContextKind::none    ? "none"
                          : layer.kind == ContextKind::added ? "added"
                                                             : "multiplied";
    if (layer.kind != ContextKind::none) {
      const ContextEffect effect = context_effect(layer);
      out["context"] = layer.context;
      out["changed_by_context"] = {{"tokens", effect.tokens},
                                   {"experts", effect.changed_set},
                                   {"first_expert", effect.changed_top},
                                   {"cls", effect.cls_changed}};
    }
    for (const auto& [name, values] : layer.kept) out["kept"][name] = values;
    for (const LayerTrace::Ground& ground : layer.of_sequence) out["sequence"][key(ground)] = row(ground.values, 0);
    if (!layer.allowed.empty()) out["sequence"][layer.allowed_name] = layer.allowed;
    if (!layer.comparison.empty()) out["compared_is"] = layer.comparison;
    out["tokens"] = Json::array();
    for (int s = 0; s < int(t.tokens.size()); ++s) {
      Json& token = out["tokens"].emplace_back();
      token = {
          {"token", t.tokens[size_t(s)]}, {"experts", layer.experts[size_t(s)]}, {"gates", layer.gates[size_t(s)]}};
      if (layer.logits.rows > 0) {
        token["token_logits"] = row(layer.token_logits, s);
        token["logits"] = row(layer.logits, s);
      }
      if (layer.logits.rows == 0 && layer.scores.rows > 0) token["scores"] = row(layer.scores, s);
      if (layer.compared.rows > 0) token["compared"] = row(layer.compared, s);
      for (const LayerTrace::Ground& ground : layer.of_tokens) token[key(ground)] = row(ground.values, s);
      if (!layer.beside.empty()) token["beside"] = Json::object();
      if (!layer.beside.empty())
        for (const auto& [name, gate] : layer.beside[size_t(s)]) token["beside"][name] = gate;
      if (layer.kind != ContextKind::none) token["without_context"] = choice_without_context(layer, s);
      if (layer.kind == ContextKind::added)
        for (int e : layer.experts[size_t(s)])
          token["decided_by"].push_back(decided_by(layer, s, e) == Decider::token ? "token" : "context");
    }
  }
  return json;
}

}  // namespace glia::results
