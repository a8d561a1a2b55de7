#include "data/text/csv.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "data/text/utf8.h"
#include "engine/core/check.h"
#include "engine/core/file.h"
#include "engine/core/file_kind.h"

namespace glia {
namespace {

constexpr size_t kChunk = 1 << 18;

// How a byte is named in a message.
std::string show_byte(char c) {
  const auto byte = static_cast<uint8_t>(c);
  return byte >= 0x20 && byte < 0x7F ? fmt::format("'{}'", c) : fmt::format("byte 0x{:02X}", byte);
}

// f(offset) for each byte outside quotes, until it returns true.
template <class F> void outside_quotes(std::string_view text, F&& f) {
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') quoted = !quoted;
    else if (!quoted && f(i)) return;
  }
}

// Old spreadsheets end lines in CR and break them inside quotes with LF.
char find_line_end(std::string_view head) {
  bool cr = false, lf = false;
  outside_quotes(head, [&](size_t i) {
    cr |= head[i] == '\r';
    return lf = head[i] == '\n';
  });
  return cr && !lf ? '\r' : '\n';
}

}  // namespace

void BadRows::report(const std::string& message) {
  if (!skip_) throw Error(message);
  ++count_;
  if (messages_.size() < 20) messages_.push_back(message);
}

std::string BadRows::summary() const {
  if (count_ == 0) return "";
  std::string text = fmt::format("skipped {} bad row{}:\n", count_, count_ == 1 ? "" : "s");
  for (const std::string& message : messages_) text += "  " + message + "\n";
  if (count_ > static_cast<int64_t>(messages_.size()))
    text += fmt::format("  … and {} more\n", count_ - static_cast<int64_t>(messages_.size()));
  return text;
}

CsvReader::CsvReader(const std::string& path, BadRows& bad_rows) : name_(path), bad_rows_(bad_rows) {
  const int fd = open_to_read(path);
  file_ = ::fdopen(fd, "rb");
  if (!file_) {
    ::close(fd);
    fail_input("{}: cannot open: {}", path, std::strerror(errno));
  }
  refill();
  begin();
}

CsvReader::CsvReader(std::string name, std::string_view content, BadRows& bad_rows)
    : name_(std::move(name)), bad_rows_(bad_rows), text_(content), complete_(true) {
  begin();
}

std::string CsvReader::refusal(std::string_view head) {
  if (std::string kind = foreign_kind(head); !kind.empty()) return kind;
  if (head.substr(0, 4).find('\0') != std::string_view::npos)
    return "NUL bytes (UTF-16 without a byte order mark, or no text); save it as UTF-8";
  return "";
}

void CsvReader::begin() {
  const std::string_view head = text_.substr(0, kChunk);
  if (const std::string why = refusal(head); !why.empty())
    fail_input("{}: expected CSV text, found {}", name_, why);
  while (head.substr(begin_).starts_with(utf8::kByteOrderMark))
    begin_ += utf8::kByteOrderMark.size();  // a file that was marked twice has two
  line_end_ = find_line_end(head);
}

std::string_view CsvReader::first_line() const {
  std::string_view rest = text_.substr(begin_, kChunk);
  for (;;) {
    size_t end = rest.size();
    outside_quotes(rest, [&](size_t i) {
      if (rest[i] != line_end_) return false;
      end = i;
      return true;
    });
    std::string_view line = rest.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (end == rest.size() || line.find_first_not_of(" \t") != std::string_view::npos) return line;
    rest.remove_prefix(end + 1);
  }
}

CsvReader::~CsvReader() {
  if (file_) std::fclose(file_);
}

// Drops what was read, keeps the current row's bytes and appends the next chunk.
void CsvReader::refill() {
  chunk_.erase(0, begin_);
  begin_ = 0;
  const size_t kept = chunk_.size();
  chunk_.resize(kept + kChunk);
  const size_t n = std::fread(chunk_.data() + kept, 1, kChunk, file_);
  if (n < kChunk) {
    if (std::ferror(file_)) fail_input("{}: cannot read: {}", name_, std::strerror(errno));
    complete_ = true;
  }
  chunk_.resize(kept + n);
  text_ = chunk_;
}

std::string CsvReader::message_at(size_t at, const std::string& what) const {
  int64_t line = line_;
  size_t line_begin = begin_;
  for (size_t i = begin_; i < at; ++i)
    if (text_[i] == line_end_) ++line, line_begin = i + 1;
  return fmt::format("{}:{}:{}: {}", name_, line, at - line_begin + 1, what);
}

std::string CsvReader::place(const CsvRow& row, size_t field) const {
  return fmt::format("{}:{}:{}", name_, row.places.at(field).line, row.places.at(field).column);
}

