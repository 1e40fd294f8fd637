// Shards, the manifest and the corpus over them: what is written comes back, and no damage or lie passes.
#include "data/shard.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include "data/corpus.h"
#include "data/hdf5_handles.h"
#include "parallel/base/blackbox.h"
#include "parallel/base/files.h"
#include "parallel/base/rng.h"
#include "tests/temp_folder.h"

namespace cadre::data {
namespace {

namespace fs = std::filesystem;

struct Document {
  std::vector<int32_t> tokens;
  int domain;
  uint32_t bytes;
  DocHash hash;
};

class ShardTest : public ::testing::Test {
 protected:
  void TearDown() override { base::testing::fail_writes("", 0, 0); }

  static ShardHeader header(int vocab_size) {
    return {std::string(64, 'a'), vocab_size, {"web", "code", "law"}, "train"};
  }

  static std::vector<Document> documents(int count, int vocab_size, uint64_t seed = 1) {
    const base::Philox random(seed);
    std::vector<Document> out;
    for (int d = 0; d < count; ++d) {
      Document document{{}, int(random.bits(d, 1) % 3), uint32_t(random.bits(d, 2) % 1000), {}};
      const size_t length = 2 + random.bits(d, 3) % 300;
      for (size_t i = 0; i < length; ++i)
        document.tokens.push_back(int32_t(random.bits(i, 100 + d) % uint64_t(vocab_size)));
      document.hash[d % 16] = uint8_t(d);
      out.push_back(document);
    }
    return out;
  }

  ShardInfo write(const std::vector<Document>& documents, int vocab_size, const std::string& name = "a.h5") {
    ShardWriter writer(header(vocab_size));
    for (const Document& d : documents) writer.add(d.tokens, d.domain, d.bytes, d.hash);
    return writer.finish(folder_, name);
  }

  Manifest manifest_of(std::vector<ShardInfo> shards, const std::vector<Document>& documents,
                       int vocab_size) {
    Manifest m;
    m.folder = folder_;
    m.tokenizer_file = "tokenizer.model";
    m.tokenizer_kind = "bytes";
    m.tokenizer_sha256 = std::string(64, 'a');
    m.vocab_size = vocab_size;
    m.eos = 1;
    Split split{"train", std::move(shards), {{"web"}, {"code"}, {"law"}}};
    for (const Document& d : documents) {
      DomainInfo& domain = split.domains[size_t(d.domain)];
      ++domain.documents;
      domain.tokens += int64_t(d.tokens.size());
      domain.bytes += d.bytes;
    }
    m.splits.push_back(split);
    return m;
  }

  // The message of the Error(kData) that `action` throws; empty and a failure if it throws none.
  template <class Action>
  static std::string data_error(Action action) {
    try {
      action();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kData) << e.what();
      return e.what();
    }
    ADD_FAILURE() << "no error";
    return "";
  }

  // Changes one element of a dataset, or an integer attribute, through HDF5, so that all checksums inside
  // hold; the manifest entry is then made to agree, so that only the reader's own checks are left.
  ShardInfo forge(ShardInfo info, const char* dataset, hsize_t index, uint64_t value) {
    const std::string path = (folder_ / info.file).string();
    {
      const Hdf5Lock lock;
      const Hdf5Handle file(H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose, path);
      if (H5Aexists(file, dataset) > 0) {
        const Hdf5Handle attribute(H5Aopen(file, dataset, H5P_DEFAULT), H5Aclose, path);
        hdf5_check(H5Awrite(attribute, H5T_NATIVE_UINT64, &value), path);
      } else {
        const Hdf5Handle set(H5Dopen2(file, dataset, H5P_DEFAULT), H5Dclose, path);
        const Hdf5Handle space(H5Dget_space(set), H5Sclose, path);
        hdf5_check(H5Sselect_elements(space, H5S_SELECT_SET, 1, &index), path);
        const Hdf5Handle one(H5Screate(H5S_SCALAR), H5Sclose, path);
        hdf5_check(H5Dwrite(set, H5T_NATIVE_UINT64, one, space, H5P_DEFAULT, &value), path);
      }
    }
    info.bytes = fs::file_size(path);
    info.sha256 = base::sha256_file(path);
    return info;
  }

