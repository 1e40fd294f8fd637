// Checkpoints as files: damaged ones are passed over, full disks are told, and an index is read with care.
#include <sys/resource.h>

#include <cerrno>
#include <fstream>

#include "parallel/base/files.h"
#include "tests/trainer/run_loop.h"
#include "trainer/run/initial_model.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
using testing::lines;
using testing::run_loop;
using testing::run_steps;
using testing::TempFolder;

void flip_byte(const fs::path& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char byte = char(file.get() ^ 0x10);
  file.seekp(at);
  file.put(byte);
}

class Damage : public ::testing::TestWithParam<std::pair<const char*, std::function<void(const fs::path&)>>> {
};

TEST_P(Damage, UsesThePreviousCheckpointAndNeverStartsOver) {
  TempFolder folder;
  run_steps(2, {"mesh.ep=2"}, 2, folder.path());
  run_steps(2, {"mesh.ep=2"}, 4, folder.path());
  GetParam().second(folder.path() / checkpoint_name(4));
  comm::run_threads(2, [&](comm::World& world) {
    comm::Mesh mesh(world, {});
    EXPECT_EQ(newest_checkpoint(folder.path(), mesh.data()), folder.path() / checkpoint_name(2));
    EXPECT_EQ(find_checkpoint(folder.path(), mesh.data()), folder.path() / checkpoint_name(2));
    EXPECT_EQ(find_checkpoint(folder.path() / checkpoint_name(2), mesh.data()),
              folder.path() / checkpoint_name(2));
    EXPECT_THROW(find_checkpoint(folder.path() / checkpoint_name(4), mesh.data()), Error);
    EXPECT_THROW(find_checkpoint(folder.path() / "none", mesh.data()), Error);
  });
  EXPECT_EQ(find_checkpoint(folder.path()), folder.path() / checkpoint_name(2));
  GetParam().second(folder.path() / checkpoint_name(2));
  comm::run_threads(2, [&](comm::World& world) {
    comm::Mesh mesh(world, {});
    try {
      newest_checkpoint(folder.path(), mesh.data());
      ADD_FAILURE() << "all are damaged";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kCheckpoint) << error.what();
    }
  });
}
INSTANTIATE_TEST_SUITE_P(
    Kinds, Damage,
    ::testing::Values(
        std::pair{"ByteFlipped", [](const fs::path& p) { flip_byte(p / "rank-00001.bin", 1000); }},
        std::pair{"FileTruncated", [](const fs::path& p) { fs::resize_file(p / "rank-00000.bin", 100); }},
        std::pair{"FileMissing", [](const fs::path& p) { fs::remove(p / "rank-00001.bin"); }},
        std::pair{"IndexTruncated", [](const fs::path& p) { fs::resize_file(p / kIndexFile, 200); }},
        std::pair{"IndexByteFlipped", [](const fs::path& p) { flip_byte(p / kIndexFile, 300); }},
        std::pair{"IndexMissing", [](const fs::path& p) { fs::remove(p / kIndexFile); }},
        std::pair{"HashMissing", [](const fs::path& p) { fs::remove(p / kIndexHashFile); }}),
    [](const auto& info) { return info.param.first; });

// Every rank looks by itself, and where the values lie on a slow disk that must not read them all.
TEST(Init, TakesTheModelFromTheIndexAlone) {
  TempFolder folder;
  run_steps(1, {}, 2, folder.path() / "checkpoints");
  flip_byte(folder.path() / "checkpoints" / checkpoint_name(2) / "rank-00000.bin", 1000);
  const std::string text = fmt::format("init: {}\nmoe: {{dispatch: auto}}\n", folder.path().string());
  const base::Section run = with_initial_model(base::parse_run_text(text, "run.yaml", {}));
  EXPECT_EQ(run.node()["model"]["dim"].as<int>(), testing::tiny_run({}).model.dim);
}

TEST(FullDisk, DuringACheckpointIsReportedAndTrainingGoesOn) {
  for (const char* async : {"true", "false"}) {
    TempFolder folder;
    // The disk is full while step 4 is saved: at once, inside a rank's file, and inside the index.
    for (const auto& [part, bytes] : {std::pair{".tmp-step-00000004/rank-00001", 0},
                                      {".tmp-step-00000004/rank-00000", 5000},
                                      {".tmp-step-00000004/index", 100}}) {
      const fs::path out = folder.path() / fmt::format("{}-{}", async, bytes);
      base::testing::fail_writes(part, uint64_t(bytes), ENOSPC);
      const ExitCode code = run_loop(
          2, out, {"train.steps=6", "checkpoint.every=2", fmt::format("checkpoint.async={}", async)});
      base::testing::fail_writes("", 0, 0);
      EXPECT_EQ(code, ExitCode::kOk);
      EXPECT_EQ(list_checkpoints(out / "checkpoints"), (std::vector<uint64_t>{2, 6})) << part;
      int failures = 0;
      for (const auto& line : lines(out, "kind", "event")) failures += line["event"] == "checkpoint_failed";
      EXPECT_EQ(failures, 1) << part;
      for (const auto& entry : fs::directory_iterator(out / "checkpoints")) {
        EXPECT_FALSE(entry.path().filename().string().starts_with(".tmp")) << entry.path();
      }
    }
  }
}

