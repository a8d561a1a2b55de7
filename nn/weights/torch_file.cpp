#include "nn/weights/torch_file.h"

#include <zip.h>

#include <cstring>

#include "nn/weights/pickle.h"

namespace glia {
namespace {

using Storages = std::map<std::string, std::shared_ptr<const std::string>>;

// The archive's records, by their names below the root folder that torch gives it.
class Archive {
 public:
  Archive(std::string_view content, const std::string& source) : source_(source), left_(content.size()) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* bytes = zip_source_buffer_create(content.data(), content.size(), 0, &error);
    if (bytes) zip_ = zip_open_from_source(bytes, ZIP_RDONLY, &error);
    if (!zip_) {
      const std::string why = zip_error_strerror(&error);
      if (bytes) zip_source_free(bytes);
      zip_error_fini(&error);
      fail_input("{}: not a usable torch archive: {}", source_, why);
    }
    zip_error_fini(&error);
    const zip_int64_t count = zip_get_num_entries(zip_, 0);
    for (zip_int64_t i = 0; i < count; ++i) {
      const char* name = zip_get_name(zip_, static_cast<zip_uint64_t>(i), ZIP_FL_ENC_RAW);
      if (!name) continue;
      const std::string_view path = name;
      const size_t slash = path.find('/');
      if (slash != std::string_view::npos) index_.emplace(path.substr(slash + 1), static_cast<zip_uint64_t>(i));
    }
  }
  ~Archive() { zip_discard(zip_); }
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  bool contains(const std::string& name) const { return index_.contains(name); }

  std::string read(const std::string& name) {
    const auto found = index_.find(name);
    if (found == index_.end()) refuse(fmt::format("it has no record {}", name));
    zip_stat_t stat;
    zip_stat_init(&stat);
    constexpr zip_uint64_t kNeeded = ZIP_STAT_SIZE | ZIP_STAT_COMP_METHOD;
    if (zip_stat_index(zip_, found->second, 0, &stat) != 0 || (stat.valid & kNeeded) != kNeeded)
      refuse(fmt::format("record {}: {}", name, zip_strerror(zip_)));
    // torch stores; what is stored cannot grow, and no byte is anybody's twice: a small file cannot fill the memory.
    if (stat.comp_method != ZIP_CM_STORE)
      refuse(fmt::format("record {} is compressed, which torch.save never does", name));
    if (stat.size > left_) refuse(fmt::format("record {} would have {} bytes", name, stat.size));
    left_ -= stat.size;
    std::string content(stat.size, '\0');
    zip_file_t* file = zip_fopen_index(zip_, found->second, 0);
    if (!file) refuse(fmt::format("record {}: {}", name, zip_strerror(zip_)));
    const zip_int64_t got = zip_fread(file, content.data(), content.size());
    char behind;
    const zip_int64_t end = got < 0 ? -1 : zip_fread(file, &behind, 1);  // where the sum is checked
    const std::string why = zip_file_strerror(file);
    zip_fclose(file);
    if (end < 0) refuse(fmt::format("record {}: {}", name, why));
    if (static_cast<size_t>(got) != content.size()) refuse(fmt::format("record {} is cut short", name));
    return content;
  }

  [[noreturn]] void refuse(const std::string& why) const {
    fail_input("{}: not a usable torch archive: {}", source_, why);
  }

