// What sources say and what journals hold, to the byte; keys.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/exit_code.h"
#include "base/file.h"
#include "checkpoint/sha256.h"
#include "checkpoint/transfer/journal.h"
#include "checkpoint/transfer/key_file.h"
#include "checkpoint/transfer/wire.h"
#include "tests/checkpoint/checkpoint_test_util.h"

namespace atl::checkpoint {
namespace {

using testing::HasSubstr;

Offer SomeOffer() {
  Offer offer;
  offer.round = 41;
  offer.manifest_bytes = 2000;
  offer.bytes = 0x0102030405;
  offer.complete = true;
  offer.manifest_hash = std::string(32, '\x11');
  offer.root = std::string(32, '\x22');
  offer.replicated_root = std::string(32, '\x33');
  return offer;
}

TEST(TransferCatalog, HasTheseBytes) {
  const std::string bytes = EncodeCatalog({SomeOffer()});
  ASSERT_EQ(bytes.size(), 32800u);
  EXPECT_EQ(absl::BytesToHexString(bytes.substr(0, 64)),
            "61746f6c6c636174"  // "atollcat"
            "0100000001000000"  // version 1, one offer
            "00000000000000000000000000000000"
            "2900000000000000"    // round
            "d007000000000000"    // bytes of the manifest
            "0504030201000000"    // bytes of all files
            "0100000000000000");  // complete
  EXPECT_EQ(bytes.substr(64, 96),
            std::string(32, '\x11') + std::string(32, '\x22') + std::string(32, '\x33'));
  EXPECT_EQ(bytes.substr(160), std::string(32800 - 160, '\0'));
  const auto parsed = ParseCatalog(bytes);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, std::vector<Offer>{SomeOffer()});
}

TEST(TransferCatalog, WhatCannotBeIsRefused) {
  const std::string good = EncodeCatalog({SomeOffer()});
  const auto refused = [&](size_t at, const std::string& bytes) {
    std::string bad = good;
    bad.replace(at, bytes.size(), bytes);
    return std::string(ParseCatalog(bad).status().message());
  };
  EXPECT_THAT(refused(0, "A"), HasSubstr("is none"));
  EXPECT_THAT(refused(8, "\x02"), HasSubstr("version 2"));
  EXPECT_THAT(refused(12, std::string("\x01\x01", 2)), HasSubstr("holds 257"));
  EXPECT_THAT(refused(20, "x"), HasSubstr("mean nothing"));
  EXPECT_THAT(refused(32 + 7, "\x01"), HasSubstr("names round"));
  EXPECT_THAT(refused(32 + 8 + 4, "\x01"), HasSubstr("names a manifest"));
  EXPECT_THAT(refused(32 + 16 + 7, "\x01"), HasSubstr("names a checkpoint"));
  EXPECT_THAT(refused(32 + 24, "\x02"), HasSubstr("unknown flags"));
  EXPECT_THAT(refused(200, "x"), HasSubstr("mean nothing"));
  EXPECT_THAT(ParseCatalog(good.substr(1)).status().message(), HasSubstr("is none"));
  EXPECT_FALSE(ParseCatalog("").ok());
}

TEST(TransferObjects, HaveTheseNames) {
  const std::string hash(32, '\xab');
  const std::string hex = absl::BytesToHexString(hash);
  EXPECT_EQ(ManifestObject(hash), hex + "/manifest");
  EXPECT_EQ(HashesObject(hash, 3), hex + "/hashes/3");
  EXPECT_EQ(FileObject(hash, 12), hex + "/file/12");
  EXPECT_EQ(HaveObject(hash), hex + "/have");
}

TEST(TransferChunks, AreNumberedFileByFile) {
  Manifest manifest;
  for (const int64_t bytes : {kChunkBytes + 1, int64_t{0}, int64_t{5}, 2 * kChunkBytes}) {
    manifest.files.push_back({"f", FileClass::kReplicated, bytes, ""});
  }
  const ChunkMap chunks(manifest);
  ASSERT_EQ(chunks.count(), 5);
  EXPECT_EQ(chunks.At(1).file, 0);
  EXPECT_EQ(chunks.At(1).bytes.begin, kChunkBytes);
  EXPECT_EQ(chunks.At(1).bytes.end, kChunkBytes + 1);
  EXPECT_EQ(chunks.At(2).file, 2);
  EXPECT_EQ(chunks.At(2).bytes.size(), 5);
  EXPECT_EQ(chunks.At(4).chunk, 1);
  EXPECT_EQ(chunks.first(3), 3);
}

JournalSlot SomeSlot(uint64_t number) {
  JournalSlot slot;
  slot.number = number;
  slot.chunks = 11;
  slot.manifest_hash = std::string(32, '\x44');
  slot.bitmap = std::string("\x05\x04", 2);
  return slot;
}

TEST(TransferJournal, HasTheseBytes) {
  const std::string bytes = EncodeJournalSlot(SomeSlot(7));
  ASSERT_EQ(bytes.size(), 4096u);
  EXPECT_EQ(absl::BytesToHexString(bytes.substr(0, 32)),
            "61746f6c70756c6c"    // "atolpull"
            "0100000000000000"    // version
            "0700000000000000"    // number
            "0b00000000000000");  // chunks
  EXPECT_EQ(bytes.substr(32, 34), std::string(32, '\x44') + std::string("\x05\x04", 2));
  EXPECT_EQ(bytes.substr(66, 32), Sha256(bytes.substr(0, 66)));
  EXPECT_EQ(bytes.substr(98), std::string(4096 - 98, '\0'));
}

TEST(TransferJournal, TheNewerOfTwoWholeSlotsCounts) {
  const std::string older = EncodeJournalSlot(SomeSlot(7));
  const std::string newer = EncodeJournalSlot(SomeSlot(8));
  EXPECT_EQ(ParseJournal(older + newer)->number, 8u);
  EXPECT_EQ(ParseJournal(newer + older)->number, 8u);
  for (size_t at = 0; at < newer.size(); at += 7) {
    std::string torn = newer;
    torn[at] = static_cast<char>(torn[at] ^ 1);
    EXPECT_EQ(ParseJournal(older + torn)->number, 7u) << at;
    EXPECT_FALSE(ParseJournal(torn + torn).ok()) << at;
  }
}

TEST(TransferJournal, ARestartFindsWhatWasWritten) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/j", hash(32, '\x44');
  {
    auto journal = Journal::Open(path, hash, 11);
    ASSERT_TRUE(journal.ok()) << journal.status();
    EXPECT_EQ(journal->bitmap(), std::string(2, '\0'));
    ASSERT_TRUE(journal->Write(std::string("\x01\x00", 2)).ok());
    ASSERT_TRUE(journal->Write(std::string("\x05\x04", 2)).ok());
  }
  EXPECT_EQ(Journal::Open(path, hash, 11)->bitmap(), std::string("\x05\x04", 2));
  // Of another checkpoint it means nothing.
  EXPECT_EQ(Journal::Open(path, std::string(32, '\x45'), 11)->bitmap(), std::string(2, '\0'));
  EXPECT_EQ(Journal::Open(path, hash, 11)->bitmap(), std::string(2, '\0'));
  EXPECT_EQ(Journal::Open(path, hash, 100000)->bitmap(), std::string(12500, '\0'));
}

