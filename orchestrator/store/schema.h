// The tables of atoll.db. A change of meaning raises kSchemaVersion.
#pragma once

namespace atl {

inline constexpr int kSchemaVersion = 2;
inline constexpr int kApplicationId = 0x61746f6c;  // "atol"

inline constexpr char kCreateTables[] = R"sql(
CREATE TABLE jobs(
  run INTEGER PRIMARY KEY, state TEXT NOT NULL, reason TEXT NOT NULL, exit_code INTEGER NOT NULL,
  started REAL, since REAL, first_view REAL, ended REAL, parameters INTEGER,
  dataset_samples INTEGER, dataset_fingerprint INTEGER, resumed_from INTEGER, resumed_digest TEXT,
  resumed_sample INTEGER, job BLOB NOT NULL);
CREATE TABLE regions(
  name TEXT PRIMARY KEY, state TEXT NOT NULL, why TEXT NOT NULL, since REAL, heard REAL,
  attempt TEXT, workers INTEGER, host TEXT, pid INTEGER, version TEXT, accelerator TEXT, doing TEXT,
  round INTEGER, digest TEXT, next_sequence INTEGER, phases BLOB, ready BLOB,
  caught_up INTEGER NOT NULL DEFAULT 0, lease_end REAL NOT NULL DEFAULT 0, left BLOB)
  WITHOUT ROWID;
CREATE TABLE views(
  id INTEGER PRIMARY KEY, time REAL, view BLOB NOT NULL, checkpoints TEXT NOT NULL);
CREATE TABLE rounds(
  view INTEGER NOT NULL REFERENCES views(id), round INTEGER NOT NULL, digest TEXT NOT NULL,
  train_loss REAL, tokens INTEGER, tokens_total INTEGER, seconds REAL, wan_seconds REAL,
  gradient_norm REAL, learning_rate REAL, wan_bytes_sent INTEGER, time REAL,
  superseded INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(view, round)) WITHOUT ROWID;
CREATE INDEX live_rounds ON rounds(round) WHERE superseded = 0;
CREATE TABLE samples(
  view INTEGER NOT NULL REFERENCES views(id), round INTEGER NOT NULL, region TEXT NOT NULL,
  first INTEGER NOT NULL, end INTEGER NOT NULL, state INTEGER NOT NULL, tokens INTEGER,
  wan_bytes_sent INTEGER, report BLOB, superseded INTEGER NOT NULL DEFAULT 0,
  rest TEXT NOT NULL DEFAULT '', samples_per_step INTEGER NOT NULL DEFAULT 1,
  PRIMARY KEY(view, round, region)) WITHOUT ROWID;
CREATE TABLE evaluations(
  view INTEGER NOT NULL REFERENCES views(id), round INTEGER NOT NULL, region TEXT NOT NULL,
  loss_sum REAL, tokens INTEGER,
  superseded INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(view, round, region)) WITHOUT ROWID;
CREATE TABLE checkpoints(
  view INTEGER NOT NULL REFERENCES views(id), round INTEGER NOT NULL, region TEXT NOT NULL,
  digest TEXT, path TEXT, own INTEGER, next_sample INTEGER, inner_steps INTEGER, bytes INTEGER,
  seconds REAL, time REAL, complete INTEGER NOT NULL, superseded INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(view, round, region)) WITHOUT ROWID;
CREATE TABLE membership(one INTEGER PRIMARY KEY CHECK(one=1), state BLOB NOT NULL);
CREATE TABLE ledger(one INTEGER PRIMARY KEY CHECK(one=1), state BLOB NOT NULL);
CREATE TABLE events(
  number INTEGER PRIMARY KEY, time REAL, kind TEXT NOT NULL, region TEXT, round INTEGER, text TEXT,
  details TEXT);
)sql";

// From version 1, whose samples were one range each and whose views did not change.
inline constexpr char kUpgradeFrom1[] = R"sql(
ALTER TABLE regions ADD COLUMN caught_up INTEGER NOT NULL DEFAULT 0;
ALTER TABLE regions ADD COLUMN lease_end REAL NOT NULL DEFAULT 0;
ALTER TABLE regions ADD COLUMN left BLOB;
ALTER TABLE samples ADD COLUMN rest TEXT NOT NULL DEFAULT '';
ALTER TABLE samples ADD COLUMN samples_per_step INTEGER NOT NULL DEFAULT 1;
CREATE TABLE membership(one INTEGER PRIMARY KEY CHECK(one=1), state BLOB NOT NULL);
CREATE TABLE ledger(one INTEGER PRIMARY KEY CHECK(one=1), state BLOB NOT NULL);
)sql";

}  // namespace atl
