// Stopping and going on: bitwise on the same layout, on the same curve on another one, and past damaged
// checkpoints.
#include <sys/resource.h>

#include <cerrno>
#include <fstream>

#include "parallel/base/files.h"
#include "tests/trainer/run_loop.h"
#include "trainer/run/initial_model.h"
#include "trainer/run/stop.h"

namespace cadre::trainer {
namespace {

namespace fs = std::filesystem;
using testing::lines;
using testing::losses;
using testing::run_loop;
using testing::run_steps;
using testing::TempFolder;

std::vector<std::pair<uint64_t, double>> curve(const fs::path& out) {
  std::vector<std::pair<uint64_t, double>> points;
  for (const auto& line : lines(out, "kind", "train")) points.emplace_back(line["step"], line["loss"]);
  return points;
}
std::vector<uint64_t> steps_with_expert_load(const fs::path& out) {
  std::vector<uint64_t> steps;
  for (const auto& line : lines(out, "kind", "train"))
    if (line.contains("expert_load")) steps.push_back(line["step"]);
  return steps;
}
// Hashes of the ranks' files: equal only when every value and every optimizer state has the same bits.
std::map<std::string, std::string> hashes(const fs::path& out, uint64_t step) {
  std::map<std::string, std::string> all;
  for (const auto& [name, info] : read_index(out / "checkpoints" / checkpoint_name(step)).files)
    all[name] = info.sha256;
  return all;
}
void flip_byte(const fs::path& path, std::streamoff at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(at);
  const char byte = char(file.get() ^ 0x10);
  file.seekp(at);
  file.put(byte);
}

struct ResumeCase {
  int ranks;
  std::vector<std::string> overrides;
};
class Resume : public ::testing::TestWithParam<ResumeCase> {};

// As after a kill: the checkpoints past step 5 are lost, and the run goes on from there.
TEST_P(Resume, FromACheckpointIsBitwise) {
  TempFolder folder;
  const fs::path whole = folder.path() / "whole", cut = folder.path() / "cut";
  auto overrides = GetParam().overrides;
  overrides.insert(overrides.end(), {"train.steps=12", "checkpoint.every=5", "eval.every=4"});
  EXPECT_EQ(run_loop(GetParam().ranks, whole, overrides), ExitCode::kOk);
  fs::copy(whole, cut, fs::copy_options::recursive);
  fs::remove_all(cut / "checkpoints" / checkpoint_name(10));
  fs::remove_all(cut / "checkpoints" / checkpoint_name(12));
  std::ofstream(cut / "metrics.jsonl", std::ios::app) << "{\"kind\": \"train\", \"st";  // cut by the crash
  EXPECT_EQ(run_loop(GetParam().ranks, cut, overrides), ExitCode::kOk);
  EXPECT_EQ(hashes(cut, 10), hashes(whole, 10));
  EXPECT_EQ(hashes(cut, 12), hashes(whole, 12));
  EXPECT_EQ(curve(cut), curve(whole)) << "metrics.jsonl must read as one run";
  EXPECT_EQ(lines(cut, "kind", "eval"), lines(whole, "kind", "eval"));
  EXPECT_EQ(steps_with_expert_load(cut), steps_with_expert_load(whole));
}
INSTANTIATE_TEST_SUITE_P(
    Layouts, Resume,
    ::testing::Values(ResumeCase{1, {"checkpoint.async=false"}},
                      ResumeCase{1, {"checkpoint.async=true", "data.prefetch=0"}},
                      ResumeCase{4, {"mesh.ep=2", "train.micro_batch=1"}},
                      ResumeCase{2, {"mesh.ep=2", "mesh.zero=0"}},
                      ResumeCase{4, {"mesh.ep=2", "mesh.zero=2", "train.micro_batch=1"}},
                      ResumeCase{4, {"mesh.ep=2", "mesh.zero=3", "checkpoint.async=true"}},
                      ResumeCase{4, {"mesh.ep=2", "moe.rebalance=4", "train.micro_batch=1"}},
                      ResumeCase{4, {"mesh.ep=2", "moe.shares=width", "mesh.zero=2", "train.micro_batch=1"}},
                      ResumeCase{2, {"optim={name: muon, lr: 0.003}"}},
                      ResumeCase{2, {"data.shuffle=pieces", "checkpoint.async=true"}},
                      ResumeCase{2, {"optim={name: adamw, lr: 0.003, moments: bf16}"}},
                      ResumeCase{2, {"moe.router={name: sigmoid_bias}", "moe.balance={name: none}"}}));

// Moments are rounded by their place in their tensor, so that layouts do not matter; and either kind reads the other.
TEST(Resume, NarrowMomentsGoToOtherLayoutsAndToWideOnes) {
  const std::vector<std::string> narrow = {"optim={name: adamw, lr: 0.003, moments: bf16}"};
  const auto expected = losses(run_steps(1, narrow, 12)), wide = losses(run_steps(1, {}, 12));
  EXPECT_NE(expected, wide);
  testing::expect_same_curve(expected, wide, "bf16 moments", 2e-3);
  TempFolder folder;
  run_steps(1, narrow, 6, folder.path());
  const auto moved =
      losses(run_steps(2, {"optim={name: adamw, lr: 0.003, moments: bf16}", "mesh.ep=2"}, 9, folder.path()));
  const auto widened = losses(run_steps(1, {"optim={name: adamw, lr: 0.003}"}, 12, folder.path()));
  for (int i = 0; i < 3; ++i) {
    EXPECT_NEAR(moved[size_t(i)], expected[size_t(6 + i)], 1e-4 * expected[size_t(6 + i)]);
    EXPECT_NEAR(widened[size_t(i)], expected[size_t(9 + i)], 2e-3 * expected[size_t(9 + i)]);
  }
}

TEST(Stop, OnRequestSavesAndGoesOnBitwise) {
  TempFolder folder;
  const fs::path whole = folder.path() / "whole", cut = folder.path() / "cut";
  EXPECT_EQ(run_loop(2, whole, {"train.steps=6"}), ExitCode::kOk);
  request_stop(true);
  EXPECT_EQ(run_loop(2, cut, {"train.steps=6"}), ExitCode::kStopped);
  EXPECT_EQ(list_checkpoints(cut / "checkpoints"), (std::vector<uint64_t>{1}));
  EXPECT_EQ(run_loop(2, cut, {"train.steps=6"}), ExitCode::kStopped);
  request_stop(false);
  EXPECT_EQ(run_loop(2, cut, {"train.steps=6"}), ExitCode::kOk);
  EXPECT_EQ(hashes(cut, 6), hashes(whole, 6));
  EXPECT_EQ(curve(cut), curve(whole));
}

TEST(Stop, AnEvaluationThatWasDueIsMadeWhenTheRunGoesOn) {
  TempFolder folder;
  const fs::path whole = folder.path() / "whole", cut = folder.path() / "cut";
  const std::vector<std::string> overrides = {"train.steps=4", "eval.every=2"};
  EXPECT_EQ(run_loop(1, whole, overrides), ExitCode::kOk);
  request_stop(true);
  for (int step = 1; step <= 3; ++step) EXPECT_EQ(run_loop(1, cut, overrides), ExitCode::kStopped);
  request_stop(false);
  EXPECT_EQ(run_loop(1, cut, overrides), ExitCode::kOk);
  EXPECT_EQ(lines(cut, "kind", "eval"), lines(whole, "kind", "eval"));
}

TEST(Resharding, AnyLayoutContinuesTheSameCurve) {
  const std::vector<std::string> base = {"moe.balance={name: none}"};
  const auto expected = losses(run_steps(1, base, 20));
  struct Leg {
    int ranks, ep, zero;
    const char* shares = "experts";
  };
  for (const std::vector<Leg>& legs :
       {std::vector<Leg>{{1, 1, 1}, {2, 2, 1}, {4, 4, 1}, {1, 1, 1}},
        std::vector<Leg>{{4, 2, 1}, {2, 1, 0}, {4, 1, 1}, {2, 2, 0}},
        std::vector<Leg>{{2, 2, 1, "width"}, {4, 4, 1, "width"}, {4, 2, 3}, {4, 2, 2, "width"}}}) {
    TempFolder folder;
    std::vector<double> got;
    for (size_t i = 0; i < legs.size(); ++i) {
      auto overrides = base;
      overrides.push_back(fmt::format("mesh.ep={}", legs[i].ep));
      overrides.push_back(fmt::format("mesh.zero={}", legs[i].zero));
      overrides.push_back(fmt::format("moe.shares={}", legs[i].shares));
      const auto part = losses(run_steps(legs[i].ranks, overrides, 5 * (i + 1), folder.path()));
      got.insert(got.end(), part.begin(), part.end());
    }
    testing::expect_same_curve(got, expected, fmt::format("starting on {} ranks", legs[0].ranks));
  }
}

// The same values, whatever layout saved them.
class Reshard : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Shares, Reshard, ::testing::Values("experts", "width"));
TEST_P(Reshard, LoadsEveryElementOfEveryTensorExactly) {
  TempFolder folder;
  run_steps(4, {"mesh.ep=4", fmt::format("moe.shares={}", GetParam())}, 3, folder.path() / "a");
  fs::copy(folder.path() / "a", folder.path() / "b", fs::copy_options::recursive);
  run_steps(1, {}, 3, folder.path() / "b");  // loads and saves again, without a step
  TensorReader a(folder.path() / "a" / checkpoint_name(3)), b(folder.path() / "b" / checkpoint_name(3));
  ASSERT_EQ(a.index().tensors.size(), b.index().tensors.size());
  EXPECT_NE(a.index().files.size(), b.index().files.size());
  for (const auto& [name, info] : a.index().tensors) {
    std::vector<float> x(size_t(info.numel())), y(x.size());
    a.read(name, info.shape, 0, x);
    b.read(name, info.shape, 0, y);
    EXPECT_EQ(x, y) << name;
  }
}

// One element of a tensor in the file of each of many ranks.
TEST(Resharding, ReadsMoreFilesThanAProcessMayHaveOpen) {
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

TEST(Refuse, AnotherModelOrOptimizerInTheSameFolder) {
  TempFolder folder;
  run_loop(1, folder.path(), {"train.steps=1"});
  const std::vector<std::pair<std::string, std::string>> changes = {{"model.dim=32", "model.dim"},
                                                                    {"moe.num_experts=8", "moe.num_experts"},
                                                                    {"optim.name=muon", "optim.name"}};
  for (const auto& [change, named] : changes) {
    try {
      run_loop(1, folder.path(), {"train.steps=2", change});
      ADD_FAILURE() << change << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
      EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
    }
  }
}

TEST(Resume, ACheckpointWhoseRunFileLacksNewerKeysFits) {
  TempFolder folder;
  run_loop(1, folder.path(), {"train.steps=1"});
  const fs::path saved = folder.path() / "checkpoints" / checkpoint_name(1);
  CheckpointIndex index = read_index(saved);
  YAML::Node run = YAML::Load(index.config);
  run["model"]["qk_norm"] = "false";  // the word of older builds
  run["model"]["rope"].remove("scaling");
  index.config = YAML::Dump(run);
  const std::string text = to_json(index);
  std::ofstream(saved / kIndexFile) << text;
  std::ofstream(saved / kIndexHashFile) << base::sha256_text(text);
  EXPECT_EQ(run_loop(1, folder.path(), {"train.steps=2"}), ExitCode::kOk);
  EXPECT_EQ(curve(folder.path()).size(), 2u);
}

// As the run file of an imported model is written otherwise than one by hand.
TEST(Resume, OrderAndStyleOfMapsAreNoOtherModel) {
  TempFolder folder;
  run_loop(1, folder.path(), {"train.steps=1", "moe.router={name: softmax_topk, normalize: true}"});
  const std::string later = "moe.router={normalize: true, name: softmax_topk}";
  EXPECT_EQ(run_loop(1, folder.path(), {"train.steps=2", later}), ExitCode::kOk);
  EXPECT_THROW(
      run_loop(1, folder.path(), {"train.steps=3", "moe.router={normalize: false, name: softmax_topk}"}),
      Error);
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

TEST(MaxMinutes, EndsInTimeWithACompleteSchedule) {
  TempFolder folder;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(
      run_loop(1, folder.path(), {"train.steps=1000000", "mixer={name: natural}", "train.max_minutes=0.03"}),
      ExitCode::kOk);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(20));
  const auto steps = lines(folder.path(), "kind", "train");
  ASSERT_FALSE(steps.empty());
  EXPECT_LT(double(steps.back()["lr"]), 0.5 * 3e-3) << "the decay must have begun before time was over";
  EXPECT_FALSE(list_checkpoints(folder.path() / "checkpoints").empty());
}

}  // namespace
}  // namespace cadre::trainer