TEST(TransferKey, IsReadByItsOwnerAlone) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/key";
  const auto made = MakeKeyFile(path);
  ASSERT_TRUE(made.ok()) << made.status();
  struct stat info;
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(*ReadKeyFile(path), *made);
  EXPECT_EQ(*ReadOrMakeKeyFile(path), *made);
  EXPECT_FALSE(MakeKeyFile(path).ok());
  ASSERT_EQ(chmod(path.c_str(), 0640), 0);
  EXPECT_THAT(ReadKeyFile(path).status().message(), HasSubstr("others may read it"));
  ASSERT_EQ(chmod(path.c_str(), 0600), 0);
  ASSERT_TRUE(WriteFileAtomically(path, "no key", 0600).ok());
  EXPECT_EQ(ExitCodeOf(ReadKeyFile(path).status()), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(ReadKeyFile(path + "x").status()), ExitCode::kUsage);
}

TEST(TransferKey, OnlyItsOwnViewsAreItsOwn) {
  wan::Key key;
  key.fill(1);
  wan::Key other;
  other.fill(2);
  EXPECT_EQ(ViewOf(key, 5).value, 0x000000058e64f2a8);
  for (uint32_t number : {0u, 1u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
    const ViewId view = ViewOf(key, number);
    EXPECT_GE(view.value, 0);
    EXPECT_TRUE(IsViewOf(key, view));
    EXPECT_FALSE(IsViewOf(other, view));
    EXPECT_FALSE(IsViewOf(key, {view.value ^ 1}));
  }
  EXPECT_FALSE(IsViewOf(key, {-1}));
}

}  // namespace
}  // namespace atl::checkpoint
