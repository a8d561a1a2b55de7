#include "nn/weights/pickle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <unordered_map>

#include "engine/core/shape.h"

namespace glia {
namespace {

using Kind = PickleValue::Kind;
constexpr size_t kMaxValues = size_t{1} << 20;  // a state dict of 1000 tensors has about 20,000

const std::map<std::string_view, const char*>& storage_types() {
  static const std::map<std::string_view, const char*> types{
      {"torch FloatStorage", "F32"},  {"torch HalfStorage", "F16"}, {"torch BFloat16Storage", "BF16"},
      {"torch DoubleStorage", "F64"}, {"torch LongStorage", "I64"}, {"torch IntStorage", "I32"},
      {"torch ShortStorage", "I16"},  {"torch CharStorage", "I8"},  {"torch ByteStorage", "U8"},
      {"torch BoolStorage", "BOOL"}};
  return types;
}
constexpr std::string_view kDictName = "collections OrderedDict", kTensorName = "torch._utils _rebuild_tensor_v2",
                           kParameterName = "torch._utils _rebuild_parameter",
                           kMarkedName =
                               "torch._utils _rebuild_parameter_with_state";  // a parameter with attributes

class Machine {
 public:
  Machine(std::string_view content, const std::string& source) : content_(content), source_(source) {}

