#include "orchestrator/store/database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <cerrno>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"

namespace atl {
namespace {

// A reader (atoll status) may hold the database for a moment.
constexpr int kBusyMilliseconds = 5000;

}  // namespace

Statement::Statement(Statement&& other) noexcept
    : database_(other.database_),
      statement_(std::exchange(other.statement_, nullptr)),
      next_(other.next_),
      error_(other.error_) {}

Statement::~Statement() { sqlite3_finalize(statement_); }

Statement& Statement::Bound(int result) {
  if (error_ == SQLITE_OK) error_ = result;
  ++next_;
  return *this;
}

Statement& Statement::Bind(int64_t value) {
  return Bound(sqlite3_bind_int64(statement_, next_, value));
}

Statement& Statement::Bind(double value) {
  return Bound(sqlite3_bind_double(statement_, next_, value));
}

Statement& Statement::Bind(const std::string& text) {
  return Bound(sqlite3_bind_text64(statement_, next_, text.data(), text.size(), SQLITE_TRANSIENT,
                                   SQLITE_UTF8));
}

Statement& Statement::BindBlob(const std::string& bytes) {
  return Bound(
      sqlite3_bind_blob64(statement_, next_, bytes.data(), bytes.size(), SQLITE_TRANSIENT));
}

Statement& Statement::BindNull() { return Bound(sqlite3_bind_null(statement_, next_)); }

StatusOr<bool> Statement::Step() {
  if (error_ != SQLITE_OK) return database_->Error(error_, "binding a value");
  const int result = sqlite3_step(statement_);
  if (result == SQLITE_ROW) return true;
  if (result == SQLITE_DONE) return false;
  return database_->Error(result, "reading or writing");
}

Status Statement::Run() {
  const StatusOr<bool> row = Step();
  sqlite3_reset(statement_);
  sqlite3_clear_bindings(statement_);
  next_ = 1;
  error_ = SQLITE_OK;
  return row.status();
}

bool Statement::IsNull(int column) const {
  return sqlite3_column_type(statement_, column) == SQLITE_NULL;
}

int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_, column); }

double Statement::Real(int column) const {
  if (IsNull(column)) return std::numeric_limits<double>::quiet_NaN();
  return sqlite3_column_double(statement_, column);
}

std::string Statement::Text(int column) const { return Blob(column); }

std::string Statement::Blob(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);
  const int size = sqlite3_column_bytes(statement_, column);
  return size > 0 ? std::string(static_cast<const char*>(bytes), static_cast<size_t>(size)) : "";
}

StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path) {
  // SQLite gives its side files the database's mode, so the file is made before SQLite sees it. The
  // store holds keys of views.
  {
    ASSIGN_OR_RETURN(Fd fd, OpenFile(path, O_RDWR | O_CREAT, 0600));
    if (fchmod(fd.get(), 0600) != 0) {
      return ErrnoError(errno, absl::StrCat("cannot make ", path, " private"));
    }
  }
  sqlite3* handle = nullptr;
  const int result =
      sqlite3_open_v2(path.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, nullptr);
  std::unique_ptr<Database> database(new Database(path, handle));
  if (result != SQLITE_OK) return database->Error(result, "opening");
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, kBusyMilliseconds);
  RETURN_IF_ERROR(database->Execute(
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON"));
  return database;
}

Database::~Database() { sqlite3_close_v2(handle_); }

Status Database::Error(int result, const std::string& doing) const {
  const std::string message =
      absl::StrCat("database ", path_, ": ", doing, ": ",
                   handle_ != nullptr ? sqlite3_errmsg(handle_) : sqlite3_errstr(result));
  switch (result & 0xff) {
    case SQLITE_FULL:
      return WithExitCode(
          absl::ResourceExhaustedError(absl::StrCat(
              message, ": no space left on its file system; make room and start again")),
          ExitCode::kEnvironment);
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    case SQLITE_NOMEM:
      return WithExitCode(absl::UnavailableError(message), ExitCode::kEnvironment);
    case SQLITE_NOTADB:
      return UsageError(absl::StrCat(message, ": move this file away or take another --run_dir"));
    case SQLITE_CORRUPT:
      return UsageError(absl::StrCat(
          message, ": it is damaged; move it away (the job then goes on from its checkpoints)"));
    default:
      return absl::InternalError(message);
  }
}

Status Database::Execute(const std::string& sql) {
  const int result = sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr);
  return result == SQLITE_OK ? OkStatus() : Error(result, "executing");
}

StatusOr<Statement> Database::Prepare(const std::string& sql) {
  sqlite3_stmt* statement = nullptr;
  const int result = sqlite3_prepare_v3(handle_, sql.c_str(), static_cast<int>(sql.size()) + 1,
                                        SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (result != SQLITE_OK) return Error(result, "preparing a statement");
  return Statement(this, statement);
}

StatusOr<int64_t> Database::QueryInt(const std::string& sql) {
  ASSIGN_OR_RETURN(Statement statement, Prepare(sql));
  ASSIGN_OR_RETURN(const bool row, statement.Step());
  return row ? statement.Int(0) : 0;
}

Status Database::CheckReferences() {
  int open = 0, most = 0;
  sqlite3_db_status(handle_, SQLITE_DBSTATUS_DEFERRED_FKS, &open, &most, 0);
  return open == 0 ? OkStatus()
                   : absl::InternalError(absl::StrCat(
                         "database ", path_, ": a record refers to one that is not there"));
}

StatusOr<std::string> Database::Image() {
  sqlite3_int64 size = 0;
  unsigned char* const bytes = sqlite3_serialize(handle_, "main", &size, 0);
  if (bytes == nullptr) return Error(SQLITE_NOMEM, "copying");
  std::string image(reinterpret_cast<const char*>(bytes), static_cast<size_t>(size));
  sqlite3_free(bytes);
  return image;
}

}  // namespace atl
