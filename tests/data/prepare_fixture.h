// Shared by the tests of prepare: temporary folders, made-up corpora, runs on thread ranks.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/prepare/prepare.h"
#include "data/tokenizer.h"
#include "parallel/base/files.h"
#include "parallel/base/rng.h"
#include "tests/temp_folder.h"

namespace cadre::data {

namespace fs = std::filesystem;

class PrepareTest : public testing::Test {
 protected:
  PrepareTest() {
    options_.out = root_ / "out";
    options_.tokenizer = "bytes";
    options_.threads = 1;
    options_.unit_bytes = 20000;
    options_.shard_tokens = 30000;
    options_.valid_fraction = 0.05;
  }
  ~PrepareTest() override { base::testing::fail_writes("", 0, 0); }

  fs::path write(const fs::path& name, const std::string& bytes) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name, std::ios::binary) << bytes;
    return root_ / name;
  }
  static PrepareResult run(const PrepareOptions& options, int ranks = 1) {
    PrepareResult result;
    comm::run_threads(ranks, [&](comm::World& world) {
      PrepareResult own = prepare(options, world);
      if (world.rank() == 0) result = std::move(own);
    });
    return result;
  }
  // The message of the Error that the run ends in; its code must be `code`.
  static std::string failure(const PrepareOptions& options, ExitCode code = ExitCode::kData, int ranks = 1) {
    try {
      run(options, ranks);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "expected an error";
    return "";
  }
  static int64_t bad_inputs(const Report& report) {
    int64_t sum = 0;
    for (size_t i = 0; i < kNumProblems; ++i)
      sum += is_bad_input(static_cast<InputProblem>(i)) ? report.counts[i] : 0;
    return sum;
  }
  static std::map<std::string, std::string> hashes(const fs::path& folder) {
    std::map<std::string, std::string> out;
    for (const auto& entry : fs::recursive_directory_iterator(folder)) {
      if (entry.is_regular_file())
        out[entry.path().lexically_relative(folder).string()] = base::sha256_file(entry.path());
    }
    return out;
  }
  // Every document of a split as text, by domain, in order.
  static std::map<std::string, std::vector<std::string>> texts(const fs::path& out,
                                                               const std::string& split) {
    const Manifest manifest = load_manifest(out / "manifest.json");
    const auto tokenizer = load_tokenizer(out / manifest.tokenizer_file);
    std::map<std::string, std::vector<std::string>> texts;
    if (manifest.split(split).shards.empty()) return texts;
    const auto corpus = open_corpus(manifest, split, Verify::kAlways);
    for (int64_t d = 0; d < corpus->num_documents(); ++d) {
      const DocumentInfo info = corpus->document(d);
      std::vector<int32_t> ids(static_cast<size_t>(info.length));
      corpus->read(d, 0, ids);
      EXPECT_EQ(ids.front(), tokenizer->bos());
      EXPECT_EQ(ids.back(), tokenizer->eos());
      texts[corpus->domain_name(info.domain)].push_back(tokenizer->decode(ids));
      EXPECT_EQ(static_cast<int64_t>(texts[corpus->domain_name(info.domain)].back().size()), info.bytes);
    }
    return texts;
  }
  static std::vector<std::string> all_texts(const fs::path& out, const std::string& split) {
    std::vector<std::string> all;
    for (auto& [_, list] : texts(out, split)) all.insert(all.end(), list.begin(), list.end());
    std::ranges::sort(all);
    return all;
  }

  const test::TempFolder temporary_;
  const fs::path root_ = temporary_.path();
  PrepareOptions options_;
};

inline std::string random_text(uint64_t seed, int words) {
  const base::Philox random(99);
  std::string text;
  for (int i = 0; i < words; ++i) {
    const uint64_t r = random.bits(static_cast<uint64_t>(i), seed);
    std::string word;
    for (uint64_t n = 0; n < 2 + r % 7; ++n) word += static_cast<char>('a' + (r >> (5 + 4 * n)) % 26);
    text += word + (r >> 60 == 0 ? ".\n" : " ");
  }
  return text;
}

inline std::string json_line(const std::string& text, const std::string& domain = "") {
  nlohmann::json line = {{"text", text}};
  if (!domain.empty()) line["domain"] = domain;
  return line.dump() + "\n";
}

inline std::string gzip(const std::string& bytes) {
  z_stream stream = {};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
  std::string out(deflateBound(&stream, bytes.size()) + 32, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline std::string zstd(const std::string& bytes) {
  std::string out(ZSTD_compressBound(bytes.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), bytes.data(), bytes.size(), 3));
  return out;
}

}  // namespace cadre::data