  Pickle run() {
    while (!step()) {
    }
    pickle_.end = at_;
    return std::move(pickle_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    fail_input("{}: not a pickle of tensors that can be read: byte {}: {}", source_, at_, why);
  }
  std::string_view take(size_t n) {
    if (n > content_.size() - at_) refuse("cut short");
    at_ += n;
    return content_.substr(at_ - n, n);
  }
  uint64_t unsigned_of(size_t bytes) {
    const std::string_view text = take(bytes);
    uint64_t x = 0;
    std::memcpy(&x, text.data(), bytes);
    return x;
  }
  std::string_view line() {
    const size_t end = content_.find('\n', at_);
    if (end == std::string_view::npos) refuse("cut short");
    const std::string_view text = content_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }

  PickleValue& push(Kind kind) {
    if (pickle_.values.size() >= kMaxValues) refuse("more values than a state dict has");
    PickleValue& v = pickle_.values.emplace_back();
    v.kind = kind;
    stack_.push_back(&v);
    return v;
  }
  PickleValue* pop() {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back())) refuse("takes a value that is not there");
    PickleValue* v = stack_.back();
    stack_.pop_back();
    return v;
  }
  PickleValue& top(Kind kind, const char* wanted) {
    if (stack_.size() <= (marks_.empty() ? 0 : marks_.back()) || stack_.back()->kind != kind)
      refuse(fmt::format("expected {} on the stack", wanted));
    return *stack_.back();
  }
  std::vector<const PickleValue*> pop_to_mark() {
    if (marks_.empty()) refuse("takes a mark that is not there");
    std::vector<const PickleValue*> items(stack_.begin() + static_cast<int64_t>(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  void tuple(size_t n) {
    std::vector<const PickleValue*> items(n);
    for (size_t i = n; i-- > 0;) items[i] = pop();
    push(Kind::kTuple).items = std::move(items);
  }
  void remember(uint64_t slot) {
    if (stack_.empty()) refuse("remembers a value that is not there");
    memo_[slot] = stack_.back();
  }
  void recall(uint64_t slot) {
    const auto found = memo_.find(slot);
    if (found == memo_.end()) refuse(fmt::format("recalls value {}, which was never kept", slot));
    stack_.push_back(found->second);
    // A recalled value costs no new one, but the stack must stay as bounded.
    if (stack_.size() > kMaxValues) refuse("more values than a state dict has");
  }
  void extend(PickleValue& to, const std::vector<const PickleValue*>& items, bool pairs) {
    if (pairs && items.size() % 2 != 0) refuse("a dict with a key and no value");
    items_ += items.size();  // a list that is recalled again and again must not fill the memory
    if (items_ > kMaxValues) refuse("more values than a state dict has");
    to.items.insert(to.items.end(), items.begin(), items.end());
  }

  void global();
  void storage();
  void reduce();
  bool step();

  std::string_view content_;
  const std::string& source_;
  size_t at_ = 0, items_ = 0;
  Pickle pickle_;
  std::vector<PickleValue*> stack_;
  std::vector<size_t> marks_;  // heights of the stack
  std::unordered_map<uint64_t, PickleValue*> memo_;
};

void Machine::global() {
  const std::string_view module = line(), name = line();
  const std::string full = std::string(module) + " " + std::string(name);
  constexpr std::array kCalled = {kDictName, kTensorName, kParameterName, kMarkedName};
  const auto called = std::ranges::find(kCalled, full);
  if (called == kCalled.end() && !storage_types().contains(full))
    refuse(fmt::format("it names {}.{}, which no tensor needs; nothing of it is executed", module.substr(0, 60),
                       name.substr(0, 60)));
  // Kept as the list spells it: the content has a line end in between.
  PickleValue& v = push(Kind::kGlobal);
  if (const auto found = storage_types().find(full); found != storage_types().end()) v.text = found->first;
  else v.text = *called;
}

// ('storage', torch.FloatStorage, key, location, elements[, view])
void Machine::storage() {
  const PickleValue* id = pop();
  const auto& i = id->items;
  const bool good = id->kind == Kind::kTuple && (i.size() == 5 || i.size() == 6) && i[0]->kind == Kind::kText &&
                    i[0]->text == "storage" && i[1]->kind == Kind::kGlobal &&
                    storage_types().contains(i[1]->text) && i[2]->kind == Kind::kText && i[4]->kind == Kind::kInt &&
                    i[4]->number >= 0 && (i.size() == 5 || i[5]->kind == Kind::kNone);
  if (!good) refuse("a persistent id that is no storage");
  push(Kind::kStorage).items = i;
}

void Machine::reduce() {
  const PickleValue *arguments = pop(), *function = pop();
  if (function->kind != Kind::kGlobal || arguments->kind != Kind::kTuple)
    refuse("a call of something that is no name");
  const auto& a = arguments->items;
  if (function->text == kDictName) {
    PickleValue& dict = push(Kind::kDict);
    if (a.empty()) return;
    if (a.size() != 1 || a[0]->kind != Kind::kList) refuse("an OrderedDict of something that is no list");
    for (const PickleValue* pair : a[0]->items) {
      if ((pair->kind != Kind::kTuple && pair->kind != Kind::kList) || pair->items.size() != 2)
        refuse("an OrderedDict of something that is no pair");
      extend(dict, pair->items, true);
    }
  } else if (function->text == kTensorName) {
    const auto integers = [](const PickleValue& v) {
      for (const PickleValue* x : v.items)
        if (x->kind != Kind::kInt) return false;
      return v.kind == Kind::kTuple;
    };
    if (a.size() < 4 || a.size() > 8 || a[0]->kind != Kind::kStorage || a[1]->kind != Kind::kInt ||
        !integers(*a[2]) || !integers(*a[3]) || a[2]->items.size() != a[3]->items.size() ||
        a[2]->items.size() > Shape::kMaxRank)
      refuse("a tensor whose parts are not storage, offset, at most 6 sizes and their strides");
    push(Kind::kTensor).items = a;
  } else if (function->text == kParameterName || function->text == kMarkedName) {
    if (a.empty() || a[0]->kind != Kind::kTensor) refuse("a parameter that is no tensor");
    push(Kind::kTensor).items = a[0]->items;
  } else {
    refuse(fmt::format("a call of {}", function->text));
  }
}

// One opcode; true at the end.
bool Machine::step() {
  const auto op = static_cast<uint8_t>(take(1)[0]);
  switch (op) {
    case 0x80:  // PROTO
      if (const uint64_t version = unsigned_of(1); version != 2)
        refuse(fmt::format("expected pickle's protocol 2, got {}", version));
      return false;
    case '.':  // STOP
      pickle_.top = pop();
      return true;
    case '(': marks_.push_back(stack_.size()); return false;  // MARK
    case 'N': push(Kind::kNone); return false;
    case 0x88: push(Kind::kBool).number = 1; return false;
    case 0x89: push(Kind::kBool); return false;
    case 'K': push(Kind::kInt).number = static_cast<int64_t>(unsigned_of(1)); return false;
    case 'M': push(Kind::kInt).number = static_cast<int64_t>(unsigned_of(2)); return false;
    case 'J': push(Kind::kInt).number = static_cast<int32_t>(unsigned_of(4)); return false;
    case 0x8a: {  // LONG1, two's complement
      const std::string_view bytes = take(unsigned_of(1));
      PickleValue& v = push(Kind::kInt);
      v.text = bytes;
      uint64_t x = !bytes.empty() && (bytes.back() & 0x80) ? ~uint64_t{0} : 0;
      std::memcpy(&x, bytes.data(), std::min<size_t>(bytes.size(), 8));
      if (bytes.size() > 8) v.kind = Kind::kText;  // the magic number of old files; no extent of a tensor
      v.number = static_cast<int64_t>(x);
      return false;
    }
    case 'G': take(8), push(Kind::kFloat); return false;  // its value matters to no tensor
    case 'X': {                                           // BINUNICODE
      const std::string_view text = take(unsigned_of(4));
      push(Kind::kText).text = text;
      return false;
    }
    case 'U': {  // SHORT_BINSTRING, which Python 2 wrote
      const std::string_view text = take(unsigned_of(1));
      push(Kind::kText).text = text;
      return false;
    }
    case ')': push(Kind::kTuple); return false;
    case 0x85: tuple(1); return false;
    case 0x86: tuple(2); return false;
    case 0x87: tuple(3); return false;
    case 't': {
      std::vector<const PickleValue*> items = pop_to_mark();
      push(Kind::kTuple).items = std::move(items);
      return false;
    }
    case ']': push(Kind::kList); return false;
    case '}': push(Kind::kDict); return false;
    case 'a': {
      const PickleValue* item = pop();
      extend(top(Kind::kList, "a list"), {item}, false);
      return false;
    }
    case 'e': {
      const auto items = pop_to_mark();
      extend(top(Kind::kList, "a list"), items, false);
      return false;
    }
    case 's': {
      const PickleValue *value = pop(), *key = pop();
      extend(top(Kind::kDict, "a dict"), {key, value}, true);
      return false;
    }
    case 'u': {
      const auto items = pop_to_mark();
      extend(top(Kind::kDict, "a dict"), items, true);
      return false;
    }
    case 'q': remember(unsigned_of(1)); return false;
    case 'r': remember(unsigned_of(4)); return false;
    case 'h': recall(unsigned_of(1)); return false;
    case 'j': recall(unsigned_of(4)); return false;
    case 'c': global(); return false;
    case 'Q': storage(); return false;
    case 'R': reduce(); return false;
    case 'b':  // BUILD: attributes of a dict (torch's _metadata: versions of modules), which hold no tensor
      pop();
      top(Kind::kDict, "a dict");
      return false;
    default: refuse(fmt::format("opcode 0x{:02x}, which no tensor needs", op));
  }
}

bool add_tensors(const PickleValue& dict, std::vector<PickledTensor>& all) {
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    const PickleValue &key = *dict.items[i], &value = *dict.items[i + 1];
    if (key.kind != Kind::kText || value.kind != Kind::kTensor) continue;
    const PickleValue& storage = *value.items[0];
    PickledTensor t{std::string(key.text),
                    std::string(storage.items[2]->text),
                    storage_types().at(storage.items[1]->text),
                    storage.items[4]->number,
                    value.items[1]->number,
                    {},
                    {}};
    for (const PickleValue* x : value.items[2]->items) t.size.push_back(x->number);
    for (const PickleValue* x : value.items[3]->items) t.stride.push_back(x->number);
    all.push_back(std::move(t));
  }
  return !all.empty();
}

}  // namespace

Pickle read_pickle(std::string_view content, const std::string& source) { return Machine(content, source).run(); }

std::vector<PickledTensor> pickled_tensors(const Pickle& pickle, const std::string& source) {
  std::vector<PickledTensor> all;
  const PickleValue& top = *pickle.top;
  if (top.kind == Kind::kDict && add_tensors(top, all)) return all;
  if (top.kind == Kind::kDict)
    for (size_t i = 0; i + 1 < top.items.size(); i += 2) {
      const PickleValue &key = *top.items[i], &value = *top.items[i + 1];
      if (key.kind == Kind::kText && value.kind == Kind::kDict &&
          (key.text == "state_dict" || key.text == "model_state_dict" || key.text == "model") &&
          add_tensors(value, all))
        return all;
    }
  fail_input("{}: expected a dict of tensors (a state dict), found none", source);
}

}  // namespace glia
