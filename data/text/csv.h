// A streaming reader of RFC 4180 CSV: quotes doubled inside quotes, line breaks inside quotes, UTF-8 with or without a
// byte order mark. Lines end in LF or CRLF, or in CR where no line of the first chunk ends otherwise. What is not CSV
// is reported with file, line and column, never guessed.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace glia {

// What happens with a bad row. Default: the first one throws Error. With `skip` they are counted, and the first
// messages kept, for the user to see (--skip-bad-rows).
class BadRows {
 public:
  explicit BadRows(bool skip = false) : skip_(skip) {}
  void report(const std::string& message);
  int64_t count() const { return count_; }
  const std::vector<std::string>& messages() const { return messages_; }  // at most 20
  std::string summary() const;                                            // "" when there was none

 private:
  bool skip_;
  int64_t count_ = 0;
  std::vector<std::string> messages_;
};

// One row. The views stay valid until the next call of next().
struct CsvRow {
  struct Place {
    int64_t line, column;  // from 1; columns count bytes
  };
  std::vector<std::string_view> fields;
  std::vector<Place> places;  // of each field's first character
};

class CsvReader {
 public:
  static constexpr size_t kMaxRow = 1 << 20;  // bytes; a longer row is most likely an open quote

  // Errors: a missing file, a directory, an unreadable file, refusal().
  CsvReader(const std::string& path, BadRows& bad_rows);
  // Reads `content` (not copied); `name` stands for the path in messages.
  CsvReader(std::string name, std::string_view content, BadRows& bad_rows);
  ~CsvReader();
  CsvReader(const CsvReader&) = delete;
  CsvReader& operator=(const CsvReader&) = delete;

  // The next good row; false at the end. After a bad row that is to be skipped, reading goes on at the line after
  // that row's first line, so that one open quote cannot swallow the rest of the file.
  bool next(CsvRow& row);

  // The bytes of the first line that is not blank, its line end left out (a line break in quotes does not end it);
  // of a file at most its first chunk. Before the first next().
  std::string_view first_line() const;
  // Before the first next(): what stands between fields, and that the first line is no row.
  void set_separator(char separator) { separator_ = separator; }
  void skip_first_line() { skip_line(); }
  bool lines_end_in_cr() const { return line_end_ == '\r'; }

  // Why a file that begins like this is no CSV at all (UTF-16, an archive, …); "" when it may be one.
  static std::string refusal(std::string_view head);

  // "path:line:column", for a caller's own messages about a field.
  std::string place(const CsvRow& row, size_t field) const;

 private:
  enum class Outcome { kRow, kEnd, kBad, kMore };  // kMore: the buffer ends inside the row
  Outcome scan_row(CsvRow& row, std::string& message);
  std::string message_at(size_t at, const std::string& what) const;
  void refill();
  void begin();
  void skip_line();

  struct Field {
    size_t begin, end;
    bool doubled;  // holds "" for each quote
  };
  std::string name_;
  BadRows& bad_rows_;
  std::FILE* file_ = nullptr;
  std::string chunk_;      // a file's bytes in memory: the current row and what follows it
  std::string_view text_;  // what is scanned: chunk_ or the caller's content
  std::string unquoted_;   // the fields of the current row that held doubled quotes
  std::vector<Field> fields_;
  size_t begin_ = 0;  // start of the current row in text_
  int64_t line_ = 1;  // its line
  char separator_ = ',', line_end_ = '\n';
  bool complete_ = false;  // text_ reaches the end of the input
};

}  // namespace glia