// Finds the fields of the row at begin_; changes nothing but fields_, so that it can start again with more text.
CsvReader::Outcome CsvReader::scan_row(CsvRow& row, std::string& message) {
  const char* const text = text_.data();
  const size_t size = text_.size(), limit = std::min(size, begin_ + kMaxRow);
  const auto out_of_text = [&](size_t at, const char* what) {
    if (limit < size) {
      message = message_at(begin_, fmt::format("expected a row of at most {} bytes, found no end of it", kMaxRow));
      return Outcome::kBad;
    }
    if (!complete_) return Outcome::kMore;
    message = message_at(at, what);
    return Outcome::kBad;
  };
  fields_.clear();
  size_t p = begin_, end = begin_;
  if (p == size) return complete_ ? Outcome::kEnd : Outcome::kMore;

  for (bool more = true; more;) {
    if (p < limit && text[p] == '"') {
      const size_t open = p++;
      bool doubled = false;
      for (;;) {
        const void* quote = p < limit ? std::memchr(text + p, '"', limit - p) : nullptr;
        if (!quote) return out_of_text(open, "expected a closing quote, found the end of the file (opened here)");
        p = static_cast<size_t>(static_cast<const char*>(quote) - text) + 1;
        if (p == limit && !(complete_ && limit == size)) return out_of_text(open, "");
        if (p == limit || text[p] != '"') break;
        doubled = true;
        ++p;
      }
      fields_.push_back({open + 1, p - 1, doubled});
    } else {
      const size_t first = p;
      while (p < limit && text[p] != separator_ && text[p] != line_end_ && text[p] != '"') ++p;
      if (p == limit && !(complete_ && limit == size)) return out_of_text(first, "");
      if (p < limit && text[p] == '"') {
        message = message_at(p, "expected no quote inside a field that does not begin with one, found '\"'");
        return Outcome::kBad;
      }
      // The CR of a CRLF belongs to the line end, not to the field.
      const bool crlf = line_end_ == '\n' && p > first && text[p - 1] == '\r' && (p == limit || text[p] == '\n');
      fields_.push_back({first, p - crlf, false});
      if (crlf) --p;
    }
    // What may follow a field: a separator, a line end (CRLF too), or the end of the file.
    end = p;
    if (p == limit) {
      more = false;  // the end of a file whose last line has no line end
    } else if (text[p] == separator_) {
      ++p;
    } else if (text[p] == line_end_) {
      more = false, end = p + 1;
    } else if (text[p] == '\r' && p + 1 == limit) {
      if (!(complete_ && limit == size)) return out_of_text(p, "");
      more = false, end = p + 1;
    } else if (text[p] == '\r' && text[p + 1] == '\n') {
      more = false, end = p + 2;
    } else {
      message = message_at(p, fmt::format("expected {} or the end of the line after a closing quote, found {}",
                                          show_byte(separator_), show_byte(text[p])));
      return Outcome::kBad;
    }
  }

  const size_t invalid = utf8::find_invalid(text_.substr(begin_, end - begin_));
  if (invalid != std::string_view::npos) {
    message =
        message_at(begin_ + invalid, fmt::format("expected UTF-8, found {}", show_byte(text[begin_ + invalid])));
    return Outcome::kBad;
  }

  if (const void* nul = std::memchr(text + begin_, 0, end - begin_)) {
    message =
        message_at(static_cast<size_t>(static_cast<const char*>(nul) - text), "expected text, found a NUL byte");
    return Outcome::kBad;
  }

  // The row is good: give views of it, with single quotes where they were doubled.
  row.fields.clear();
  row.places.clear();
  size_t room = 0;
  for (const Field& f : fields_) room += f.doubled ? f.end - f.begin : 0;
  unquoted_.clear();
  unquoted_.reserve(room);  // the views below must not move
  size_t line_begin = begin_, seen = begin_;
  for (const Field& f : fields_) {
    for (; seen < f.begin; ++seen)
      if (text[seen] == line_end_) ++line_, line_begin = seen + 1;
    row.places.push_back({line_, static_cast<int64_t>(f.begin - line_begin) + 1});
    if (!f.doubled) {
      row.fields.push_back(text_.substr(f.begin, f.end - f.begin));
      continue;
    }
    const size_t first = unquoted_.size();
    for (size_t i = f.begin; i < f.end; ++i) {
      unquoted_.push_back(text[i]);
      if (text[i] == '"') ++i;
    }
    row.fields.push_back(std::string_view(unquoted_).substr(first));
  }
  line_ += std::count(text + seen, text + end, line_end_);
  begin_ = end;
  return Outcome::kRow;
}

// Moves past the first line of the current row.
void CsvReader::skip_line() {
  for (;;) {
    const size_t at = text_.find(line_end_, begin_);
    if (at != std::string_view::npos) {
      begin_ = at + 1;
      ++line_;
      return;
    }
    begin_ = text_.size();
    if (complete_) return;
    refill();
  }
}

bool CsvReader::next(CsvRow& row) {
  std::string message;
  for (;;) {
    switch (scan_row(row, message)) {
      case Outcome::kRow: return true;
      case Outcome::kEnd: return false;
      case Outcome::kMore: refill(); break;
      case Outcome::kBad:
        bad_rows_.report(message);
        skip_line();
        break;
    }
  }
}

}  // namespace glia