 private:
  const std::string& source_;
  size_t left_;
  zip_t* zip_ = nullptr;
  std::map<std::string, zip_uint64_t> index_;
};

// One of no numbers, whose storage may have none either. Its other sizes are bounded, since somebody will multiply them.
bool is_empty(const PickledTensor& p) {
  int64_t others = 1;
  bool empty = false;
  for (const int64_t n : p.size) {
    if (n < 0 || n > (int64_t{1} << 40) / others) return false;
    if (n == 0) empty = true;
    else others *= n;
  }
  return empty;
}

// Where the tensor lies in its storage, checked.
RawTensor place(const PickledTensor& p, std::string_view storage, const std::string& source) {
  const auto refuse = [&](const std::string& why) { fail_input("{}: '{}' {}", source, p.name, why); };
  if (is_empty(p)) return {p.dtype, Shape(p.size.data(), static_cast<int>(p.size.size())), {}, {}};
  const auto element = static_cast<int64_t>(element_size(p.dtype));
  const int64_t elements = static_cast<int64_t>(storage.size()) / element;
  // The first dimensions may be anything as long as the product stays below the storage's elements.
  int64_t last = 0, count = 1, dense = 1;
  bool contiguous = true, impossible = p.offset < 0 || p.offset > elements;
  for (size_t d = p.size.size(); d-- > 0 && !impossible;) {
    const int64_t n = p.size[d], stride = p.stride[d];
    impossible = n < 0 || stride < 0 || (n > 1 && (n > elements || stride > elements / (n - 1)));
    if (impossible) break;
    if (n > 1) last += (n - 1) * stride;
    contiguous = contiguous && (n <= 1 || stride == dense);
    count *= n, dense *= std::max<int64_t>(n, 1);
    impossible = count > elements || dense > elements || last >= elements;
  }
  if (impossible || (count > 0 && p.offset > elements - 1 - last))
    refuse("has a shape or strides that its storage has no numbers for");
  RawTensor t;
  t.dtype = p.dtype;
  t.shape = Shape(p.size.data(), static_cast<int>(p.size.size()));
  if (!contiguous && count > 0) t.strides = p.stride;
  t.bytes = storage.substr(static_cast<size_t>(p.offset * element),
                           static_cast<size_t>((count > 0 ? last + 1 : 0) * element));
  return t;
}

RawTensors assemble(const std::vector<PickledTensor>& tensors, const Storages& storages,
                    const std::string& source) {
  RawTensors all;
  for (const auto& [key, bytes] : storages) all.owners.push_back(bytes);
  for (const PickledTensor& p : tensors) {
    const auto storage = storages.find(p.key);
    if (storage == storages.end())
      fail_input("{}: '{}' lies in storage {}, which is not there", source, p.name, p.key);
    if (!all.tensors.emplace(p.name, place(p, *storage->second, source)).second)
      fail_input("{}: '{}' is there twice", source, p.name);
  }
  return all;
}

RawTensors read_zip(std::string_view content, const std::string& source) {
  Archive archive(content, source);
  if (archive.contains("byteorder"))
    if (const std::string order = archive.read("byteorder"); order != "little")
      archive.refuse(fmt::format("expected little-endian numbers, got {}", order.substr(0, 20)));
  if (!archive.contains("data.pkl")) archive.refuse("it has no data.pkl: expected what torch.save writes");
  const std::string text = archive.read("data.pkl");
  const std::vector<PickledTensor> tensors = pickled_tensors(read_pickle(text, source), source);
  Storages storages;
  for (const PickledTensor& t : tensors)
    if (!storages.contains(t.key))
      storages[t.key] = std::make_shared<const std::string>(archive.read("data/" + t.key));
  return assemble(tensors, storages, source);
}

constexpr std::string_view kOldMagic("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 15);

// Before torch 1.6: magic number, version, a dict about the machine, the state dict, the storages' keys; then each
// storage in that order, its number of elements before it.
RawTensors read_old(std::string_view content, const std::string& source) {
  size_t at = 0;
  const auto next = [&] {
    Pickle pickle = read_pickle(content.substr(at), source);
    at += pickle.end;
    return pickle;
  };
  next();
  next();
  const Pickle machine = next();
  for (size_t i = 0; i + 1 < machine.top->items.size(); i += 2)
    if (machine.top->items[i]->text == "little_endian" && machine.top->items[i + 1]->number != 1)
      fail_input("{}: expected little-endian numbers", source);
  const std::vector<PickledTensor> tensors = pickled_tensors(next(), source);
  const Pickle keys = next();
  std::map<std::string, size_t> sizes;  // of an element, by storage
  for (const PickledTensor& t : tensors) sizes[t.key] = element_size(t.dtype);
  Storages storages;
  for (const PickleValue* key : keys.top->items) {
    const std::string name(key->text);
    const auto size = sizes.find(name);
    if (size == sizes.end())
      fail_input("{}: storage {} belongs to no tensor of the state dict; save the state dict alone", source, name);
    uint64_t count = 0;
    if (content.size() - at < 8) fail_input("{}: cut short before storage {}", source, name);
    std::memcpy(&count, content.data() + at, 8);
    at += 8;
    if (count > (content.size() - at) / size->second)
      fail_input("{}: cut short: storage {} would have {} elements", source, name, count);
    storages[name] = std::make_shared<const std::string>(content.substr(at, count * size->second));
    at += count * size->second;
  }
  return assemble(tensors, storages, source);
}

}  // namespace

bool looks_like_torch(std::string_view content) {
  return content.starts_with("PK\x03\x04") || content.starts_with(kOldMagic);
}

RawTensors read_torch(std::string_view content, const std::string& source) {
  if (content.starts_with(kOldMagic)) return read_old(content, source);
  return read_zip(content, source);
}

}  // namespace glia
