// Checkpoints of some chunks a file, served and pulled over loopback, for the tests of transfers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/transfer/pull.h"
#include "checkpoint/transfer/server.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {

wan::Key TestKey(uint8_t value = 7);

// 12 MiB of weights and as much of momentum, in files of 9 MiB at most; and a small file of the
// region's own.
SaveJob ChunkyJob(const std::string& directory);
// Saves it there. Its path.
std::string SaveChunky(const std::string& directory);
// The same files elsewhere.
void CopyTree(const std::string& from, const std::string& to);
// Changes a byte of each of these chunks of the file.
void FlipIn(const std::string& path, const std::vector<int64_t>& chunks);

std::unique_ptr<Server> Serve(const std::string& directory, const wan::Key& key = TestKey());
PullOptions PullFrom(const std::vector<Endpoint>& sources, const std::string& directory);
// The same files with the same bytes, all of them, and no other.
void ExpectSame(const std::string& path, const std::string& other);

}  // namespace atl::checkpoint