TEST(FullDisk, AtTheLastCheckpointIsAnError) {
  TempFolder folder;
  base::testing::fail_writes(".tmp-step-00000003", 0, ENOSPC);
  try {
    run_loop(2, folder.path(), {"train.steps=3"});
    ADD_FAILURE() << "the result is lost, which must not look like success";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
    EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
  }
  base::testing::fail_writes("", 0, 0);
}

TEST(Keep, OnlyTheNewestRemainAndFilesArePrivate) {
  TempFolder folder;
  run_loop(1, folder.path(), {"train.steps=7", "checkpoint.every=2", "checkpoint.keep=2"});
  EXPECT_EQ(list_checkpoints(folder.path() / "checkpoints"), (std::vector<uint64_t>{6, 7}));
  const fs::path last = folder.path() / "checkpoints" / checkpoint_name(7);
  EXPECT_EQ(fs::status(last).permissions(), fs::perms::owner_all);
  EXPECT_EQ(fs::status(last / "rank-00000.bin").permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
}

// One element of a tensor in the file of each of many ranks.
TEST(Checkpoint, ReadsMoreFilesThanAProcessMayHaveOpen) {
  const TempFolder folder;
  constexpr int kFiles = 300;
  CheckpointIndex index;
  index.state = index.run = nlohmann::json::object();
  TensorInfo& tensor = index.tensors["x"];
  tensor = {kFloat32, {kFiles}, {}};
  for (int r = 0; r < kFiles; ++r) {
    const std::string name = fmt::format("rank-{:05}.bin", r);
    const float value = float(r);
    std::ofstream(folder.path() / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(&value), sizeof value);
    index.files[name] = {sizeof value, ""};
    tensor.pieces.push_back({name, 0, r, 1});
  }
  write_index(index, folder.path());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit few = {rlim_t(TensorReader::kMostOpen) + 64, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  std::vector<float> values(kFiles);
  std::string error;
  try {
    TensorReader reader(folder.path());
    for (int again = 0; again < 2; ++again) reader.read("x", {kFiles}, 0, values);
  } catch (const Error& e) {
    error = e.what();
  }
  setrlimit(RLIMIT_NOFILE, &before);
  EXPECT_EQ(error, "");
  for (int r = 0; r < kFiles; ++r) EXPECT_EQ(values[size_t(r)], float(r));
}

// Every rank's part reaches all of a thousand ranks: it must not repeat what rank 0 knows.
TEST(Checkpoint, ARanksPartHoldsItsFilesAndPiecesAlone) {
  CheckpointIndex whole, other;
  for (CheckpointIndex* index : {&whole, &other}) {
    index->state = {{"feed", std::string(100000, 'x')}};
    index->config = std::string(100000, 'y');
    const std::string file = index == &whole ? "rank-00000.bin" : "rank-00001.bin";
    index->files[file] = {8, "hash"};
    index->tensors["w"] = {kFloat32, {4}, {{file, 0, index == &whole ? 0 : 2, 2}}};
  }
  const std::string part = part_json(other);
  EXPECT_LT(part.size(), 300u);
  merge_part(whole, part);
  EXPECT_EQ(whole.files.size(), 2u);
  ASSERT_EQ(whole.tensors["w"].pieces.size(), 2u);
  EXPECT_EQ(whole.tensors["w"].pieces[1].file, "rank-00001.bin");
  EXPECT_EQ(whole.tensors["w"].pieces[1].begin, 2);
}

TEST(Checkpoint, AnIndexNestedBeyondTheStackIsOneError) {
  TempFolder folder;
  fs::create_directories(folder.path());
  const std::string text =
      R"({"format_version": 1, "step": 1, "files": {}, "tensors": {}, "run": 1, "config": "", "tokenizer": "",
          "manifest_sha256": "", "state": )" +
      std::string(300000, '[') + std::string(300000, ']') + "}";
  std::ofstream(folder.path() / kIndexFile) << text;
  std::ofstream(folder.path() / kIndexHashFile) << base::sha256_text(text);
  try {
    read_index(folder.path());
    ADD_FAILURE() << "was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
    EXPECT_NE(std::string(error.what()).find("nested too deeply"), std::string::npos) << error.what();
  }
}

TEST(Checkpoint, AnIndexWithNumbersThatAreNoCountsIsOneError) {
  TempFolder folder;
  fs::create_directories(folder.path());
  for (const char* bytes :
       {"64888888888888888888888888888888888888888888888", "1e300", "-1", "0.5", "true", "\"4\""}) {
    const std::string text = fmt::format(
        R"({{"format_version": 1, "step": 1, "files": {{"a": {{"bytes": {}, "sha256": ""}}}}, "tensors": {{}},
            "run": 1, "config": "", "tokenizer": "", "manifest_sha256": "", "state": 1}})",
        bytes);
    std::ofstream(folder.path() / kIndexFile) << text;
    std::ofstream(folder.path() / kIndexHashFile) << base::sha256_text(text);
    try {
      read_index(folder.path());
      ADD_FAILURE() << bytes << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kCheckpoint);
      EXPECT_NE(std::string(error.what()).find("expected a whole number from 0"), std::string::npos)
          << error.what();
    }
  }
}

}  // namespace
}  // namespace cadre::trainer
