// SQLite behind values and statuses: the one place that knows its C interface. Errors name the
// database's path; a full disk and a file that may not be written have exit code 4, a file that is
// no database or a damaged one exit code 2. One thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "base/status.h"

struct sqlite3;
struct sqlite3_stmt;

namespace atl {

class Database;

// A prepared statement. Bind in order from 1, then Step until it says false.
class Statement {
 public:
  Statement(Statement&& other) noexcept;
  ~Statement();

  Statement& Bind(int64_t value);
  Statement& Bind(int value) { return Bind(static_cast<int64_t>(value)); }
  Statement& Bind(bool value) { return Bind(static_cast<int64_t>(value)); }
  // Its bits, as SQLite knows no unsigned numbers.
  Statement& Bind(uint64_t value) { return Bind(static_cast<int64_t>(value)); }
  Statement& Bind(double value);  // NaN becomes NULL
  Statement& Bind(const std::string& text);
  Statement& Bind(const char* text) { return Bind(std::string(text)); }
  Statement& BindBlob(const std::string& bytes);
  Statement& BindNull();

  // True if a row is there.
  StatusOr<bool> Step();
  // Runs a statement that gives no rows, and makes it ready to be bound again.
  Status Run();

  bool IsNull(int column) const;
  int64_t Int(int column) const;
  double Real(int column) const;  // NULL: not a number
  std::string Text(int column) const;
  std::string Blob(int column) const;

 private:
  friend class Database;
  Statement(Database* database, sqlite3_stmt* statement)
      : database_(database), statement_(statement) {}
  Statement& Bound(int result);

  Database* database_;
  sqlite3_stmt* statement_;
  int next_ = 1;
  int error_ = 0;
};

class Database {
 public:
  // Opens or creates; a new file has mode 0600. Sets WAL, synchronous NORMAL, foreign keys and a
  // busy timeout.
  static StatusOr<std::unique_ptr<Database>> Open(const std::string& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  const std::string& path() const { return path_; }
  // One or several statements without parameters or rows.
  Status Execute(const std::string& sql);
  StatusOr<Statement> Prepare(const std::string& sql);
  // The single number that a query gives.
  StatusOr<int64_t> QueryInt(const std::string& sql);
  // Whether the transaction under way leaves no reference open, so that COMMIT will not refuse it.
  Status CheckReferences();
  // The database file as it would be with all that is committed in it.
  StatusOr<std::string> Image();

 private:
  friend class Statement;
  Database(std::string path, sqlite3* handle) : path_(std::move(path)), handle_(handle) {}
  Status Error(int result, const std::string& doing) const;

  const std::string path_;
  sqlite3* handle_;
};

}  // namespace atl