  const test::TempFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

TEST_F(ShardTest, EveryFieldComesBackForNarrowAndWideTokens) {
  for (const int vocab : {300, 65536, 65537, 200000}) {
    const auto docs = documents(200, vocab);
    const ShardInfo info = write(docs, vocab);
    const Manifest manifest = manifest_of({info}, docs, vocab);
    const ShardReader reader(manifest, info, Verify::kAlways);
    ASSERT_EQ(reader.documents(), 200);
    EXPECT_EQ(reader.header().domains, header(vocab).domains);
    EXPECT_EQ(reader.header().split, "train");
    EXPECT_EQ(reader.header().vocab_size, vocab);
    for (size_t d = 0; d < docs.size(); ++d) {
      const uint64_t begin = reader.offsets()[d], length = reader.offsets()[d + 1] - begin;
      ASSERT_EQ(length, docs[d].tokens.size());
      std::vector<int32_t> tokens(length);
      reader.read_tokens(begin, tokens);
      EXPECT_EQ(tokens, docs[d].tokens);
      EXPECT_EQ(reader.doc_domain()[d], docs[d].domain);
      EXPECT_EQ(reader.doc_bytes()[d], docs[d].bytes);
    }
  }
}

TEST_F(ShardTest, TheSameInputGivesTheSameBytesAtAnotherTime) {
  const auto docs = documents(500, 8192);
  const ShardInfo first = write(docs, 8192, "a.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's time stamps count seconds
  ShardWriter writer(header(8192));
  for (const Document& d : documents(50, 8192, 2)) writer.add(d.tokens, d.domain, d.bytes, d.hash);
  writer.finish(folder_, "other.h5");  // a used writer starts over
  for (const Document& d : docs) writer.add(d.tokens, d.domain, d.bytes, d.hash);
  const ShardInfo second = writer.finish(folder_, "b.h5");
  EXPECT_EQ(first.sha256, second.sha256);
  EXPECT_EQ(first.sha256, base::sha256_file(folder_ / "b.h5"));
  EXPECT_EQ(first.bytes, fs::file_size(folder_ / "a.h5"));
}

TEST_F(ShardTest, AFullDiskIsOneErrorAndLeavesNoFile) {
  const auto docs = documents(100, 8192);
  base::testing::fail_writes("full.h5", 1000, ENOSPC);
  const std::string message = data_error([&] { write(docs, 8192, "full.h5"); });
  EXPECT_NE(message.find("full.h5"), std::string::npos) << message;
  EXPECT_NE(message.find("No space left"), std::string::npos) << message;
  EXPECT_TRUE(fs::is_empty(folder_));
}

TEST_F(ShardTest, DamagedFilesAreRefusedBeforeTheyAreParsed) {
  const auto docs = documents(300, 8192);
  const ShardInfo info = write(docs, 8192);
  const Manifest manifest = manifest_of({info}, docs, 8192);
  const fs::path path = folder_ / info.file;
  const std::string good = base::read_file(path, ExitCode::kData);
  const auto open = [&](Verify verify) { return data_error([&] { ShardReader(manifest, info, verify); }); };
  const auto put = [&](std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
  };

  put(std::string_view(good).substr(0, good.size() - 1));
  for (const Verify verify : {Verify::kAlways, Verify::kSize}) {
    const std::string message = open(verify);
    EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    EXPECT_NE(message.find(std::to_string(info.bytes)), std::string::npos) << message;
  }
  put(good + "x");
  EXPECT_NE(open(Verify::kSize).find("expected"), std::string::npos);
  for (size_t at = 0; at < good.size(); at += good.size() / 23) {
    std::string bad = good;
    bad[at] = char(bad[at] ^ 1);
    put(bad);
    EXPECT_NE(open(Verify::kAlways).find("SHA-256"), std::string::npos);
  }
  fs::remove(path);
  EXPECT_NE(open(Verify::kAlways).find(path.string()), std::string::npos);
}

TEST_F(ShardTest, WithSizesOnlyAFlippedByteNeverChangesWhatIsRead) {
  const auto docs = documents(60, 8192);
  const ShardInfo info = write(docs, 8192);
  const Manifest manifest = manifest_of({info}, docs, 8192);
  const fs::path path = folder_ / info.file;
  const std::string good = base::read_file(path, ExitCode::kData);
  std::vector<int32_t> expected(size_t(info.tokens)), found(expected.size());
  ShardReader(manifest, info, Verify::kSize).read_tokens(0, expected);
  int refused = 0;
  for (size_t at = 0; at < good.size(); at += 61) {
    std::string bad = good;
    bad[at] = char(bad[at] ^ 0x10);
    std::ofstream(path, std::ios::binary).write(bad.data(), std::streamsize(bad.size()));
    try {
      ShardReader(manifest, info, Verify::kSize).read_tokens(0, found);
      EXPECT_EQ(found, expected) << "byte " << at;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::kData) << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 0);
}

TEST_F(ShardTest, LiesInsideAWellFormedFileAreRefused) {
  struct Lie {
    const char* where;
    hsize_t index;
    uint64_t value;
    const char* says;
  };
  const auto docs = documents(50, 8192);
  for (const Lie& lie : {Lie{"doc_offsets", 0, 1, "/doc_offsets goes from 1"},
                         {"doc_offsets", 50, 1u << 30, "/doc_offsets goes"},
                         {"doc_offsets", 7, 1u << 30, "document 6"},
                         {"doc_offsets", 7, 0, "document 6"},
                         {"doc_domain", 3, 3, "document 3 has domain 3"},
                         {"tokens", 5, 8192, "token 8192"},
                         {"format_version", 0, 2, "format version 2, expected 1"},
                         {"vocab_size", 0, 8000, "vocab_size 8000"}}) {
    const ShardInfo info = forge(write(docs, 8192), lie.where, lie.index, lie.value);
    const Manifest manifest = manifest_of({info}, docs, 8192);
    const std::string message = data_error([&] {
      std::vector<int32_t> all(size_t(info.tokens));
      ShardReader(manifest, info, Verify::kAlways).read_tokens(0, all);
    });
    EXPECT_NE(message.find(lie.says), std::string::npos) << lie.where << ": " << message;
    EXPECT_NE(message.find((folder_ / info.file).string()), std::string::npos) << message;
  }
}

TEST_F(ShardTest, AManifestThatDisagreesWithTheShardIsRefused) {
  const auto docs = documents(50, 8192);
  const ShardInfo info = write(docs, 8192);
  const auto open = [&](auto change) {
    Manifest m = manifest_of({info}, docs, 8192);
    change(m);
    return data_error([&] { open_corpus(m, "train", Verify::kAlways); });
  };
  EXPECT_NE(open([](Manifest& m) { m.tokenizer_sha256 = "b"; }).find("tokenizer"), std::string::npos);
  EXPECT_NE(open([](Manifest& m) { m.splits[0].domains[1].name = "x"; }).find("domains"), std::string::npos);
  EXPECT_NE(open([](Manifest& m) { ++m.splits[0].shards[0].documents; }).find("/doc_offsets"),
            std::string::npos);
  EXPECT_NE(open([](Manifest& m) { --m.splits[0].shards[0].tokens; }).find("/tokens"), std::string::npos);
  EXPECT_NE(open([](Manifest& m) { m.splits[0].shards[0].tokens = int64_t(1) << 50; }).find("do not fit"),
            std::string::npos);
  EXPECT_NE(open([](Manifest& m) { ++m.splits[0].domains[0].tokens; }).find("'web'"), std::string::npos);
  EXPECT_NE(open([](Manifest& m) {
              m.splits[0].name = "valid";
              m.splits[0].name = "other";
            }).find("no split 'train'"),
            std::string::npos);
}

TEST_F(ShardTest, ACorpusNumbersDocumentsAcrossShardsInOrder) {
  const auto docs = documents(90, 8192);
  const ShardInfo a = write({docs.begin(), docs.begin() + 40}, 8192, "a.h5");
  const ShardInfo b = write({docs.begin() + 40, docs.end()}, 8192, "b.h5");
  const auto corpus = open_corpus(manifest_of({a, b}, docs, 8192), "train", Verify::kAlways);
  ASSERT_EQ(corpus->num_documents(), 90);
  EXPECT_EQ(corpus->domain_name(2), "law");
  for (int64_t d = 0; d < 90; ++d) {
    const Document& expected = docs[size_t(d)];
    const DocumentInfo info = corpus->document(d);
    ASSERT_EQ(info.length, int64_t(expected.tokens.size()));
    EXPECT_EQ(info.domain, expected.domain);
    EXPECT_EQ(info.bytes, expected.bytes);
    std::vector<int32_t> tail(size_t(info.length - 1));
    corpus->read(d, 1, tail);
    EXPECT_TRUE(std::equal(tail.begin(), tail.end(), expected.tokens.begin() + 1));
    EXPECT_THROW(corpus->read(d, 2, tail), Error);  // one past the document's end
  }
  EXPECT_THROW(corpus->document(90), Error);
}

// Else the launcher takes a rank that verifies for ten minutes for one that hangs.
TEST_F(ShardTest, OpeningACorpusMoves) {
  const auto docs = documents(90, 8192);
  const ShardInfo a = write({docs.begin(), docs.begin() + 40}, 8192, "a.h5");
  const ShardInfo b = write({docs.begin() + 40, docs.end()}, 8192, "b.h5");
  const Manifest manifest = manifest_of({a, b}, docs, 8192);
  const test::TempFolder folder;
  const base::Blackbox box(folder.path() / "box", 0, 1);
  const uint64_t before = base::read_box(folder.path() / "box").value().beats;
  open_corpus(manifest, "train", Verify::kAlways);
  EXPECT_GE(base::read_box(folder.path() / "box").value().beats, before + 2);
}

TEST_F(ShardTest, TheManifestComesBackAndItsLiesAreRefused) {
  const auto docs = documents(50, 8192);
  const ShardInfo info = write(docs, 8192);
  const Manifest m = manifest_of({info}, docs, 8192);
  const fs::path path = folder_ / "manifest.json";
  save_manifest(m, path);
  const Manifest back = load_manifest(path);
  EXPECT_EQ(back.folder, folder_);
  EXPECT_EQ(back.tokenizer_kind, m.tokenizer_kind);
  EXPECT_EQ(back.vocab_size, 8192);
  EXPECT_EQ(back.eos, 1);
  EXPECT_EQ(back.hash, base::sha256_file(path));
  ASSERT_EQ(back.split("train").shards.size(), 1u);
  EXPECT_EQ(back.split("train").shards[0].sha256, info.sha256);
  EXPECT_EQ(back.split("train").domains[1].bytes, m.splits[0].domains[1].bytes);
  EXPECT_NE(data_error([&] { back.split("test"); }).find("it has: train"), std::string::npos);

  const std::string good = base::read_file(path, ExitCode::kData);
  const auto load = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos);
    text.replace(at, from.size(), to);
    std::ofstream(path) << text;
    const std::string message = data_error([&] { load_manifest(path); });
    EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    return message;
  };
  EXPECT_NE(load("\"format_version\": 1", "\"format_version\": 9").find("version 9, expected 1"),
            std::string::npos);
  EXPECT_NE(load("\"vocab_size\": 8192", "\"vocab_size\": -1").find("vocab_size is -1"), std::string::npos);
  EXPECT_NE(load("\"eos\": 1", "\"eos\": 8192").find("eos is 8192"), std::string::npos);
  EXPECT_NE(load("\"kind\": \"bytes\"", "\"kind\": 3").find("expected a string"), std::string::npos);
  EXPECT_NE(load("\"sha256\"", "\"sha\"").find("lacks 'sha256'"), std::string::npos);
  EXPECT_NE(load("\"documents\": ", "\"documents\": 1").find("expected equal sums"), std::string::npos);
  EXPECT_NE(load("\"a.h5\"", "\"../a.h5\"").find("outside"), std::string::npos);
  EXPECT_NE(load("\"vocab_size\": 8192", "\"vocab_size\": 0").find("vocab_size is 0"), std::string::npos);
  const std::string most =
      "{\"name\": \"x\", \"documents\": 4611686018427387904, \"tokens\": 0, \"bytes\": 0},";
  EXPECT_NE(load("\"domains\": [", "\"domains\": [" + most + most + most).find("counts more than"),
            std::string::npos)
      << "sums of counts must not overflow";
  EXPECT_NE(load("{", "{\"kind\": " + std::string(300000, '[') + std::string(300000, ']') + ",")
                .find("nested too deeply"),
            std::string::npos)
      << "what shows a value calls itself once a level";
  EXPECT_NE(load("{", "").find("not a manifest"), std::string::npos);
  EXPECT_NE(data_error([&] { load_manifest(folder_ / "none.json"); }).find("none.json"), std::string::npos);
  EXPECT_NE(data_error([&] { load_manifest(folder_); }).find("is a folder; give the manifest.json"),
            std::string::npos);
  EXPECT_NE(data_error([&] { load_manifest("none.json"); }).find(std::filesystem::current_path().string()),
            std::string::npos);
}

}  // namespace
}  // namespace cadre::data
